"""What Ray Serve writes for its HAProxy: `rendered.py FOLDER PORT INGRESS_PORT`, a process of its
own, since Serve reads its ports from the environment when it is imported."""

import sys
from pathlib import Path

from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions


def render(folder: Path, port: int, ingress_port: int) -> None:
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=port),
        is_head=True,
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "server-state"),
        metrics_socket_path=str(folder / "metrics.sock"),
    )
    api = HAProxyApi(cfg=config, config_file_path=str(folder / "haproxy.cfg"))
    ingress = ServerConfig(name="r1", host="127.0.0.1", port=ingress_port)
    api.backend_configs = {
        "http-default": BackendConfig(
            name="http-default", path_prefix="/", app_name="default", servers=[ingress]
        )
    }
    api._generate_config_file_internal()


if __name__ == "__main__":
    render(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
