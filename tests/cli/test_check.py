"""`rayllama check`: every fault is named with its file, its path and the nearest valid key."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from serve.cli import REFUSED, main
from serve.cli.deployfile import DEFAULT, find, read
from serve.errors import ConfigError


def written(tmp_path: Path, *steps: str | int, value: object, drop: bool = False) -> Path:
    """A copy of local.yaml with one place changed."""
    data: Any = read(DEFAULT)
    place = data
    for step in steps[:-1]:
        place = place[step]
    if drop:
        del place[steps[-1]]
    else:
        place[steps[-1]] = value
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


ARGS = ("applications", 0, "args")


CACHE, ENV = (*ARGS, "cache"), ("controller_options", "runtime_env", "env_vars")
IN_ARGS = "applications.0.args"


@pytest.mark.parametrize(
    ("steps", "value", "said"),
    [
        ((*CACHE, "tll_s"), 5, f"{IN_ARGS}.cache: unknown key 'tll_s'; did you mean 'ttl_s'?"),
        ((*ARGS, "cahce"), {}, f"{IN_ARGS}: unknown key 'cahce'; did you mean 'cache'?"),
        ((*CACHE, "max_bytes"), "12 apples", f"{IN_ARGS}.cache.max_bytes: '12 apples' is not a"),
        ((*ARGS, "inference", "engine"), "olama", f"{IN_ARGS}.inference.engine: "),
        (("http_optoins",), {}, "unknown key 'http_optoins'; did you mean 'http_options'?"),
        (("http_options", "request_timeout_s"), 30, "http_options.request_timeout_s: "),
        (("http_options", "host"), "0.0.0.0", "http_options.host: 0.0.0.0 lets everybody"),
        (("http_options", "port"), 0, "http_options.port: "),
        ((*ENV, "A"), 1, "controller_options.runtime_env.env_vars.A: "),
        (("applications", 0, "import_path"), "other:build", "applications.0.import_path: "),
    ],
)
def test_a_fault_is_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    steps: tuple[str | int, ...],
    value: object,
    said: str,
) -> None:
    path = written(tmp_path, *steps, value=value)
    assert main(["check", str(path)]) == REFUSED
    captured = capsys.readouterr()
    assert f"{path}: {said}" in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_all_faults_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "two.yaml"
    data = read(DEFAULT)
    data["applications"][0]["args"]["cache"]["ttl_s"] = -1
    data["applications"][0]["args"]["ingress"]["replicas"] = 0
    path.write_text(yaml.safe_dump(data))
    assert main(["check", str(path)]) == REFUSED
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_public_is_fine_when_meant(tmp_path: Path) -> None:
    path = written(tmp_path, "http_options", "host", value="0.0.0.0")
    data = read(path)
    data["applications"][0]["args"]["ingress"]["allow_public"] = True
    path.write_text(yaml.safe_dump(data))
    assert main(["check", str(path)]) == 0


def test_servess_default_host_is_public(tmp_path: Path) -> None:
    path = written(tmp_path, "http_options", "host", value=None, drop=True)
    assert main(["check", str(path)]) == REFUSED


def test_slow_mode_is_remarked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, "controller_options", value=None, drop=True)
    assert main(["check", str(path)]) == 0
    assert "high-throughput mode is off" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["a: [", "- just\n- a list\n", "", "\x00"])
def test_what_is_no_config_at_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    assert main(["check", str(path)]) == REFUSED
    assert capsys.readouterr().err.startswith(str(path))


def test_a_config_is_found_by_name() -> None:
    assert find(None) == DEFAULT
    assert find("chatbot") == DEFAULT.with_name("chatbot.yaml")
    assert find("configs/chatbot.yaml").name == "chatbot.yaml"
    with pytest.raises(ConfigError, match="chatbot, gpu, local, ollama"):
        find("nonesuch")


def test_a_key_opens_what_its_line_allows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["key", "--tenant", "ada"]) == 0
    first, _, *lines = capsys.readouterr().out.splitlines()
    settings = yaml.safe_load("\n".join(lines))
    path = written(tmp_path, *ARGS, "auth", value=settings["auth"])
    assert main(["check", str(path)]) == 0
    assert first.split()[-1] not in "\n".join(lines)


def test_the_table_has_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--markdown"]) == 0
    table = capsys.readouterr().out
    assert "| `cache.max_bytes` | `128MiB` |" in table
    assert "| `auth.keys[].sha256` | required |" in table
    assert all(line.replace("\\|", "").count("|") == 4 for line in table.splitlines())


def test_the_table_goes_between_the_marks_and_nowhere_else(tmp_path: Path) -> None:
    marks = "<!-- settings: from `rayllama schema --markdown` -->", "<!-- /settings -->"
    document = tmp_path / "doc.md"
    document.write_text(f"before\n{marks[0]}\nold\n{marks[1]}\nafter\n")
    assert main(["schema", "--into", str(document)]) == 0
    text = document.read_text()
    assert text.startswith(f"before\n{marks[0]}\n\n| key | default | meaning |\n")
    assert text.endswith(f"|\n\n{marks[1]}\nafter\n")
    document.write_text("no marks")
    assert main(["schema", "--into", str(document)]) == REFUSED


def test_no_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == REFUSED
    assert "usage: rayllama" in capsys.readouterr().err
