import random
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.cache import entry as module
from serve.cache.entry import MAX_UNPACKED_BYTES, VECTOR_TYPE, Entry, unpack
from tests.cache.world import CHATTED, DIGEST, EMBEDDED, FINGERPRINT, GENERATED, MODEL, entry

texts = st.text(max_size=20)
entries = st.builds(
    Entry,
    model=texts,
    spelled=texts,
    digest=texts,
    fingerprint=texts,
    status=st.integers(200, 299),
    content_type=texts,
    stored_at=st.floats(allow_nan=False),
    lines=st.lists(st.binary(max_size=300), max_size=8).map(tuple),
)


def test_a_vector_is_left_as_it_is() -> None:
    zeros = bytes(5000)
    assert zeros in entry((zeros,), content_type=VECTOR_TYPE).pack()


@given(entries)
def test_comes_back_as_it_was(one: Entry) -> None:
    assert unpack(one.pack()) == one


def test_a_stream_shrinks_to_a_fraction() -> None:
    stream = entry(GENERATED[:1] * 100 + GENERATED[-1:])
    assert len(stream.pack()) < sum(map(len, stream.lines)) / 8


def test_what_does_not_shrink_is_left_as_it_is() -> None:
    noise = random.Random(1).randbytes(5000)
    packed = entry((noise,)).pack()
    assert noise in packed
    assert unpack(packed) == entry((noise,))


@given(st.binary(max_size=200))
def test_nothing_but_an_entry_is_taken_for_one(data: bytes) -> None:
    with pytest.raises(ValueError, match="entry"):
        unpack(data)


@given(st.data())
def test_a_damaged_entry_is_an_entry_or_refused(data: st.DataObject) -> None:
    packed = bytearray(entry(GENERATED * 3).pack())
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        assert isinstance(unpack(bytes(packed)), Entry)
    except ValueError:
        return


@pytest.mark.parametrize("length", [0, 1, 20, -1])
def test_a_cut_entry_is_refused(length: int) -> None:
    for packed in (entry(GENERATED * 9).pack(), entry((b"short",)).pack()):
        with pytest.raises(ValueError, match="entry"):
            unpack(packed[:length])


def test_what_follows_an_entry_is_refused() -> None:
    for packed in (entry(GENERATED * 9).pack(), entry((b"short",)).pack()):
        with pytest.raises(ValueError, match="entry"):
            unpack(packed + b"x")


def test_a_bomb_is_refused_before_it_grows() -> None:
    bomb = b"\x02" + zlib.compress(bytes(MAX_UNPACKED_BYTES + 1), 1)
    assert len(bomb) < MAX_UNPACKED_BYTES / 100
    with pytest.raises(ValueError, match="larger"):
        unpack(bomb)


def test_an_error_is_no_answer_however_it_got_there() -> None:
    plain = msgspec.msgpack.encode(["m", "m", "d", "f", 500, "t", 1.0, [b"x"]])
    with pytest.raises(ValueError, match="entry"):
        unpack(b"\x01" + plain)


def test_an_entry_beyond_all_bounds_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(ValueError, match="larger"):
        entry(GENERATED * 9).pack()


@pytest.mark.parametrize("lines", [GENERATED, CHATTED])
def test_repeats_the_callers_spelling(lines: tuple[bytes, ...]) -> None:
    other = entry(lines).spelled_as("SmolLM2:135M")
    assert [msgspec.json.decode(line)["model"] for line in other.lines] == ["SmolLM2:135M"] * len(
        lines
    )
    assert other.spelled_as("smollm2:135m") == entry(lines)


def test_the_same_spelling_is_the_same_entry() -> None:
    one = entry(EMBEDDED, spelled="all-minilm")
    assert one.spelled_as("all-minilm") is one


def test_a_spelling_is_escaped_as_ollama_does() -> None:
    assert entry().spelled_as('a<"b').lines[0].startswith(b'{"model":"a\\u003c\\"b","created_at"')


def test_lines_without_a_model_stay() -> None:
    """/api/embeddings answers without one."""
    body = b'{"embedding":[0.1]}'
    assert entry((body,)).spelled_as("other").lines == (body,)


def test_knows_what_it_was_made_from() -> None:
    one = unpack(entry().pack())
    assert (one.model, one.digest, one.fingerprint) == (MODEL, DIGEST, FINGERPRINT)
