"""Models that are created, copied and deleted on a running engine."""

import hashlib
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.embedded.engines import EngineProcess, is_alive, running, until
from tests.embedded.weights import smollm2

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Generator[EngineProcess, None, None]:
    folder = tmp_path_factory.mktemp("managing")
    with running(folder, config={"store": str(folder / "store")}) as engine:
        yield engine


def _delete(engine: EngineProcess, name: str) -> httpx.Response:
    url, body = engine.url + "/api/delete", {"model": name}
    return httpx.request("DELETE", url, json=body, trust_env=False, timeout=60)


def _digests(engine: EngineProcess) -> dict[str, str]:
    rows: list[dict[str, Any]] = engine.get("/api/tags").json()["models"]
    return {row["name"]: row["digest"] for row in rows}


def _created(engine: EngineProcess, **body: Any) -> list[str]:
    lines = engine.post("/api/create", body).text.splitlines()
    return [json.loads(line).get("status", line) for line in lines]


def _prompt(engine: EngineProcess, route: str, **body: Any) -> str:
    answer = engine.post(route, body | {"_debug_render_only": True}).json()
    return str(answer["_debug_info"]["rendered_template"])


def test_a_copy_answers_as_its_source_until_it_is_deleted(mine: EngineProcess) -> None:
    assert mine.post("/api/copy", {"source": "smollm2:135m", "destination": "c"}).text == ""
    digests = _digests(mine)
    assert digests["c:latest"] == digests["smollm2:135m"]
    mine.post("/api/generate", {"model": "c"})
    runner = mine.runner("c:")["pid"]
    assert _delete(mine, "c").status_code == 200
    until(lambda: not is_alive(runner))
    assert "c:latest" not in _digests(mine)
    assert mine.post("/api/generate", {"model": "c"}).status_code == 404
    assert _delete(mine, "c").json() == {"error": "model 'c' not found"}


def test_a_model_copied_to_itself_is_left_alone(mine: EngineProcess) -> None:
    same = {"source": "nobody", "destination": "library/NOBODY:latest"}
    assert mine.post("/api/copy", same).status_code == 200
    assert "nobody:latest" not in _digests(mine)


def test_a_name_is_needed_to_delete(mine: EngineProcess) -> None:
    assert _delete(mine, "").json() == {"error": "model is required"}
    assert _delete(mine, "a b").json() == {"error": 'name "a b" is invalid'}


def test_the_cloud_has_no_models_here(mine: EngineProcess) -> None:
    for route in ("generate", "chat", "embed", "embeddings"):
        refused = mine.post(f"/api/{route}", {"model": "smollm2:135m:cloud"})
        said = {"error": "ollama cloud is disabled: remote model is unavailable"}
        assert (refused.status_code, refused.json()) == (403, said)
    refused = mine.post("/api/show", {"model": "m:7b-cloud"})
    said = {"error": "ollama cloud is disabled: remote model details are unavailable"}
    assert (refused.status_code, refused.json()) == (403, said)


def test_what_comes_with_the_engine_is_not_deleted(mine: EngineProcess) -> None:
    refused = _delete(mine, "smollm2:135m")
    assert refused.status_code == 400
    assert "can't be deleted" in refused.json()["error"]


def test_system_parameters_and_messages_act(mine: EngineProcess) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    body = {"from": "smollm2:135m", "system": "You are Mario.", "messages": messages}
    more = {"license": ["MIT", "BSD"], "parameters": {"stop": ["END"], "num_predict": 2}}
    assert _created(mine, model="mario", **body, **more)[-2:] == ["writing manifest", "success"]
    _created(mine, model="luigi", **{"from": "mario", "system": "You are Luigi."})
    for name in ("mario", "luigi"):
        said = [f"You are {name.title()}.", "hi", "ho", "Who?"]
        chat = _prompt(
            mine, "/api/chat", model=name, messages=[{"role": "user", "content": "Who?"}]
        )
        generate = _prompt(mine, "/api/generate", model=name, prompt="Who?")
        for prompt in (chat, generate):
            assert [part.split("\n", 1)[1] for part in prompt.split("<|im_start|>")[1:-1]] == [
                f"{text}<|im_end|>\n" for text in said
            ]
    shown = mine.post("/api/show", {"model": "mario"}).json()
    assert shown["license"] == "MIT\nBSD"
    assert shown["messages"] == messages
    assert shown["details"]["parent_model"] == "smollm2:135m"
    assert 'stop                           "END"' in shown["parameters"]
    answer = mine.post("/api/generate", {"model": "mario", "prompt": "Count", "stream": False})
    assert answer.json()["eval_count"] <= 2
    digests = _digests(mine)
    assert len({digests[f"{name}:latest"] for name in ("mario", "luigi")}) == 2


