"""The table of fields against what the translations do, for every field of every request type."""

from itertools import chain

import pytest

from serve.wire.fields import FIELDS, UNTOLD, fate
from tests.cache.test_key_fields import FIELDS as WALKED
from tests.cache.test_key_fields import verdict

TRANSCRIPTIONS = "/v1/audio/transcriptions"
TOLD = [(whose, route, path) for whose, route, path in WALKED if route in FIELDS]
MEANS = {"translated": "key", "ignored": "same", "rendered": "same", "refused": "refused"}


@pytest.mark.parametrize(("whose", "route", "path"), TOLD)
def test_every_field_has_a_fate_and_it_is_the_true_one(whose: str, route: str, path: str) -> None:
    told = fate(route, path)
    assert told is not None, "the table doesn't have it"
    within = [other for other in WALKED if other[:2] == (whose, route)]
    cases = [
        WALKED[other]
        for other in within
        if other[2] == path or (other[2].startswith(path + ".") and fate(*other[1:]) == told)
    ]
    # A model is in the key by the digest of its content, which here is the same for all.
    expected = "same" if path == "model" else MEANS[told.what]
    assert verdict(route, list(chain.from_iterable(cases))) == expected


def test_there_are_no_others() -> None:
    walked = {(route, path) for _, route, path in WALKED}
    table = {(route, path) for route, fields in FIELDS.items() for path in fields}
    assert {(route, path) for route, path in table - walked if route != TRANSCRIPTIONS} == set()
    assert {path for route, path in table if route == TRANSCRIPTIONS} == {
        *("file", "model", "language", "prompt", "response_format")
    }


def test_a_field_within_another_has_its_fate() -> None:
    chat = "/v1/chat/completions"
    assert fate(chat, "messages.content.text") == fate(chat, "messages")
    assert fate(chat, "messages.audio.id") == ("ignored", UNTOLD)
    assert fate(chat, "made_up") is None
