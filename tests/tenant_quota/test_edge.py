"""Envoy's RateLimitService as a stock Envoy calls it: through the street, on real limits and real windows."""

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

import asyncpg
import grpc
import pytest
from envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import RateLimitDescriptor
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from envoy.service.ratelimit.v3.rls_pb2_grpc import RateLimitServiceStub
from google.protobuf.wrappers_pb2 import UInt64Value
from pydantic import SecretStr

from prosa.tenant_quota.v1 import tenant_service_pb2
from services.tenant_quota.edge_callers import CHECK, EdgeVerifier
from services.tenant_quota.model import Principal, Role, _checksum, new_secret, parse_secret
from services.tenant_quota.rate_limiting import NoWindows, edge_endpoint
from services.tenant_quota.rate_limits import RateLimits
from services.tenant_quota.rate_windows import RedisWindows
from services.tenant_quota.rates import RESERVATIONS, Level, Rates, Subject, concerned
from shared.caller import TokenVerifier
from shared.config import ServiceConfig
from shared.errors import Unauthenticated
from shared.optional_redis import open_optional_redis
from shared.server import running_server
from tests.house.in_process import as_caller, token
from tests.house.signing import SigningKeys
from tests.tenant_quota.test_rate_limits import limit, new_tenant
from tests.tenant_quota.world import Platform, refusal

if TYPE_CHECKING:
    from envoy.service.ratelimit.v3.rls_pb2_grpc import RateLimitServiceAsyncStub

OK, OVER_LIMIT = RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT
SECRET = "a secret that only the edge knows, and we"
EDGE = as_caller(SECRET)


class Keys:
    """Who stands behind which secret, and how often that was asked."""

    def __init__(self) -> None:
        self.principals: dict[str, Principal] = {}
        self.asked = 0

    async def recognise(self, secret: str) -> Principal | None:
        self.asked += 1
        return self.principals.get(secret)


@pytest.fixture
async def rates(pool: asyncpg.Pool, redis_url: str) -> AsyncIterator[Rates]:
    async with open_optional_redis(SecretStr(redis_url), used_for="rates", patience_seconds=5.0) as redis:
        yield Rates(RateLimits(pool), RedisWindows(redis))


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
async def channel(rates: Rates, keys: Keys, signing_keys: SigningKeys) -> AsyncIterator[grpc.aio.Channel]:
    endpoint = edge_endpoint(rates, TokenVerifier(signing_keys.public_pem), keys.recognise)
    settings = ServiceConfig(port=0, token_public_key=signing_keys.public_pem, drain_delay_seconds=0)
    verifier = EdgeVerifier(signing_keys.public_pem, SecretStr(SECRET))
    async with (
        running_server(settings, [endpoint], verifier=verifier, ready={}) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as opened,
    ):
        yield opened


@pytest.fixture
def envoy(channel: grpc.aio.Channel) -> "RateLimitServiceAsyncStub":
    return RateLimitServiceStub(channel)


@pytest.fixture
async def tenant(pool: asyncpg.Pool) -> Subject:
    return Subject(await new_tenant(pool))


def descriptor(count: int | None = None, /, **entries: str) -> RateLimitDescriptor:
    pairs = [RateLimitDescriptor.Entry(key=key, value=value) for key, value in entries.items()]
    return RateLimitDescriptor(entries=pairs, hits_addend=None if count is None else UInt64Value(value=count))


def request(*descriptors: RateLimitDescriptor, hits: int = 0, domain: str = "prosa") -> RateLimitRequest:
    return RateLimitRequest(domain=domain, descriptors=descriptors, hits_addend=hits)


def headers(response: RateLimitResponse) -> Mapping[str, str]:
    return {header.key: header.value for header in response.response_headers_to_add}


def guessed(secret: str) -> str:
    """A well-formed secret of the same key that is not its secret."""
    *name, _, _ = secret.split("_")
    body = "_".join([*name, new_secret("test").split("_")[3]])
    whole = f"{body}_{_checksum(body)}"
    assert parse_secret(whole)
    return whole


async def test_envoy_admits_the_limit_and_no_more(
    envoy: "RateLimitServiceAsyncStub", pool: asyncpg.Pool, tenant: Subject
) -> None:
    await limit(pool, tenant, 3)
    about = descriptor(tenant_id=tenant.tenant_id)
    answers = [await envoy.ShouldRateLimit(request(about), metadata=EDGE) for _ in range(4)]
    assert [answer.overall_code for answer in answers] == [OK, OK, OK, OVER_LIMIT]
    statuses = [answer.statuses[0] for answer in answers]
    assert [status.limit_remaining for status in statuses] == [2, 1, 0, 0]
    assert {status.current_limit.requests_per_unit for status in statuses} == {3}
    assert {status.current_limit.unit for status in statuses} == {RateLimitResponse.RateLimit.MINUTE}
    assert 50 < statuses[-1].duration_until_reset.ToMilliseconds() / 1000 <= 60.05


