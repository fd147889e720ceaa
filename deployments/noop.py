"""An application that does nothing, to compare with: the most that Serve gives in this mode.

Owns:         one answer of fixed bytes, and the means to put it beside a running Rayllama.
Does not own: anything of Rayllama's; `rayllama bench hit` deploys it and removes it again.
Lives:        for one benchmark, in as many replicas as the ingress has.
Dies:         with the benchmark, or at the next `serve delete` of its name.
"""

import sys
from typing import Any

import ray
from ray import serve as ray_serve
from starlette.types import Receive, Scope, Send

NAME = "rayllama-bench-noop"
PREFIX = "/rayllama-bench-noop"
READY = "the no-op is deployed\n"


class Noop:
    """Raw ASGI: no routing, no reading of the request, no headers but those that HTTP needs."""

    def __init__(self, size: int) -> None:
        self._body = b"x" * size
        self._headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % size),
        ]

    async def __serve_build_asgi_app__(self) -> "Noop._App":
        """The application of this replica."""
        return self._App(self._headers, self._body)

    class _App:
        def __init__(self, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
            self._headers = headers
            self._body = {"type": "http.response.body", "body": body}

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                while (await receive())["type"] != "lifespan.shutdown":
                    await send({"type": "lifespan.startup.complete"})
                await send({"type": "lifespan.shutdown.complete"})
                return
            # Fresh for each request: Serve's middleware adds its request id to this very list.
            start = {"type": "http.response.start", "status": 200, "headers": self._headers.copy()}
            await send(start)
            await send(self._body)


def deploy(address: str, *, replicas: int, size: int) -> None:
    """Deploy it in the cluster at `address`, answering `size` bytes at `PREFIX`."""
    ray.init(address=address, namespace="serve", log_to_driver=False, logging_level="ERROR")
    options: dict[str, Any] = {"num_cpus": 0}
    application = ray_serve.deployment(
        ray_serve.ingress()(Noop),
        name="Noop",
        num_replicas=replicas,
        ray_actor_options=options,
        max_ongoing_requests=20000,
        logging_config={"encoding": "JSON", "enable_access_log": False, "log_level": "WARNING"},
    ).bind(size)
    ray_serve.run(application, name=NAME, route_prefix=PREFIX)


def remove() -> None:
    """Remove it, and leave the cluster."""
    ray_serve.delete(NAME)
    ray.shutdown()


def main() -> None:
    """In a process of its own (arguments: address, replicas, size): there until stdin ends.

    A benchmark shall not have Ray's threads in the process that measures.
    """
    address, replicas, size = sys.argv[1:]
    deploy(address, replicas=int(replicas), size=int(size))
    try:
        sys.stdout.write(READY)
        sys.stdout.flush()
        sys.stdin.read()
    finally:
        remove()
