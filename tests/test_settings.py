"""Settings: what is understood, what is refused, and in which words."""

from typing import Any

import pytest

from serve.errors import ConfigError
from serve.settings import Settings, environment, parse


@pytest.mark.parametrize(
    ("text", "size"),
    [("128MiB", 128 << 20), ("1.5 KiB", 1536), ("7", 7), (9, 9), ("2gib", 2 << 30)],
)
def test_sizes(text: object, size: int) -> None:
    assert parse({"cache": {"max_bytes": text}}).cache.max_bytes == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("1.5m", 90), ("1h", 3600), ("250ms", 0.25), ("9", 9), (2, 2)],
)
def test_durations(text: object, seconds: float) -> None:
    assert parse({"cache": {"ttl_s": text}}).cache.ttl_s == seconds


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"cache": {"tttl_s": 1}}, "cache: unknown key 'tttl_s'; did you mean 'ttl_s'?"),
        ({"inferense": {}}, "args: unknown key 'inferense'; did you mean 'inference'?"),
        ({"cache": {"zzz": 1}}, "known: catalogue_poll_s, eviction"),
        ({"cache": {"max_bytes": "9 parsecs"}}, "cache.max_bytes: '9 parsecs' is not a size"),
        ({"cache": {"ttl_s": "soon"}}, "cache.ttl_s: 'soon' is not a duration"),
        ({"cache": {"ttl_s": 0}}, "cache.ttl_s: Input should be greater than 0"),
        (
            {"inference": {"engine": "attach"}},
            "inference: `url` and `engine: attach` belong together",
        ),
        (
            {"inference": {"url": "http://x"}},
            "inference: `url` and `engine: attach` belong together",
        ),
        (
            {"inference": {"engine": "attach", "url": "x:1"}},
            "inference: url: 'x:1' is not like http://127.0.0.1:11434",
        ),
        ({"auth": {"keys": [{"sha256": "no", "tenant": "a"}]}}, "auth.keys.0: sha256: not 64"),
        ({"auth": {"keys": [{"sha256": "0" * 64, "tenant": "a b"}]}}, "auth.keys.0.tenant: "),
        (
            {"auth": {"keys": [{"sha256": "0" * 64, "tenant": name} for name in "ab"]}},
            "auth: keys.1 and keys.0 are the same key: keep one",
        ),
        ({"admin": {"host": "0.0.0.0"}}, "args: admin.host: 0.0.0.0 lets everybody"),
        ({"admin": {"port": 65536}}, "admin.port: "),
        ([], "args: Input should be a valid dictionary"),
    ],
)
def test_a_fault_is_named_by_its_path(data: Any, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(data)
    assert words in str(refused.value)


def test_every_fault_has_a_line() -> None:
    with pytest.raises(ConfigError) as refused:
        parse({"cache": {"ttl_s": "x"}, "inference": {"slots": 0}})
    assert len(str(refused.value).splitlines()) == 2


def test_a_wrong_key_hash_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as refused:
        parse({"auth": {"keys": [{"sha256": "my-secret-key", "tenant": "a"}]}})
    assert "my-secret-key" not in str(refused.value)


def test_settings_are_frozen_and_secrets_masked() -> None:
    settings = parse(
        {
            "auth": {"keys": [{"sha256": "a" * 64, "tenant": "t"}]},
            "inference": {"env": {"HTTPS_PROXY": "https://user:password@proxy"}},
        }
    )
    assert "password" not in repr(settings)
    assert "password" not in settings.model_dump_json()
    with pytest.raises(ValueError, match="frozen"):
        settings.cache.__setattr__("ttl_s", 1)
    assert "a" * 64 not in repr(settings)
    assert "a" * 64 not in settings.model_dump_json()


def test_no_settings_are_settings() -> None:
    assert parse({}) == Settings()


def test_the_environment_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("OLLAMA_MODELS", "/models")
    found = environment()
    assert str(found.cache_home) == "/home/somebody/.cache"
    assert str(found.ollama_models) == "/models"


def test_a_public_admin_api_needs_an_admins_key() -> None:
    row = {"sha256": "0" * 64, "tenant": "ops"}
    public = {"admin": {"host": "10.0.0.1"}}
    with pytest.raises(ConfigError, match=r"admin\.host: 10\.0\.0\.1 .* `admin: true`"):
        parse({**public, "auth": {"keys": [row]}})
    assert not parse({**public, "auth": {"keys": [row | {"admin": True}]}}).admin.is_loopback
    assert parse({"admin": {"host": "0.0.0.0", "port": 0}}).admin.port == 0
    for host in ("127.0.0.1", "::1", "localhost"):
        assert parse({"admin": {"host": host}}).admin.is_loopback


def test_settings_survive_being_dumped() -> None:
    """As Serve does to the arguments of deployment actors."""
    row = {"sha256": "0" * 64, "tenant": "ops", "admin": True}
    settings = parse({"auth": {"keys": [row]}, "inference": {"env": {"A": "b"}}})
    assert parse(settings.model_dump()) == settings
