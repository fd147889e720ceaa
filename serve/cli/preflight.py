"""Before anything starts: leftovers of earlier runs, ports, open files, and what is found here."""

from serve.cli import family, machine, record
from serve.cli.deployfile import DeployFile, remarks
from serve.edge.orphans import orphaned_proxies
from serve.errors import ConfigError
from serve.ollama.reaper import reap_stale

_PATIENCE_S = 3.0


def clear_run(port: int) -> list[str]:
    """End what a run on this port that is gone left behind. Returns what was done, a line each.

    Raises `ConfigError` if that run is alive.
    """
    last = record.Record.read(port)
    if last is None:
        return []
    if owner := last.owner():
        raise ConfigError(
            f"Rayllama already runs at {last.url} (pid {owner.pid}); `rayllama down` stops it"
        )
    count = family.end(family.marked(last.run), patience_s=_PATIENCE_S)
    record.forget(port)
    return [f"ended {count} processes that an earlier run left behind"] if count else []


def clear_orphans() -> list[str]:
    """End what a dead Serve or a dead replica left behind. Returns what was done, a line each."""
    done = []
    if count := family.end(orphaned_proxies(), patience_s=_PATIENCE_S):
        done.append(f"ended {count} HAProxy processes that a dead Serve left behind")
    if count := reap_stale():
        done.append(f"ended {count} engine processes whose replica is gone")
    return done


def check_ports(file: DeployFile, *, haproxy: bool) -> None:
    """Raise `ConfigError` naming every port that is taken, and by whom."""
    taken = [
        f"port {port.number}, {port.purpose}, is taken by {who}"
        for port in machine.ports(file, haproxy=haproxy)
        if (who := machine.holder(port))
    ]
    if taken:
        raise ConfigError("\n".join(taken))


def open_files(file: DeployFile) -> str:
    """Raise the limit as far as it goes; say what it allows."""
    limit = machine.raise_open_files()
    allowed = int(file.env.get("RAY_SERVE_HAPROXY_MAXCONN", 4096))
    if limit.requests >= allowed:
        return f"open files: {limit.hard} at most, enough for the config's {allowed} connections"
    return (
        f"open files: {limit.hard} at most, enough for about {limit.requests} requests at once, "
        f"not for the config's {allowed}; raise the hard limit (`ulimit -Hn`) for more"
    )


def findings(file: DeployFile) -> list[str]:
    """What is worth knowing about the config and this machine."""
    found = [f"note: {remark}" for remark in remarks(file)]
    admin = file.settings.admin
    who = admin.port and machine.holder(machine.Port(admin.port, "", admin.host))
    if who:
        found.append(
            f"note: admin.port: {admin.port} is taken by {who}, so `rayllama cache` will not reach "
            "this Rayllama until it is free; another port, or 0 for none, avoids this"
        )
    ollama = machine.find_ollama()
    if ollama and all(each.engine == "embedded" for each in file.settings.shapes.values()):
        found.append(f"Ollama found: {ollama}")
        found.append("  to serve its models: make run CONFIG=configs/ollama.yaml")
    return found