async def test_clients_are_told_what_is_left_and_when_to_come_again(
    envoy: "RateLimitServiceAsyncStub", pool: asyncpg.Pool, tenant: Subject
) -> None:
    await limit(pool, tenant, 1)
    about = request(descriptor(tenant_id=tenant.tenant_id))
    admitted = headers(await envoy.ShouldRateLimit(about, metadata=EDGE))
    assert admitted == {"x-ratelimit-limit": "1, 1;w=60", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "61"}
    refused = headers(await envoy.ShouldRateLimit(about, metadata=EDGE))
    assert refused.keys() == admitted.keys() | {"retry-after"}
    assert refused["retry-after"] == refused["x-ratelimit-reset"]
    assert 30 < int(refused["retry-after"]) <= 61


async def test_each_descriptor_has_its_status_and_all_are_counted_or_none(
    envoy: "RateLimitServiceAsyncStub", pool: asyncpg.Pool, tenant: Subject
) -> None:
    _, user, _ = concerned(tenant.tenant_id, "maria", "key-1")
    await limit(pool, tenant, 10)
    await limit(pool, user, 2)
    names = {"tenant_id": tenant.tenant_id, "user_id": "maria", "key_id": "key-1"}
    asked = request(descriptor(tenant_id=tenant.tenant_id), descriptor(path="/v1"), descriptor(**names))
    answers = [await envoy.ShouldRateLimit(asked, metadata=EDGE) for _ in range(3)]
    assert [status.code for status in answers[1].statuses] == [OK, OK, OK]
    assert [status.current_limit.name for status in answers[1].statuses] == ["tenant", "", "user"]
    assert answers[2].overall_code == OVER_LIMIT
    assert [status.code for status in answers[2].statuses] == [OK, OK, OVER_LIMIT]
    assert answers[2].statuses[0].limit_remaining == 8, "a request named twice counts once, a refused one never"


async def test_hits_count_for_more_and_0_only_looks(
    envoy: "RateLimitServiceAsyncStub", pool: asyncpg.Pool, tenant: Subject
) -> None:
    await limit(pool, tenant, 10)
    names = {"tenant_id": tenant.tenant_id}
    asks = [
        request(descriptor(**names), hits=4),
        request(descriptor(5, **names), hits=1),
        request(descriptor(0, **names)),
    ]
    answers = [await envoy.ShouldRateLimit(ask, metadata=EDGE) for ask in asks]
    assert [answer.statuses[0].limit_remaining for answer in answers] == [6, 1, 1]
    over = await envoy.ShouldRateLimit(request(descriptor(2**64 - 1, **names)), metadata=EDGE)
    assert (over.overall_code, "retry-after" in headers(over)) == (OVER_LIMIT, False)


async def test_domains_and_reservations_are_counted_apart(
    envoy: "RateLimitServiceAsyncStub", rates: Rates, pool: asyncpg.Pool, tenant: Subject
) -> None:
    await limit(pool, tenant, 1)
    about = descriptor(tenant_id=tenant.tenant_id)
    asks = [request(about, domain=domain) for domain in ("one", "two", RESERVATIONS)]
    assert [(await envoy.ShouldRateLimit(ask, metadata=EDGE)).overall_code for ask in asks] == [OK, OK, OK]
    assert not (await rates.admit(RESERVATIONS, {tenant: 1})).full


async def test_whom_nothing_limits_envoy_lets_through(envoy: "RateLimitServiceAsyncStub", tenant: Subject) -> None:
    strange = [
        descriptor(tenant_id=tenant.tenant_id),
        descriptor(tenant_id="nobody"),
        descriptor(tenant_id="*"),
        descriptor(tenant_id=""),
        descriptor(tenant_id=tenant.tenant_id, user_id="a\0b"),
        descriptor(tenant_id=tenant.tenant_id, path="/v1"),
        descriptor(user_id="maria"),
        descriptor(authorization="Basic bWFyaWE6"),
        descriptor(authorization="Bearer forged"),
    ]
    answer = await envoy.ShouldRateLimit(request(*strange), metadata=EDGE)
    assert answer.overall_code == OK
    assert [status.code for status in answer.statuses] == [OK] * len(strange)
    assert headers(answer) == {}


async def test_a_descriptor_of_another_kind_is_not_counted_against_the_tenant_it_names(
    envoy: "RateLimitServiceAsyncStub", pool: asyncpg.Pool, tenant: Subject
) -> None:
    await limit(pool, tenant, 0)
    named = {"tenant_id": tenant.tenant_id}
    for about, code in ((descriptor(**named, path="/v1"), OK), (descriptor(**named), OVER_LIMIT)):
        assert (await envoy.ShouldRateLimit(request(about), metadata=EDGE)).overall_code == code


def test_the_secret_opens_nothing_else(signing_keys: SigningKeys) -> None:
    edge = EdgeVerifier(signing_keys.public_pem, SecretStr(SECRET)).verify(SECRET)
    assert (edge.tenant_id, edge.user_id, edge.scopes, edge.token) == ("", "", frozenset({CHECK}), "")


