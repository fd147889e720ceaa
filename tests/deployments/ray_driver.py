"""A Ray cluster with two declared GPUs and replicas on it: `ray_driver.py SETTINGS_JSON`.

A process of its own, since a driver does not survive its raylet. Takes one word a line on standard
input, answers with one JSON line each:

    deploy N    N replicas wanted; answers when as many run as there are GPUs for
    stream      one answer through the handle
    leave       begin an endless answer, and cancel it
    delete      the application
"""

import asyncio
import json
import sys
from typing import Any

import ray
from ray import serve as ray_serve
from ray.serve.schema import ApplicationStatus

from deployments.inference import Inference
from serve.ports import Tail
from serve.settings import Settings
from tests.ollama.engines import generate

APP, GPUS = "rayllama", 2


def replica_states() -> dict[str, int]:
    app = ray_serve.status().applications[APP]
    if app.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
        raise SystemExit(app.message)
    deployments = app.deployments
    return dict(deployments["inference"].replica_states) if "inference" in deployments else {}


async def deploy(settings: Settings, wanted: int) -> dict[str, Any]:
    replica = ray_serve.deployment(
        Inference,
        name="inference",
        num_replicas=wanted,
        ray_actor_options={"num_gpus": 1, "num_cpus": 0},
        graceful_shutdown_wait_loop_s=0.1,
    )
    target = ray_serve.RunTarget(replica.bind(settings), name=APP, route_prefix=None)
    ray_serve.run_many([target], wait_for_applications_running=False)
    while True:
        states = replica_states()
        running, starting = states.get("RUNNING", 0), states.get("STARTING", 0)
        if running == min(wanted, GPUS) and running + starting == wanted:
            return {"states": states, "gpus_left": ray.available_resources().get("GPU", 0)}
        await asyncio.sleep(0.1)


async def stream() -> dict[str, Any]:
    handle = ray_serve.get_app_handle(APP).options(stream=True)
    frames = [type(frame).__name__ async for frame in handle.stream.remote(generate("torn"))]
    return {"first": frames[0], "last": frames[-1], "is_tail": frames[-1] == Tail.__name__}


async def leave() -> dict[str, Any]:
    handle = ray_serve.get_app_handle(APP).options(stream=True)
    frames = handle.stream.remote(generate("endless"))
    await anext(frames)
    await anext(frames)
    frames.cancel()
    return {}


async def main() -> None:
    settings = Settings.model_validate_json(sys.argv[1])
    ray.init("local", num_cpus=2, num_gpus=GPUS, include_dashboard=False, log_to_driver=False)
    ray_serve.start(proxy_location="Disabled")
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command, *arguments = line.split()
        if command == "deploy":
            said = await deploy(settings, int(arguments[0]))
        elif command == "delete":
            await loop.run_in_executor(None, ray_serve.delete, APP)
            said = {}
        else:
            said = await {"stream": stream, "leave": leave}[command]()
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
