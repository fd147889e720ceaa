import pytest
from starlette.types import Message, Receive

from serve.errors import BodyTooLarge
from serve.web.body import ClientGone, read_body, until_gone


def receiving(*messages: Message) -> Receive:
    waiting = list(messages)

    async def receive() -> Message:
        return waiting.pop(0)

    return receive


def request(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


GONE: Message = {"type": "http.disconnect"}


async def test_a_body_in_one_piece_and_in_many() -> None:
    assert await read_body(receiving(request(b"abc")), {}, 3) == b"abc"
    pieces = receiving(request(b"a", more=True), request(b"", more=True), request(b"bc"))
    assert await read_body(pieces, {b"content-length": b"3"}, 3) == b"abc"


@pytest.mark.parametrize(
    ("messages", "headers"),
    [
        ([], {b"content-length": b"4"}),
        ([request(b"abcd")], {}),
        ([request(b"ab", more=True), request(b"cd", more=True)], {}),
    ],
)
async def test_a_body_over_the_limit_is_refused_as_soon_as_it_is_known(
    messages: list[Message], headers: dict[bytes, bytes]
) -> None:
    with pytest.raises(BodyTooLarge) as refused:
        await read_body(receiving(*messages), headers, 3)
    assert refused.value.status == 413
    assert "3 bytes" in str(refused.value)


async def test_leaving_in_the_middle_is_not_an_empty_body() -> None:
    with pytest.raises(ClientGone):
        await read_body(receiving(request(b"ab", more=True), GONE), {}, 99)


async def test_the_watch_ends_with_the_connection() -> None:
    with pytest.raises(ClientGone):
        await until_gone(receiving(request(b"late"), GONE))
