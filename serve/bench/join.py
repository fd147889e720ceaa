"""Identical streams at once: how many generations they cost, and how far the others are behind.

Every ingress replica is asked on its own port, so that each has its share. A generation is told by
the moment at which its first line was made, which Ollama gives to the nanosecond.
"""

import asyncio
import json
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress

from serve.bench.figures import p50_ms, p99_ms, rounded
from serve.bench.streams import Stream
from serve.bench.target import Target
from serve.errors import ConfigError

_TOKENS = 64
_FOLLOWERS = 8
_WITHIN_S = 120.0

Say = Callable[[str], None]


def join(target: Target, *, streams: int, say: Say) -> dict[str, float | str | None]:
    """The figures by name. Raises `ConfigError` where there is nothing to report."""
    urls = target.ingress_urls or [target.url]
    asyncio.run(_read([_stream(target, urls[0], _body(target.model))]))  # the model, loaded
    say(f"{streams} identical streams at once over {len(urls)} ingress replicas")
    body = _body(target.model)
    found = [_stream(target, urls[number % len(urls)], body) for number in range(streams)]
    asyncio.run(_read(found))
    say("the first client leaves in mid-stream")
    is_ok = asyncio.run(_first_leaves(target, urls))
    behind = _behind([stream for stream in found if stream.is_done])
    return rounded(
        {
            "generations": len({stream.born for stream in found if stream.is_done}),
            "follower_first_chunk_p50_ms": p50_ms(behind),
            "follower_first_chunk_p99_ms": p99_ms(behind),
            "leader_leaves_ok": is_ok,
            "hung": sum(not stream.is_done for stream in found),
            "streams": len(found),
            "ingress_replicas": len(urls),
        }
    )


def _body(model: str) -> bytes:
    prompt = f"{secrets.token_hex(4)}: tell a long story about a river."
    options = {"temperature": 0, "seed": 1, "num_predict": _TOKENS}
    request = {"model": model, "prompt": prompt, "stream": True, "options": options}
    return json.dumps(request).encode()


def _stream(target: Target, url: str, body: bytes) -> Stream:
    return Stream(url, target.headers, body)


async def _read(streams: Sequence[Stream]) -> None:
    """All at once; those that have not ended in time are left as they are."""
    for stream in streams:
        await stream.connect()
    with suppress(TimeoutError):
        async with asyncio.timeout(_WITHIN_S):
            # One that breaks is not done either, and counted as those that hang are.
            await asyncio.gather(*(stream.run() for stream in streams), return_exceptions=True)
    for stream in streams:
        stream.leave()


async def _first_leaves(target: Target, urls: Sequence[str]) -> bool:
    """Do the others get the whole answer that the first one began?"""
    body = _body(target.model)
    leader = _stream(target, urls[0], body)
    followers = [_stream(target, urls[n % len(urls)], body) for n in range(_FOLLOWERS)]
    for stream in (leader, *followers):
        await stream.connect()
    try:
        async with asyncio.timeout(_WITHIN_S), asyncio.TaskGroup() as group:
            leading = group.create_task(leader.run())
            await leader.begun()
            following = [group.create_task(stream.run()) for stream in followers]
            for stream in followers:
                await stream.begun()
            leading.cancel()
            leader.leave()
            await asyncio.wait(following)
    except (TimeoutError, ExceptionGroup):
        return False
    finally:
        for stream in followers:
            stream.leave()
    whole = [stream.lines[-1].get("done") is True for stream in followers]
    return all(whole) and {stream.born for stream in followers} == {leader.born}


def _behind(streams: Sequence[Stream]) -> list[float]:
    """Seconds from the leader's first line to each other one's."""
    if len(streams) < 2:
        raise ConfigError("fewer than two of the streams ended: nothing to report")
    leaders = [stream for stream in streams if "joined" not in stream.verdict] or list(streams)
    leader = min(leaders, key=lambda stream: stream.first_at)
    return [stream.first_at - leader.first_at for stream in streams if stream is not leader]
