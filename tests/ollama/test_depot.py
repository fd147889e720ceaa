"""A model store as other replicas see it: what is there, what may come, and what stays outside."""

import json
from pathlib import Path
from urllib.parse import quote

import pytest
from pydantic import SecretStr

from serve.errors import BadRequest, NotFound
from serve.ollama.depot import PIECE, blobs_of, depot_of
from serve.ollama.depot_routes import DepotRoutes
from serve.settings import EmbeddedSettings, InferenceSettings, Settings, environment
from tests.ollama.stores import NAME, ask, depot, digest, fill, manifest, told

WEIGHTS, CONFIG = b"weights" * 1000, b"{}"
BLOB = f"/rayllama/blobs/{digest(WEIGHTS)}"


async def test_what_is_there_can_be_read_in_pieces(tmp_path: Path) -> None:
    store = depot(tmp_path)
    data = fill(store, NAME, WEIGHTS, CONFIG)
    routes = DepotRoutes(store, is_settled=lambda: False)
    listing = {"models": [{"name": NAME, "digest": digest(data)[7:]}], "is_settled": False}
    assert await told(routes, "GET", "/rayllama/manifests") == (200, listing)
    assert await told(routes, "GET", "/rayllama/manifests") == (200, listing)
    for spelling in ("tiny:v1", "TINY:V1", NAME, quote(NAME, safe="")):
        assert await ask(routes, "GET", f"/rayllama/manifests/{spelling}") == (200, data)
    assert await told(routes, "GET", BLOB) == (200, {"size": len(WEIGHTS)})
    assert await ask(routes, "GET", f"{BLOB}?at=0&size=10") == (200, WEIGHTS[:10])
    assert await ask(routes, "GET", f"{BLOB}?at=6990&size=100") == (200, WEIGHTS[6990:])
    assert await ask(routes, "GET", f"{BLOB}?at=7000&size=1") == (200, b"")
    assert await told(routes, "GET", "/rayllama/fetching") == (200, [])


async def test_what_is_not_there(tmp_path: Path) -> None:
    store = depot(tmp_path)
    routes = DepotRoutes(store)
    assert (await told(routes, "GET", "/rayllama/manifests"))[1]["models"] == []
    assert (await ask(routes, "GET", BLOB))[0] == 404
    assert (await ask(routes, "GET", f"{BLOB}?at=0&size=1"))[0] == 404
    assert (await ask(routes, "GET", "/rayllama/manifests/nope"))[0] == 404
    assert (await ask(routes, "GET", "/rayllama/else"))[0] == 404
    assert (await ask(routes, "DELETE", BLOB))[0] == 404
    with pytest.raises(NotFound):
        store.read(digest(WEIGHTS), 0, 1)  # it went after it was looked for
    fill(store, NAME, WEIGHTS, CONFIG)
    assert (await ask(routes, "GET", f"{BLOB}?at=0&size={PIECE + 1}"))[0] == 416
    assert (await ask(routes, "GET", f"{BLOB}?at=7001&size=1"))[0] == 416
    assert (await ask(routes, "GET", f"{BLOB}?at=-1&size=1"))[0] == 400
    assert (await ask(routes, "GET", f"{BLOB}?at=1e3&size=1"))[0] == 400


