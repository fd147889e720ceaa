"""The rules of the house that no linter knows."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
MODULES = sorted([*PROJECT.glob("serve/**/*.py"), *PROJECT.glob("deployments/*.py")])
LAYERS = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
][0]["layers"]


def dotted(path: Path) -> str:
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_every_module_is_in_a_layer_and_documented(path: Path) -> None:
    layers = [name.strip() for line in LAYERS for name in line.split("|")]
    name = dotted(path)
    assert name == "serve" or any(name == layer or name.startswith(layer + ".") for layer in layers)
    assert ast.get_docstring(ast.parse(path.read_text()))
    assert not re.search(r"(^|\.)(utils?|helpers?|common|misc|base|managers?)$", name)


@pytest.mark.parametrize("name", ["admin", "cache", "inference", "ingress", "scheduler"])
def test_a_deployment_says_what_it_owns_and_how_it_dies(name: str) -> None:
    text = (PROJECT / "deployments" / f"{name}.py").read_text()
    docstring = ast.get_docstring(ast.parse(text)) or ""
    assert re.findall(r"^(Owns|Does not own|Lives|Dies):", docstring, re.M) == [
        "Owns",
        "Does not own",
        "Lives",
        "Dies",
    ]
    assert len(text.splitlines()) <= 200


def test_routes_are_made_in_one_place() -> None:
    makers = [dotted(path) for path in MODULES if re.search(r"\b(Route|Mount)\(", path.read_text())]
    assert set(makers) <= {"serve.web.routes", "serve.embedded.routes"}


def test_nobody_imports_serve_itself() -> None:
    for path in [*MODULES, *PROJECT.glob("tests/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not any(alias.name.split(".")[0] == "serve" for alias in node.names), path
