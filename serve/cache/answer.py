"""An entry as the answer to a question, and a question's answer as an entry."""

from collections.abc import Sequence

from msgspec import structs

from serve.cache import vectors
from serve.cache.entry import VECTOR_TYPE, Entry, unpack
from serve.cache.outcome import Question
from serve.cache.protocol import Put
from serve.cache.shards import shard_of
from serve.cache.vectors import Vector
from serve.cache.worth import of_vectors

JSON_TYPE = "application/json; charset=utf-8"


def entry_of(
    question: Question, content_type: str, stored_at: float, lines: Sequence[bytes]
) -> Entry:
    """The entry of an answer that was made from what the question is about."""
    return Entry(
        model=question.model,
        spelled=question.spelled,
        digest=question.digest,
        fingerprint=question.fingerprint,
        status=200,
        content_type=content_type,
        stored_at=stored_at,
        lines=tuple(lines),
    )


def put_of(question: Question, packed: bytes, ttl_s: float) -> Put:
    """An answer's way into its shard, which refuses it if there was a purge since it was asked."""
    generations = question.generations
    return Put(
        question.key,
        packed,
        question.model,
        question.digest,
        question.fingerprint,
        ttl_s,
        question.tenant,
        generations[shard_of(question.key, len(generations))],
    )


def answer_of(question: Question, packed: bytes) -> Entry | None:
    """The entry, if it is what its key says: a shard is asked, not trusted.

    A vector is told as the answer to who asks for that input alone. In the caller's spelling.
    """
    try:
        entry = unpack(packed)
        if not _is_of(question, entry):
            return None
        if entry.content_type == VECTOR_TYPE:
            vector = vectors.unpack(entry.lines)
            body = vectors.join(question.spelled, [vector])
            answer = entry_of(question, JSON_TYPE, entry.stored_at, [body])
            return structs.replace(answer, worth=of_vectors([vector]))
    except ValueError:
        return None
    return entry.spelled_as(question.spelled)


def vector_of(question: Question, packed: bytes) -> tuple[Vector, float] | None:
    """The vector of one input, and when it was stored; None if that isn't what it is."""
    try:
        entry = unpack(packed)
        if entry.content_type != VECTOR_TYPE or not _is_of(question, entry):
            return None
        return vectors.unpack(entry.lines), entry.stored_at
    except ValueError:
        return None


def _is_of(question: Question, entry: Entry) -> bool:
    return (entry.digest, entry.fingerprint) == (question.digest, question.fingerprint)