@pytest.mark.parametrize(
    "path",
    [
        "/rayllama/manifests/../../secret",
        "/rayllama/manifests/..%2f..%2fsecret:x",
        "/rayllama/manifests/a/b/../c",
        "/rayllama/manifests/.hidden/b:c",
        "/rayllama/blobs/..",
        "/rayllama/blobs/sha256:../../../secret",
        "/rayllama/blobs/" + "a" * 64,
        "/rayllama/blobs/sha256:" + "g" * 64,
        "/rayllama/blobs/" + digest(b"x") + "/..",
    ],
)
async def test_no_path_is_of_a_callers_making(path: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    routes = DepotRoutes(depot(tmp_path / "models"))
    for verb, body in (("GET", b""), ("PUT", b"x" if "blobs" in path else manifest(b"x"))):
        assert (await ask(routes, verb, path, body))[0] in (400, 404)
    assert [each.name for each in tmp_path.iterdir()] == ["secret"]


async def test_links_out_of_the_store_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(WEIGHTS)
    store = depot(tmp_path / "models")
    fill(store, NAME, CONFIG)
    routes = DepotRoutes(store)
    store.place(digest(WEIGHTS)).symlink_to(tmp_path / "secret")
    assert (await ask(routes, "GET", BLOB))[0] == 404
    library = store.root / "manifests" / "registry.ollama.ai" / "library"
    (library / "stolen").mkdir()
    (library / "stolen" / "v1").symlink_to(tmp_path / "secret")
    assert (await ask(routes, "GET", "/rayllama/manifests/stolen:v1"))[0] == 404
    (tmp_path / "elsewhere").mkdir()
    (library / "away").symlink_to(tmp_path / "elsewhere")
    status, body = await told(routes, "PUT", "/rayllama/manifests/away:v1", manifest(CONFIG))
    assert (status, body["error"]) == (500, "Too many levels of symbolic links")
    assert list((tmp_path / "elsewhere").iterdir()) == []


async def test_a_store_that_is_itself_a_link_is_one(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "models").symlink_to(tmp_path / "disk")
    store = depot(tmp_path / "models")
    fill(store, NAME, WEIGHTS, CONFIG)
    assert await told(DepotRoutes(store), "GET", BLOB) == (200, {"size": len(WEIGHTS)})


async def test_a_manifest_comes_when_its_blobs_are_there(tmp_path: Path) -> None:
    store = depot(tmp_path)
    routes, data = DepotRoutes(store), manifest(WEIGHTS, CONFIG)
    path = "/rayllama/manifests/Tiny:v1"
    status, body = await told(routes, "PUT", path, data)
    assert (status, body["missing"]) == (409, [digest(WEIGHTS), digest(CONFIG)])
    assert (await ask(routes, "GET", path))[0] == 404
    for blob in (WEIGHTS, CONFIG):
        place = f"/rayllama/blobs/{digest(blob)}?at=0&last=1"
        assert (await ask(routes, "PUT", place, blob))[0] == 201
    assert await told(routes, "PUT", path, data) == (201, {})
    assert (store.root / "manifests/registry.ollama.ai/library/Tiny/v1").read_bytes() == data
    other = manifest(WEIGHTS)
    assert (await ask(routes, "PUT", "/rayllama/manifests/tiny:V1", other))[0] == 201
    assert list(store.listing()) == ["registry.ollama.ai/library/Tiny:v1"], "one name, one file"
    assert await ask(routes, "GET", path) == (200, other)
    assert [each.name for each in store.ours.iterdir()] == ["lock", "unfinished"]


async def test_a_blob_that_is_cut_on_disk_is_missing(tmp_path: Path) -> None:
    store = depot(tmp_path)
    data = fill(store, NAME, WEIGHTS, CONFIG)
    store.place(digest(WEIGHTS)).write_bytes(WEIGHTS[:-1])
    assert [layer.digest for layer in store.missing(data)] == [digest(WEIGHTS)]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"layers": [{"digest": "sha256:x"}]}', b'{"layers": 3}']
)
async def test_what_is_no_manifest(body: bytes, tmp_path: Path) -> None:
    routes = DepotRoutes(depot(tmp_path))
    assert (await ask(routes, "PUT", "/rayllama/manifests/tiny", body))[0] == 400
    with pytest.raises(BadRequest):
        blobs_of(body)


async def test_what_is_too_much_for_a_manifest(tmp_path: Path) -> None:
    routes = DepotRoutes(depot(tmp_path))
    body = json.dumps({"layers": [], "padding": "x" * (1 << 20)}).encode()
    assert (await ask(routes, "PUT", "/rayllama/manifests/tiny", body))[0] == 413


async def test_an_attached_engine_has_no_store_of_ours() -> None:
    settings = Settings(inference=InferenceSettings(engine="attach", url="http://127.0.0.1:1"))
    assert depot_of(settings) is None
    routes = DepotRoutes(None)
    for verb, path in (("GET", BLOB), ("PUT", BLOB), ("GET", "/rayllama/manifests")):
        assert (await ask(routes, verb, path))[0] == 501
    assert await told(routes, "GET", "/rayllama/fetching") == (200, [])


def test_where_an_engine_has_its_store() -> None:
    def root(inference: InferenceSettings, store: str = "") -> Path:
        found = depot_of(Settings(inference=inference, embedded=EmbeddedSettings(store=store)))
        assert found is not None
        return found.root

    def own(engine: str, **env: str) -> InferenceSettings:
        secret = {name: SecretStr(value) for name, value in env.items()}
        return InferenceSettings.model_validate({"engine": engine, "env": secret})

    assert root(own("embedded"), "/a") == Path("/a/models")
    assert root(own("embedded")) == environment().cache_home / "rayllama" / "models"
    assert root(own("embedded", XDG_CACHE_HOME="/b")) == Path("/b/rayllama/models")
    assert root(InferenceSettings(engine="ollama", models_dir="/c")) == Path("/c")
    assert root(own("ollama", OLLAMA_MODELS="/d")) == Path("/d")
