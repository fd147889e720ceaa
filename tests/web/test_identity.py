from hashlib import sha256

import pytest

from serve.errors import Unauthorized
from serve.settings import AuthSettings, Key
from serve.web.identity import ANYBODY, Directory, Identity
from tests.web.cached import cached_front
from tests.web.front import Front
from tests.web.test_cache_status import SCRIPT, WHOLE


def hashed(key: str) -> str:
    return sha256(key.encode()).hexdigest()


DIRECTORY = Directory(
    AuthSettings(
        keys=[
            Key.model_validate({"sha256": hashed("alpha"), "tenant": "a", "admin": True}),
            Key.model_validate({"sha256": hashed("beta"), "tenant": "b"}),
        ]
    )
)


def test_without_keys_everybody_is_the_default_tenant() -> None:
    directory = Directory(AuthSettings())
    assert directory.is_open
    assert directory.identify({b"authorization": b"Bearer whatever"}) == ANYBODY
    assert ANYBODY.tenant == "default"


@pytest.mark.parametrize(
    ("headers", "identity"),
    [
        ({b"authorization": b"Bearer alpha"}, Identity("a", admin=True)),
        ({b"authorization": b"bearer  beta "}, Identity("b", admin=False)),
        ({b"x-api-key": b"beta"}, Identity("b", admin=False)),
        (
            {b"x-api-key": b"beta", b"authorization": b"Bearer alpha"},
            Identity("a", admin=True),
        ),
    ],
)
def test_a_key_names_its_tenant(headers: dict[bytes, bytes], identity: Identity) -> None:
    assert DIRECTORY.identify(headers) == identity


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"authorization": b"Bearer "},
        {b"authorization": b"Basic YWxwaGE="},
        {b"authorization": b"Bearer gamma"},
        {b"x-api-key": hashed("alpha").encode()},
    ],
)
def test_no_key_or_an_unknown_one_is_refused(headers: dict[bytes, bytes]) -> None:
    with pytest.raises(Unauthorized) as refused:
        DIRECTORY.identify(headers)
    assert refused.value.status == 401
    assert "gamma" not in str(refused.value)


def test_a_key_is_masked_in_its_repr() -> None:
    key = Key.model_validate({"sha256": hashed("alpha"), "tenant": "a"})
    assert hashed("alpha") not in repr(key)


async def test_a_revoked_key_gets_nothing_that_is_near() -> None:
    async with cached_front(SCRIPT) as front:
        key = Key.model_validate({"sha256": hashed("alpha"), "tenant": "a"})
        other = Key.model_validate({"sha256": hashed("beta"), "tenant": "b"})
        before = Front(SCRIPT, None, AuthSettings(keys=[key, other]), front.answers)
        for verdict in (b"miss; reason=cold", b"hit; tier=near"):
            got = await before.post("/api/chat", WHOLE, x_api_key="alpha")
            assert got.headers[b"x-rayllama-cache"] == verdict
        after = Front([], None, AuthSettings(keys=[other]), front.answers)
        assert (await after.post("/api/chat", WHOLE, x_api_key="alpha")).status == 401
