"""`configs/local.yaml` on real Ray, real HAProxy, and the embedded engine."""

import json
from typing import Any

import httpx
import psutil
import pytest

from tests.system.conftest import System, wait_for

pytestmark = pytest.mark.ray

GREEDY = {"temperature": 0, "num_predict": 6}


def generation(prompt: str, **more: Any) -> dict[str, Any]:
    return {"model": "smollm2:135m", "prompt": prompt, "options": GREEDY, **more}


def verdict(response: httpx.Response) -> str:
    return response.headers["x-rayllama-cache"]


def ingress_urls(system: System) -> list[str]:
    """Each ingress replica's own port, behind HAProxy."""
    ports = set()
    for process in system.named("ray::ServeReplica:rayllama:Ingress"):
        for connection in process.net_connections("tcp"):
            address = connection.laddr
            if connection.status == psutil.CONN_LISTEN and 30000 <= address.port <= 31000:
                ports.add(address.port)
    return [f"http://127.0.0.1:{port}" for port in sorted(ports)]


def test_it_says_how_to_use_it(system: System) -> None:
    for word in ("http://127.0.0.1:8000", "smollm2:135m", "curl", "ollama.Client"):
        assert word in system.said


def test_an_operator_sees_what_is_loaded(system: System) -> None:
    (pool,) = httpx.get("http://127.0.0.1:8001/admin/fleet").json()["pools"]
    (replica,) = pool["replicas"]
    assert (pool["pool"], pool["slots"], replica["state"]) == ("default", 4, "running")
    assert "smollm2:135m" in [runner["model"] for runner in replica["loaded"]]


def test_the_second_time_from_memory(system: System, http: httpx.Client) -> None:
    body = generation("The first question of all.", stream=False)
    first = http.post("/api/generate", json=body)
    assert verdict(first) == "miss; reason=cold"
    second = http.post("/api/generate", json=body)
    assert verdict(second).startswith("hit")
    assert second.content == first.content
    assert len(second.headers.get_list("x-request-id")) == 1


def test_every_ingress_answers_what_one_has_learned(system: System) -> None:
    one, other = ingress_urls(system)
    body = generation("Known to both.", stream=False)
    assert verdict(httpx.post(one + "/api/generate", json=body, timeout=60)) == "miss; reason=cold"
    assert verdict(httpx.post(other + "/api/generate", json=body)) == "hit; tier=shared"
    assert verdict(httpx.post(other + "/api/generate", json=body)) == "hit; tier=near"


def test_streams_pass_haproxy_line_by_line(system: System, http: httpx.Client) -> None:
    body = generation("Count to one hundred.", options={"temperature": 0, "num_predict": 100})
    with http.stream("POST", "/api/generate", json=body) as response:
        pieces = list(response.iter_raw())
    assert len(pieces) > 1
    lines = b"".join(pieces).splitlines()
    assert json.loads(lines[-1])["done"] is True


def test_a_request_id_is_kept(system: System, http: httpx.Client) -> None:
    got = http.get("/api/version", headers={"X-Request-ID": "mine"})
    assert got.headers["x-request-id"] == "mine"


LONG = {"model": "smollm2:135m", "prompt": "Go on.", "options": {"num_predict": 4000}}


def test_leaving_frees_the_engine_whatever_the_headers_say(
    system: System, http: httpx.Client
) -> None:
    """Serve would let these run on, twice as many as there are slots."""
    headers = {"x-request-disconnect-disabled": "?1"}
    for _ in range(8):
        with http.stream("POST", "/api/generate", json=LONG, headers=headers) as response:
            next(response.iter_lines())
    answered = http.post("/api/generate", json=generation("Is it free?", stream=False), timeout=30)
    assert answered.status_code == 200


def test_a_timeout_that_serve_takes_from_a_header_is_serves_own_answer(
    system: System, http: httpx.Client
) -> None:
    headers = {"x-request-timeout-seconds": "0.001"}
    body = LONG | {"stream": False}
    assert http.post("/api/generate", json=body, headers=headers).status_code == 408


def test_everything_listens_on_loopback_but_what_serve_cannot_move(system: System) -> None:
    beyond = set()
    for process in system.family():
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and not is_loopback(connection.laddr.ip):
                beyond.add((connection.laddr.port, process.name()))
    ports = {port for port, _ in beyond}
    # Serve's own gRPC between replicas has a free port each and asks for Ray's token.
    grpc = {port for port, name in beyond if name.startswith("ray::ServeRepli")}
    assert ports == grpc
    replicas = system.named("ray::ServeReplica:")
    assert len(grpc) == len(replicas)


def is_loopback(address: str) -> bool:
    return address.removeprefix("::ffff:").startswith("127.") or address == "::1"


def test_metrics_are_exported(system: System, http: httpx.Client) -> None:
    http.post("/api/generate", json=generation("Counted?", stream=False))

    def exported() -> bool:
        for process in system.family():
            for connection in process.net_connections("tcp"):
                if connection.status != psutil.CONN_LISTEN or "Agent" not in process.name():
                    continue
                try:
                    page = httpx.get(f"http://127.0.0.1:{connection.laddr.port}/metrics", timeout=2)
                except httpx.HTTPError:
                    continue
                if "ray_rayllama_cache_requests" in page.text:
                    return True
        return False

    wait_for(exported, 60)