def test_a_model_is_created_from_an_uploaded_file(mine: EngineProcess) -> None:
    data = smollm2().read_bytes()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    url = f"{mine.url}/api/blobs/{digest}"
    stored = [httpx.post(url, content=data, trust_env=False, timeout=60) for _ in range(2)]
    assert stored[0].status_code in (200, 201)
    assert stored[1].status_code == 200
    assert httpx.head(url, trust_env=False).status_code == 200
    assert _created(mine, model="up", files={"a.gguf": digest})[-1] == "success"
    answer = mine.post("/api/generate", {"model": "up", "prompt": "Hi", "options": {"seed": 1}})
    assert json.loads(answer.text.splitlines()[-1])["done"]


@pytest.mark.parametrize("digest", ["sha256:zz", "sha256:..", "x", "sha256-" + "g" * 64])
def test_what_is_no_digest_is_refused(mine: EngineProcess, digest: str) -> None:
    url = f"{mine.url}/api/blobs/{digest}"
    assert httpx.head(url, trust_env=False).status_code == 400
    assert httpx.post(url, content=b"x", trust_env=False).json() == {
        "error": "invalid digest format"
    }


def test_a_body_of_another_digest_leaves_nothing(mine: EngineProcess, tmp_path: Path) -> None:
    url = f"{mine.url}/api/blobs/sha256:{'1' * 64}"
    refused = httpx.post(url, content=b"other", trust_env=False)
    assert refused.status_code == 400
    assert "digest mismatch, expected" in refused.json()["error"]
    assert httpx.head(url, trust_env=False).status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"model": "a b", "from": "smollm2"}, 400, "invalid model name"),
        ({"model": "../../x/y:z", "from": "smollm2"}, 400, "invalid model name"),
        ({"model": "x"}, 400, "neither 'from' or 'files' was specified"),
        ({"model": "x", "from": "smollm2", "template": "{{ .Bad"}, 400, "unclosed action"),
        ({"model": "x", "from": "smollm2", "template": "{{ .A }}"}, 400, "Go templates are not"),
        ({"model": "x", "from": "smollm2", "quantize": "q9_9"}, 500, "type Q9_9 - supported"),
        ({"model": "x", "quantize": "q9_9"}, 400, "neither 'from' or 'files' was specified"),
        ({"model": "x", "files": {"a": 1}}, 400, "field CreateRequest.files of type string"),
        ({"model": "x", "renderer": 1}, 400, "field CreateRequest.renderer of type string"),
        ({"model": "x", "files": {"a": f"sha256:{'2' * 64}"}}, 200, "no such file or directory"),
    ],
)
def test_what_cannot_be_created(
    mine: EngineProcess, body: dict[str, Any], status: int, said: str
) -> None:
    answer = mine.post("/api/create", body)
    assert answer.status_code == status
    assert said in json.loads(answer.text.splitlines()[-1])["error"]
    assert "x:latest" not in _digests(mine)


def test_another_engine_on_the_same_store_sees_what_is_created(
    mine: EngineProcess, tmp_path: Path
) -> None:
    store = str(mine.log.parent / "store")
    with running(tmp_path, config={"store": store}) as other:
        mine.post("/api/copy", {"source": "smollm2:135m", "destination": "shared"})
        assert "shared:latest" in _digests(other)
        assert _delete(other, "shared").status_code == 200
        assert "shared:latest" not in _digests(mine)
