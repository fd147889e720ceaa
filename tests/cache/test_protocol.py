import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.cache.flights import DONE, Ending
from serve.cache.protocol import (
    MALFORMED,
    Answer,
    Ask,
    Closed,
    Confirm,
    Confirmed,
    Fill,
    Finish,
    Follow,
    Frames,
    Get,
    Hello,
    Hit,
    Join,
    Lead,
    Leave,
    Miss,
    Pieces,
    Purge,
    Purged,
    Question,
    Renew,
    Renewed,
    Reported,
    Stats,
    Subscribe,
    Taken,
    Viewed,
    Welcome,
    decode_answer,
    decode_question,
    frame,
)
from serve.ports import CatalogueView, Model
from tests.cache.world import KEY, put, report

QUESTIONS: list[Question] = [
    Hello(1, b"secret"),
    Get(1, KEY),
    put(),
    Reported(report()),
    Subscribe(2),
    Renew(3),
    Ask(4),
    Purge(5, "m"),
    Taken(7),
    Confirm(8),
    Join(6, KEY, may_read=True),
    Fill(6, b"piece"),
    Leave(6),
    Finish(6, Ending("overloaded", "busy")),
]
ANSWERS: list[Answer] = [
    Welcome(1),
    Hit(1, b"packed"),
    Miss(1),
    Viewed(0, CatalogueView(1, "f", "v", {"m": Model("d", b"{}")}), 7),
    Renewed(3, 1),
    Stats(4, 1, 2, 3, 4, 5, 6, {"digest": 1}, {"size": 1}, 1, 1),
    Purged(5, 1),
    Lead(6, 10.0),
    Follow(6),
    Pieces(6, [b"one", b"two"]),
    Closed(6, DONE),
    Confirmed(8),
]


def test_every_message_comes_across() -> None:
    assert [decode_question(frame(question)[4:]) for question in QUESTIONS] == QUESTIONS
    assert [decode_answer(frame(answer)[4:]) for answer in ANSWERS] == ANSWERS


@given(st.data())
def test_frames_come_out_however_they_are_cut(data: st.DataObject) -> None:
    sent = data.draw(st.lists(st.sampled_from(QUESTIONS), max_size=12))
    stream = b"".join(map(frame, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=30)))
    frames = Frames(1 << 20)
    got: list[Question] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got.extend(map(decode_question, frames.feed(stream[start:end])))
    assert got == sent


@given(st.lists(st.binary(max_size=40)))
def test_arbitrary_bytes_are_frames_or_refused(chunks: list[bytes]) -> None:
    frames = Frames(64)
    try:
        for chunk in chunks:
            for whole in frames.feed(chunk):
                assert len(whole) <= 64
    except ValueError:
        return


@given(st.binary(max_size=200))
def test_arbitrary_frames_are_messages_or_refused(data: bytes) -> None:
    for decode in (decode_question, decode_answer):
        try:
            decode(data)
        except MALFORMED:
            continue


@given(st.sampled_from(QUESTIONS), st.data())
def test_damaged_frames_are_messages_or_refused(question: Question, data: st.DataObject) -> None:
    packed = bytearray(frame(question)[4:])
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_question(packed)
    except MALFORMED:
        return


def test_a_frame_without_end_is_refused() -> None:
    with pytest.raises(MALFORMED):
        decode_question(b"\x92\x03\x81\xa1a" + b"\x91" * 100_000)


def test_a_claim_of_length_is_refused_before_its_bytes_come() -> None:
    frames = Frames(1000)
    assert frames.feed(b"\0\0") == []
    with pytest.raises(ValueError, match="longer"):
        frames.feed(b"\x03\xe9")


def test_a_long_frame_in_small_pieces_is_put_together_once() -> None:
    frames = Frames(1 << 20)
    stream = frame(Hit(1, bytes(500_000)))
    got = [
        whole for at in range(0, len(stream), 1000) for whole in frames.feed(stream[at : at + 1000])
    ]
    assert decode_answer(got[0]) == Hit(1, bytes(500_000))


@pytest.mark.parametrize("bad", [Get(0, KEY), Get(1, b"short"), Get(1, b"l" * 33), put(ttl_s=0.0)])
def test_values_out_of_bounds_are_refused(bad: Question) -> None:
    with pytest.raises(MALFORMED):
        decode_question(frame(bad)[4:])
