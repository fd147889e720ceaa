"""Which content a model's name stands for now, and how everybody learns of a change in time.

Each inference replica reads its engine's list of models every `catalogue_poll_s` and reports it to
every shard. In the shard, `Registry` makes one view of the reports. In each ingress, `Catalogue`
holds the view under a lease. The rules that make "no answer of the old digest" true:

1. A name has a digest only while every live replica that lists it says the same one. A replica is
   live while its last report is younger than three polls.
2. A changed view is pushed to every subscriber at once.
3. A lease is asked for, not given: it runs from the moment at which the ingress *asked* for it, by
   the ingress's own clock. The shard's answer was true at some moment after that; so however long
   the answer travelled, and whatever the two clocks say, an ingress that hears no more from the
   shard stops within `lease_s` of any change that it has not been told of.
4. Without a live lease nothing is served from the near cache, looked up in a shard, or stored.

5. While the view says that the cache is paused, it vouches for nothing: a pause is a change of the
   view like any other, so it is pushed, acknowledged, and told to who comes later.

Who changes a tag and must know when nobody serves what it was before waits for its acknowledgement
(`serve.cache.taken`).

So a tag changed behind Rayllama's back is seen everywhere within `catalogue_poll_s + lease_s`, and
usually within a poll.

Both classes are plain state: the time is handed in, in seconds of any monotonic clock.
"""

from collections.abc import Iterable, Mapping

from msgspec import structs

from serve.ports import CatalogueView, Model, Report

EMPTY = CatalogueView(epoch=0, fingerprint="", engine_version="", models={})

POLLS_A_REPORT_LIVES = 3


class Registry:
    """In a shard: the replicas' reports, and the one view that they agree on."""

    def __init__(self, report_lease_s: float) -> None:
        self._lease_s = report_lease_s
        self._reports: dict[str, tuple[Report, float]] = {}
        self.view = EMPTY

    def report(self, report: Report, now: float) -> CatalogueView | None:
        """Take in a report. Returns the new view if it changed what the replicas agree on."""
        known = self._reports.get(report.replica_id)
        self._reports[report.replica_id] = (report, now + self._lease_s)
        if known is not None and known[0] == report:
            return None
        return self._agree()

    def expire(self, now: float) -> CatalogueView | None:
        """Forget replicas that fell silent. Returns the new view if that changed it."""
        silent = [name for name, (_, until) in self._reports.items() if until <= now]
        for name in silent:
            del self._reports[name]
        return self._agree() if silent else None

    def pause(self, *, is_paused: bool) -> None:
        """Vouch for nothing until told otherwise; or do so again."""
        if is_paused != self.view.is_paused:
            epoch = self.view.epoch + 1
            self.view = structs.replace(self.view, epoch=epoch, is_paused=is_paused)

    def vouches(self, model: str, digest: str, fingerprint: str) -> bool:
        """Is this what the replicas agree on now?"""
        return is_current(self.view, model, digest, fingerprint)

    def names_of(self, model: str) -> frozenset[str]:
        """A model's name, and all others that stand for the same content now; of "", none."""
        listed = self.view.models
        if model not in listed:
            return frozenset([model] if model else [])
        digest = listed[model].digest
        return frozenset(name for name, each in listed.items() if each.digest == digest)

    @property
    def replicas(self) -> int:
        """How many replicas are live."""
        return len(self._reports)

    def _agree(self) -> CatalogueView | None:
        # Sorted, so that which replica's row is shown doesn't depend on who reported first.
        reports = [report for _, (report, _) in sorted(self._reports.items())]
        fingerprints = {report.fingerprint for report in reports}
        offsets: set[int | None] = {report.utc_offset_s for report in reports} or {
            self.view.utc_offset_s
        }
        view = CatalogueView(
            epoch=self.view.epoch,
            fingerprint=fingerprints.pop() if len(fingerprints) == 1 else "",
            engine_version=min((report.engine_version for report in reports), default=""),
            models=_agreed(report.models for report in reports),
            utc_offset_s=offsets.pop() if len(offsets) == 1 else None,
            is_paused=self.view.is_paused,
            fingerprints={} if len({each.fingerprint for each in reports}) < 2 else _runs(reports),
        )
        if view == self.view:
            return None
        self.view = structs.replace(view, epoch=view.epoch + 1)
        return self.view


def _runs(reports: Iterable[Report]) -> dict[str, str]:
    """The fingerprint of each model's replicas, where those that list it have the same."""
    runs: dict[str, set[str]] = {}
    for report in reports:
        for name in report.models:
            runs.setdefault(name, set()).add(report.fingerprint)
    return {name: prints.pop() for name, prints in runs.items() if len(prints) == 1}


def _agreed(listings: Iterable[Mapping[str, Model]]) -> dict[str, Model]:
    agreed: dict[str, Model] = {}
    disputed: set[str] = set()
    for listing in listings:
        for name, model in listing.items():
            known = agreed.setdefault(name, model)
            if known.digest != model.digest or not model.digest:
                disputed.add(name)
            elif known.is_dated and not model.is_dated:  # who knows better speaks for all
                agreed[name] = structs.replace(known, is_dated=False)
    return {name: model for name, model in agreed.items() if name not in disputed}


class Catalogue:
    """In an ingress: the last view, and until when it may be believed."""

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._until = float("-inf")
        self.view = EMPTY

    def adopt(self, view: CatalogueView) -> None:
        """Take a view that was pushed: it is newer, but it renews no lease."""
        self.view = view

    def renew(self, epoch: int, asked_at: float) -> None:
        """The shard said, some time after `asked_at`, that this is still its epoch."""
        if epoch == self.view.epoch:
            self._until = max(self._until, asked_at + self._lease_s)

    def forfeit(self) -> None:
        """Believe nothing until the lease is renewed."""
        self._until = float("-inf")

    def is_live(self, now: float) -> bool:
        """May the view be believed?"""
        return now < self._until

    def left_s(self, now: float) -> float:
        """For how long the view may be believed if nothing more is heard; 0: not at all."""
        return max(0.0, self._until - now)

    def digest(self, model: str, now: float) -> str:
        """The digest that a canonical name stands for; "" if unknown, disputed, or out of lease."""
        known = self.view.models.get(model) if self.is_live(now) else None
        return known.digest if known else ""

    def vouches(self, model: str, digest: str, fingerprint: str, now: float) -> bool:
        """Is an answer that was made from these still what the model would be asked for now?"""
        return now < self._until and is_current(self.view, model, digest, fingerprint)


def is_current(view: CatalogueView, model: str, digest: str, fingerprint: str) -> bool:
    """Does the view map the name to this digest, on engines with this fingerprint?"""
    known = view.models.get(model)
    return (
        known is not None
        and known.digest == digest
        and view.runs(model) == fingerprint
        and fingerprint != ""
        and not view.is_paused
    )
