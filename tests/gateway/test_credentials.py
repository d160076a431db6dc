"""Who calls: keys, tokens, what is remembered and for how long."""

import asyncio

import httpx
import pytest

from gateway import upstreams
from gateway.credentials import Credentials, Token
from shared.clock import ManualClock
from shared.errors import Unauthenticated, Unavailable
from tests.gateway.conftest import KEY, Gateway, Gateways
from tests.gateway.upstream import Seen
from tests.house.in_process import token
from tests.house.signing import SigningKeys
from tests.house.waiting import until, until_answered

PATH = "/v1/conversations/c"
BEARER = {"authorization": "Bearer pk_live_a"}


class Door:
    """Stands for tenant_quota: counts who asks."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.asked = 0
        self.answer: Exception | None = None
        self.lifetime = 4.0
        self.pause = 0.0

    async def ask(self, credential: str) -> Token:
        self.asked += 1
        await asyncio.sleep(self.pause)
        if self.answer is not None:
            raise self.answer
        return Token(f"token {self.asked} of {credential}", self.clock.now().timestamp() + self.lifetime)


@pytest.fixture
def door() -> Door:
    return Door(ManualClock())


@pytest.fixture
def credentials(door: Door) -> Credentials:
    return Credentials(door.ask, door.clock, cache_seconds=3, refusal_seconds=1, cache_size=10)


async def test_a_key_is_exchanged_once_in_three_seconds(door: Door, credentials: Credentials) -> None:
    first = await credentials.token(BEARER)
    door.clock.advance(1.9)
    assert await credentials.token({"x-api-key": "pk_live_a"}) == first
    door.clock.advance(1.2)
    assert await credentials.token(BEARER) != first
    assert door.asked == 2


async def test_a_session_is_exchanged_like_a_key(door: Door, credentials: Credentials) -> None:
    assert await credentials.token({"authorization": "Bearer ps_live_a"}) == "token 1 of ps_live_a"


async def test_a_token_in_use_is_renewed_beside_the_calls_and_once_for_all(
    door: Door, credentials: Credentials
) -> None:
    first = await credentials.token(BEARER)
    door.clock.advance(2.1)
    door.pause = 0.05
    assert {await credentials.token(BEARER) for _ in range(20)} == {first}, "nobody waits"

    async def is_renewed() -> bool:
        return await credentials.token(BEARER) != first

    await until_answered(is_renewed)
    assert door.asked == 2


async def test_a_renewal_that_fails_leaves_the_token_until_it_lapses(door: Door, credentials: Credentials) -> None:
    first = await credentials.token(BEARER)
    door.answer = Unavailable()
    door.clock.advance(2.9)
    assert await credentials.token(BEARER) == first
    await asyncio.sleep(0)
    assert await credentials.token(BEARER) == first
    door.clock.advance(0.2)
    with pytest.raises(Unavailable):
        await credentials.token(BEARER)


async def test_a_renewal_that_is_refused_ends_the_token_at_once(door: Door, credentials: Credentials) -> None:
    await credentials.token(BEARER)
    door.answer = Unauthenticated()
    door.clock.advance(2.1)
    await credentials.token(BEARER)

    async def is_refused() -> bool:
        try:
            await credentials.token(BEARER)
        except Unauthenticated:
            return True
        return False

    await until_answered(is_refused)
    assert door.asked == 2


async def test_a_revoked_key_is_refused_when_it_is_asked_about_again(door: Door, credentials: Credentials) -> None:
    await credentials.token(BEARER)
    door.answer = Unauthenticated()
    await credentials.token(BEARER)
    door.clock.advance(3)
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            await credentials.token(BEARER)
    assert door.asked == 2  # the refusal is remembered
    door.clock.advance(1)
    door.answer = None
    assert await credentials.token(BEARER)


async def test_a_slow_answer_is_believed_no_longer(door: Door, credentials: Credentials) -> None:
    door.pause = 0.05
    asking = asyncio.create_task(credentials.token(BEARER))
    await asyncio.sleep(0.01)
    door.clock.advance(2.5)
    await asking
    door.clock.advance(0.6)
    await credentials.token(BEARER)
    assert door.asked == 2


async def test_a_door_that_does_not_answer_is_asked_again(door: Door, credentials: Credentials) -> None:
    door.answer = Unavailable()
    for _ in range(2):
        with pytest.raises(Unavailable):
            await credentials.token(BEARER)
    assert door.asked == 2


async def test_many_who_ask_at_once_cause_one_question(door: Door, credentials: Credentials) -> None:
    door.pause = 0.05
    first = asyncio.create_task(credentials.token(BEARER))
    others = [asyncio.create_task(credentials.token(BEARER)) for _ in range(50)]
    await asyncio.sleep(0.01)
    first.cancel()  # the client that asked first leaves
    tokens = set(await asyncio.gather(*others))
    assert (len(tokens), door.asked) == (1, 1)


async def test_a_token_about_to_lapse_is_not_kept(door: Door, credentials: Credentials) -> None:
    door.lifetime = 2.0
    await credentials.token(BEARER)
    door.clock.advance(1.1)
    await credentials.token(BEARER)
    assert door.asked == 2


async def test_a_flood_of_invented_keys_drives_no_good_one_out(door: Door, credentials: Credentials) -> None:
    await credentials.token(BEARER)
    door.answer = Unauthenticated()
    for number in range(100):
        with pytest.raises(Unauthenticated):
            await credentials.token({"x-api-key": f"pk_live_{number}"})
    assert await credentials.token(BEARER)
    assert len(credentials._refused) == 10


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Basic YTpi"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer  "},
        {"authorization": "Bearer a b"},
        {"authorization": "Bearer caf\xe9"},
        {"authorization": "Bearer " + "a" * 5000},
        {"x-api-key": ""},
    ],
)
async def test_what_is_no_credential_is_refused_without_a_question(
    door: Door, credentials: Credentials, headers: dict[str, str]
) -> None:
    with pytest.raises(Unauthenticated):
        await credentials.token(headers)
    assert door.asked == 0


async def test_no_credential_is_401_with_a_challenge(client: httpx.AsyncClient) -> None:
    response = await client.get(PATH)
    assert (response.status_code, response.json()["code"]) == (401, 16)
    assert response.headers["www-authenticate"] == 'Bearer realm="prosa"'
    assert response.json()["details"][0]["reason"] == "CREDENTIALS_MISSING"


@pytest.mark.parametrize(
    "headers", [{"x-api-key": "pk_test_revoked"}, {"x-api-key": "zzz"}, {"authorization": "Bearer eyJ.not.one"}]
)
async def test_a_bad_credential_is_401(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    response = await client.get(PATH, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == 'Bearer realm="prosa", error="invalid_token"'
    assert response.json()["message"] == "the credentials are not valid"


async def test_nobody_new_gets_in_while_keys_cannot_be_checked(client: httpx.AsyncClient) -> None:
    response = await client.get(PATH, headers={"x-api-key": "pk_test_down"}, timeout=20)
    assert (response.status_code, response.json()["code"]) == (503, 14)


async def test_a_token_goes_on_as_it_is(client: httpx.AsyncClient, seen: Seen, signing_keys: SigningKeys) -> None:
    bearer = token(signing_keys, tenant_id="t", user_id="rui", scopes=["conversations.read"])
    response = await client.get(PATH, headers={"authorization": f"Bearer {bearer}"})
    assert response.json()["userId"] == "rui"
    assert (seen.authentications, seen.metadata[-1]["authorization"]) == (0, f"Bearer {bearer}")


async def test_an_expired_token_says_so(client: httpx.AsyncClient, signing_keys: SigningKeys) -> None:
    bearer = token(signing_keys, tenant_id="t", scopes=["conversations.read"], lifetime_seconds=-600)
    response = await client.get(PATH, headers={"authorization": f"Bearer {bearer}"})
    assert (response.status_code, response.json()["details"][0]["reason"]) == (401, "CREDENTIALS_EXPIRED")


async def test_a_public_method_needs_no_credential(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/credentials:authenticate", json={"credential": "pk_test_ana"})
    assert response.status_code == 200
    assert response.json()["accessToken"].startswith("eyJ")


async def test_the_key_is_asked_about_once_for_many_requests(gateway: Gateway) -> None:
    gateway.seen.pause = 0.05
    answers = await asyncio.gather(*(gateway.client.get(PATH, headers=KEY) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert gateway.seen.authentications == 1


@pytest.mark.parametrize(
    ("target", "body"),
    [("/v1/conversations", b'{"title": "Obras"}'), ("/v1/documents:upload", b"edital")],
    ids=["a JSON body", "an upload"],
)
async def test_a_body_may_take_longer_than_a_token_lives(gateways: Gateways, target: str, body: bytes) -> None:
    gateway = await gateways.start(credential_cache_seconds=0)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    head = f"POST {target} HTTP/1.1\r\nhost: x\r\nx-api-key: pk_test_ana\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode())
    await until(lambda: gateway.seen.authentications == 1)
    writer.write(body)
    assert (await asyncio.wait_for(reader.readline(), 60)).startswith(b"HTTP/1.1 200")
    assert gateway.seen.authentications == 2
    writer.close()


async def test_a_tenant_quota_that_does_not_answer_is_503_not_the_callers_timeout(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstreams, "AUTHENTICATE_TIMEOUT_SECONDS", 0.3)
    response = await client.get(PATH, headers={"x-api-key": "pk_test_slow"})
    assert (response.status_code, "retry-after" in response.headers) == (503, True)
    assert response.json()["details"][0]["metadata"] == {"dependency": "tenant_quota"}