async def test_a_token_names_its_tenant_user_and_key(
    envoy: "RateLimitServiceAsyncStub", pool: asyncpg.Pool, tenant: Subject, signing_keys: SigningKeys
) -> None:
    await limit(pool, Subject(tenant.tenant_id, Level.KEY, "key-7"), 1)
    signed = token(signing_keys, tenant_id=tenant.tenant_id, user_id="maria", key_id="key-7")
    about = request(descriptor(authorization=f"Bearer {signed}"))
    answers = [await envoy.ShouldRateLimit(about, metadata=EDGE) for _ in range(2)]
    assert [answer.overall_code for answer in answers] == [OK, OVER_LIMIT]


async def test_an_api_key_names_its_tenant_and_is_asked_about_once(
    envoy: "RateLimitServiceAsyncStub", keys: Keys, pool: asyncpg.Pool, tenant: Subject
) -> None:
    await limit(pool, tenant, 2)
    good, bad = new_secret("test"), new_secret("test")
    keys.principals[good] = Principal("key-1", tenant.tenant_id, "", frozenset(), Role.MEMBER)
    about = [request(descriptor(authorization=f"Bearer {secret}")) for secret in (good, good, good, bad, bad)]
    answers = [await envoy.ShouldRateLimit(ask, metadata=EDGE) for ask in about]
    assert [answer.overall_code for answer in answers] == [OK, OK, OVER_LIMIT, OK, OK]
    assert keys.asked == 2


async def test_the_running_service_knows_its_api_keys_at_the_edge(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool)
    await limit(platform.pool, Subject(tenant_id), 1)
    made = await platform.tenants.CreateApiKey(
        tenant_service_pb2.CreateApiKeyRequest(tenant_id=tenant_id, role=tenant_service_pb2.ROLE_END_USER),
        metadata=platform.admin(),
    )
    edge = as_caller(token(platform.keys, scopes={CHECK}))
    envoy: RateLimitServiceAsyncStub = RateLimitServiceStub(platform.channel)
    about = request(descriptor(authorization=f"Bearer {made.secret}"))
    answers = [await envoy.ShouldRateLimit(about, metadata=edge) for _ in range(2)]
    assert [answer.overall_code for answer in answers] == [OK, OVER_LIMIT]
    forged = request(descriptor(authorization=f"Bearer {guessed(made.secret)}"), domain="another")
    assert headers(await envoy.ShouldRateLimit(forged, metadata=edge)) == {}, (
        "who knows a key's id uses up nothing of it"
    )


@pytest.mark.parametrize("credential", ["", "wrong", SECRET[:-1], SECRET + "x"])
async def test_nobody_without_the_secret_may_ask(
    envoy: "RateLimitServiceAsyncStub", tenant: Subject, credential: str
) -> None:
    metadata = as_caller(credential) if credential else ()
    refused = await refusal(envoy.ShouldRateLimit(request(descriptor(tenant_id=tenant.tenant_id)), metadata=metadata))
    assert refused.code is grpc.StatusCode.UNAUTHENTICATED


async def test_no_token_opens_it(
    envoy: "RateLimitServiceAsyncStub", tenant: Subject, signing_keys: SigningKeys
) -> None:
    for scopes in ((), ("tenants.admin", "quota.reserve", "quota.read", "act_as")):
        metadata = as_caller(token(signing_keys, tenant_id=tenant.tenant_id, scopes=scopes))
        refused = await refusal(
            envoy.ShouldRateLimit(request(descriptor(tenant_id=tenant.tenant_id)), metadata=metadata)
        )
        assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_MISSING")


def test_without_a_secret_the_empty_one_opens_nothing(signing_keys: SigningKeys) -> None:
    with pytest.raises(Unauthenticated):
        EdgeVerifier(signing_keys.public_pem, SecretStr("")).verify("")


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (request(), "descriptors"),
        (request(*[descriptor(tenant_id="x")] * 21), "descriptors"),
        (request(descriptor(tenant_id="x"), domain=""), "domain"),
        (request(descriptor(tenant_id="x"), domain="a:b"), "domain"),
        (request(descriptor(tenant_id="x"), domain="a" * 65), "domain"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    envoy: "RateLimitServiceAsyncStub", asked: RateLimitRequest, field: str
) -> None:
    refused = await refusal(envoy.ShouldRateLimit(asked, metadata=EDGE))
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_without_redis_envoy_is_told_to_let_through(
    pool: asyncpg.Pool, tenant: Subject, keys: Keys, signing_keys: SigningKeys
) -> None:
    await limit(pool, tenant, 1)
    closed = Subject(tenant.tenant_id, Level.USER, "closed")
    await limit(pool, closed, 0)
    rates = Rates(RateLimits(pool), NoWindows())
    assert not [verdict for verdict in [await rates.admit("edge/x", {tenant: 1}) for _ in range(3)] if verdict.full]
    assert (await rates.admit("edge/x", {tenant: 1, closed: 1})).full
