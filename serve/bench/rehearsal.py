"""Rayllama on a Ray cluster of several raylets that are all on this machine, with declared GPUs.

Owns:         the raylets, Serve on them, and the application; all end with this process.
Does not own: what is asked of it, and when a node dies: whoever started it says so.
Lives:        for one benchmark or test: `python -m serve.bench.rehearsal SETTINGS PORT NODES
              BUILD`, in the environment that Serve is to run in.
Dies:         at the end of its standard input, and with its raylets.

It takes one word a line, and answers with one line of JSON:

    replicas    the inference replicas that run: their names, and the node of each
    pools       the same names, and the deployment of each
    kill NODE   that node's raylet, and so all that runs there, at once
    add         one more node
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any

import psutil
import ray
from ray import serve as ray_serve
from ray._private.state import actors
from ray.cluster_utils import Cluster

from serve.settings import Settings

APP = "rayllama"
Build = Callable[[Settings], ray_serve.Application]
READY = "the rehearsal is ready"


class Rehearsal:
    """The cluster: a head without a GPU, and nodes with one each."""

    def __init__(self, settings: Settings, port: int, nodes: int, build: Build) -> None:
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 4, "num_gpus": 0, "include_dashboard": False},
        )
        self._nodes: dict[str, Any] = {}
        ray.init(address=self._cluster.address, namespace="serve", log_to_driver=False)
        for _ in range(nodes):
            self.add()
        ray_serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        ray_serve.run(build(settings), name=APP, route_prefix="/", blocking=False)

    def add(self) -> str:
        """One more node with a GPU; its id. It offers no CPU, so that no ingress lands on it."""
        node = self._cluster.add_node(num_cpus=0, num_gpus=1)
        self._cluster.wait_for_nodes()
        self._nodes[node.node_id] = node
        return str(node.node_id)

    def kill(self, node_id: str) -> None:
        """As if its machine had lost power: nothing on it is told."""
        node = self._nodes.pop(node_id)
        started = [each.process.pid for group in node.all_processes.values() for each in group]
        workers = [
            child for pid in started for child in psutil.Process(pid).children(recursive=True)
        ]
        for process in workers:  # they would outlive their raylet by seconds
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._cluster.remove_node(node, allow_graceful=False)

    def replicas(self) -> dict[str, str]:
        """Name → node id, of the inference replicas that are alive."""
        return {name: actor["Address"]["NodeID"] for name, _, actor in self._alive()}

    def pools(self) -> dict[str, str]:
        """Name → deployment."""
        return {name: deployment for name, deployment, _ in self._alive()}

    def _alive(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        for actor in actors().values():
            _, _, named = actor["Name"].partition(f"SERVE_REPLICA::{APP}#")
            deployment, _, name = named.partition("#")
            if actor["State"] == "ALIVE" and deployment.startswith("Inference"):
                yield name, deployment, actor

    def end(self) -> None:
        """Serve, the driver, the raylets, and what they leave."""
        family = psutil.Process().children(recursive=True)
        ray_serve.shutdown()
        ray.shutdown()
        self._cluster.shutdown()
        _, alive = psutil.wait_procs(family, timeout=10)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=10)


def _say(answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    """See the module."""
    settings, port, nodes, built = sys.argv[1:]
    module, _, name = built.partition(":")
    build: Build = getattr(import_module(module), name)
    rehearsal = Rehearsal(Settings.model_validate_json(settings), int(port), int(nodes), build)
    try:
        _say(READY)
        for line in sys.stdin:
            command, *rest = line.split()
            said: Any = None
            if command == "replicas":
                said = rehearsal.replicas()
            elif command == "pools":
                said = rehearsal.pools()
            elif command == "kill":
                rehearsal.kill(rest[0])
            elif command == "add":
                said = rehearsal.add()
            _say(said)
    finally:
        rehearsal.end()


if __name__ == "__main__":
    main()
