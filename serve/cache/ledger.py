"""What requests came to, by model and tenant: hits by tier, misses and bypasses by reason, and what
those that memory answered saved.

Every ingress counts into one of these, and about once a second tells the shard that is the
authority what has come since (`serve.cache.bookkeeper`); the shard adds up what it hears in another
one, from its start on. An ingress that is killed takes at most a second's counts with it, a shard
all that it was told.

Names of models come from clients, so only those that the catalogue lists get a row of their own,
and no more than `MAX_ROWS` rows are kept; all else is counted under `OTHER`, which no name is.
"""

from collections.abc import Callable, Iterable

from msgspec import structs

from serve.cache.protocol import MAX_ROWS, Row
from serve.wire.names import short

OTHER = "(other)"
_MOST = 1 << 62  # what `protocol.Count` holds


class _Account:
    __slots__ = ("answers", "gpu_ns", "tokens")

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], int] = {}
        self.tokens = self.gpu_ns = 0


class Ledger:
    """Rows by model and tenant. `lists`: may this model have a row?"""

    def __init__(self, lists: Callable[[str], bool] = lambda _model: True) -> None:
        self._lists = lists
        self._accounts: dict[tuple[str, str], _Account] = {}

    def add(
        self, verdict: tuple[str, str], model: str, tenant: str, tokens: int, gpu_ns: int
    ) -> None:
        """One request. `verdict`: kind, and tier or reason. On the path of every hit."""
        account = self._accounts.get((model, tenant))
        if account is None:
            account = self._account(model if self._lists(model) else OTHER, tenant or OTHER)
        answers = account.answers
        answers[verdict] = answers.get(verdict, 0) + 1
        account.tokens += tokens
        account.gpu_ns += gpu_ns

    def add_rows(self, rows: Iterable[Row]) -> None:
        """What another ledger counted."""
        for row in rows:
            account = self._account(row.model, row.tenant)
            for kind, counts in row.answers.items():
                for detail, count in counts.items():
                    verdict = kind, detail
                    account.answers[verdict] = account.answers.get(verdict, 0) + count
            account.tokens += row.tokens
            account.gpu_ns += row.gpu_ns

    def rows(self) -> list[Row]:
        """What was counted."""
        return [_row(*names, account) for names, account in self._accounts.items()]

    def drain(self) -> list[Row]:
        """What was counted since the last call."""
        rows = self.rows()
        self._accounts = {}
        return rows

    def _account(self, model: str, tenant: str) -> _Account:
        names = model, tenant
        if names not in self._accounts and len(self._accounts) >= MAX_ROWS:
            names = OTHER, OTHER
        return self._accounts.setdefault(names, _Account())


def summed(rows: Iterable[Row]) -> Row:
    """All rows as one, of no model and tenant."""
    ledger = Ledger()
    ledger.add_rows(structs.replace(row, model="", tenant="") for row in rows)
    return next(iter(ledger.rows()), Row("", "", {}))


def by(name: Callable[[Row], str], rows: Iterable[Row]) -> dict[str, Row]:
    """Rows added up by what `name` makes of them, in that order."""
    named: dict[str, list[Row]] = {}
    for row in rows:
        named.setdefault(name(row), []).append(row)
    return {one: summed(named[one]) for one in sorted(named)}


def shown(model: str) -> str:
    """A row's model as `/api/tags` shows it."""
    return model if model == OTHER else short(model)


def _row(model: str, tenant: str, account: _Account) -> Row:
    answers: dict[str, dict[str, int]] = {}
    for (kind, detail), count in account.answers.items():
        answers.setdefault(kind, {})[detail] = min(count, _MOST)
    return Row(model, tenant, answers, min(account.tokens, _MOST), min(account.gpu_ns, _MOST))
