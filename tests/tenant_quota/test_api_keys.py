"""Keys and the exchange of a credential for a token, through the real wire."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import asyncpg
import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import SecretStr

from prosa.tenant_quota.v1 import quota_service_pb2
from prosa.tenant_quota.v1 import tenant_service_pb2 as pb
from services.tenant_quota.__main__ import open_endpoints
from services.tenant_quota.api_keys import ApiKeys
from services.tenant_quota.config import Config
from services.tenant_quota.credentials import KeyedHash
from services.tenant_quota.model import BACKGROUND_PERMISSIONS, PERMISSIONS, Role, new_secret, parse_secret
from shared.caller import TokenVerifier
from tests.house.in_process import as_caller, as_service
from tests.tenant_quota.world import Platform, Refusal, fresh, key_ends, new_tenant, new_user, refusal


async def create(platform: Platform, tenant_id: str, **fields: object) -> pb.CreateApiKeyResponse:
    request = pb.CreateApiKeyRequest(tenant_id=tenant_id, **fields)  # type: ignore[arg-type]
    return await platform.tenants.CreateApiKey(request, metadata=platform.admin())


async def authenticate(platform: Platform, credential: str) -> pb.AuthenticateResponse:
    return await platform.tenants.Authenticate(pb.AuthenticateRequest(credential=credential))


async def refused(platform: Platform, credential: str) -> Refusal:
    return await refusal(platform.tenants.Authenticate(pb.AuthenticateRequest(credential=credential)))


async def test_a_key_is_exchanged_for_a_token_of_its_user(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool)
    user_id = await new_user(platform.pool, tenant_id)
    made = await create(platform, tenant_id, user_id=user_id, display_name=" site ")
    assert (made.api_key.role, made.api_key.display_name) == (pb.ROLE_MEMBER, "site")
    assert made.secret.startswith(f"pk_test_{made.api_key.key_id}_")

    granted = await authenticate(platform, made.secret)

    caller = TokenVerifier(platform.keys.public_pem).verify(granted.access_token)
    assert (caller.tenant_id, caller.user_id, caller.key_id) == (tenant_id, user_id, made.api_key.key_id)
    assert caller.scopes == PERMISSIONS[Role.MEMBER] == set(granted.permissions)
    assert granted.expire_time.ToMilliseconds() / 1000 == caller.expires_at
    left = granted.expire_time.ToDatetime(UTC) - datetime.now(UTC)
    assert timedelta() < left <= timedelta(seconds=4)
    mine = quota_service_pb2.GetUsageRequest()
    await platform.quotas.GetUsage(mine, metadata=as_caller(granted.access_token))


async def test_a_key_without_a_user_serves_anonymous_people(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool)
    granted = await authenticate(platform, (await create(platform, tenant_id)).secret)
    assert (granted.tenant_id, granted.user_id) == (tenant_id, "")
    assert set(granted.permissions) == PERMISSIONS[Role.END_USER]


async def test_bad_credentials_are_all_refused_in_the_same_words(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool)
    user_id = await new_user(platform.pool, tenant_id)
    gone_tenant = await new_tenant(platform.pool)
    good = (await create(platform, tenant_id)).secret
    revoked = await create(platform, tenant_id)
    of_user = (await create(platform, tenant_id, user_id=user_id)).secret
    of_tenant = (await create(platform, gone_tenant)).secret
    soon = Timestamp()
    soon.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
    expiring = await create(platform, tenant_id, expire_time=soon)
    assert (await authenticate(platform, expiring.secret)).access_token

    admin = platform.admin()
    revoke = pb.RevokeApiKeyRequest(tenant_id=tenant_id, key_id=revoked.api_key.key_id)
    first, second = [await platform.tenants.RevokeApiKey(revoke, metadata=admin) for _ in range(2)]
    assert first == second
    assert first.HasField("revoke_time")
    await platform.tenants.DeactivateTenant(pb.DeactivateTenantRequest(tenant_id=gone_tenant), metadata=admin)
    await platform.tenants.UpdateUser(
        pb.UpdateUserRequest(
            tenant_id=tenant_id, user_id=user_id, user=pb.User(), update_mask=FieldMask(paths=["active"])
        ),
        metadata=admin,
    )
    await key_ends(platform.pool, tenant_id, expiring.api_key.key_id)

    right = parse_secret(good)
    assert right is not None
    forged = new_secret("test").split("_")
    # A valid checksum over a known key id: only the secret is wrong.
    wrong_secret = _with_key_id(forged, right.key_id)
    answers = [
        await refused(platform, bad)
        for bad in (
            "x",
            "pk_test_a_b_c",
            good[:-1],
            good + "0",
            "é" * 20,
            "nul\0" + good,
            new_secret("test"),
            wrong_secret,
            revoked.secret,
            expiring.secret,
            of_user,
            of_tenant,
        )
    ]
    assert {answer.code for answer in answers} == {grpc.StatusCode.UNAUTHENTICATED}
    assert {answer.reason for answer in answers} == {"CREDENTIALS_INVALID"}
    assert len({answer.without_trace() for answer in answers}) == 1
    assert (await authenticate(platform, good)).access_token


def _with_key_id(parts: list[str], key_id: str) -> str:
    from services.tenant_quota import model

    body = "_".join([*parts[:2], key_id, parts[3]])
    return f"{body}_{model._checksum(body)}"


async def test_a_key_is_never_more_than_its_user_nor_than_its_maker(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool)
    member = await new_user(platform.pool, tenant_id)
    stub = platform.tenants
    wanted = pb.CreateApiKeyRequest(tenant_id=tenant_id, user_id=member, role=pb.ROLE_TENANT_ADMIN)
    for maker in (platform.admin(), platform.caller(tenant_id, Role.TENANT_ADMIN)):
        answer = await refusal(stub.CreateApiKey(wanted, metadata=maker))
        assert (answer.code, answer.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_MISSING")
    for role in (pb.ROLE_PLATFORM_ADMIN, pb.ROLE_SERVICE):
        beyond = pb.CreateApiKeyRequest(tenant_id=tenant_id, role=role)
        answer = await refusal(stub.CreateApiKey(beyond, metadata=platform.admin()))
        assert answer.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_user_who_is_degraded_takes_their_keys_along(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool)
    boss = await new_user(platform.pool, tenant_id, Role.TENANT_ADMIN)
    secret = (await create(platform, tenant_id, user_id=boss)).secret
    assert "tenant.manage" in (await authenticate(platform, secret)).permissions
    degrade = pb.UpdateUserRequest(
        tenant_id=tenant_id,
        user_id=boss,
        user=pb.User(role=pb.ROLE_MEMBER),
        update_mask=FieldMask(paths=["role"]),
    )
    await platform.tenants.UpdateUser(degrade, metadata=platform.admin())
    assert set((await authenticate(platform, secret)).permissions) == PERMISSIONS[Role.MEMBER]


async def test_the_secret_is_shown_once(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool)
    first, second = [await create(platform, tenant_id, request_id="key-1") for _ in range(2)]
    assert first.secret
    assert not second.secret
    assert first.api_key == second.api_key
    listed = await platform.tenants.ListApiKeys(pb.ListApiKeysRequest(tenant_id=tenant_id), metadata=platform.admin())
    assert list(listed.api_keys) == [first.api_key]


async def test_the_database_holds_no_usable_key(platform: Platform, pool: asyncpg.Pool) -> None:
    tenant_id = await new_tenant(platform.pool)
    secret = (await create(platform, tenant_id, request_id="key-1")).secret.split("_")[3]
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT set_config('app.tenant', $1, true)", tenant_id)
        for table in ("api_keys", "requests"):
            rows = await connection.fetch(f"SELECT t::text AS row FROM {table} t")
            assert rows
            assert not any(secret in row["row"] for row in rows)


async def test_a_key_born_expired_and_a_user_who_is_not_there_are_refused(platform: Platform) -> None:
    tenant_id, other = await new_tenant(platform.pool), await new_tenant(platform.pool)
    foreign = await new_user(platform.pool, other)
    past = pb.CreateApiKeyRequest(tenant_id=tenant_id, expire_time=Timestamp(seconds=1))
    answer = await refusal(platform.tenants.CreateApiKey(past, metadata=platform.admin()))
    assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["expire_time"])
    for user_id in ("missing", foreign):
        request = pb.CreateApiKeyRequest(tenant_id=tenant_id, user_id=user_id)
        answer = await refusal(platform.tenants.CreateApiKey(request, metadata=platform.admin()))
        assert answer.code is grpc.StatusCode.NOT_FOUND


async def test_a_foreign_key_cannot_be_revoked(platform: Platform) -> None:
    own, other = await new_tenant(platform.pool), await new_tenant(platform.pool)
    foreign = await create(platform, other)
    boss = platform.caller(own, Role.TENANT_ADMIN)
    request = pb.RevokeApiKeyRequest(tenant_id=own, key_id=foreign.api_key.key_id)
    answer = await refusal(platform.tenants.RevokeApiKey(request, metadata=boss))
    assert answer.code is grpc.StatusCode.NOT_FOUND
    assert (await authenticate(platform, foreign.secret)).access_token


async def test_keys_are_listed_in_pages(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool)
    made = [(await create(platform, tenant_id)).api_key.key_id for _ in range(3)][::-1]
    request = pb.ListApiKeysRequest(tenant_id=tenant_id, page_size=2)
    first = await platform.tenants.ListApiKeys(request, metadata=platform.admin())
    request.page_token = first.next_page_token
    second = await platform.tenants.ListApiKeys(request, metadata=platform.admin())
    assert [key.key_id for key in (*first.api_keys, *second.api_keys)] == made


async def test_only_a_services_key_may_act_for_a_tenant_and_then_only_in_the_background(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool)
    exchange = platform.tenants.Authenticate
    granted = await exchange(pb.AuthenticateRequest(credential=platform.service_key, tenant_id=tenant_id))
    caller = TokenVerifier(platform.keys.public_pem).verify(granted.access_token)
    assert (caller.tenant_id, caller.user_id) == (tenant_id, "")
    assert caller.scopes == BACKGROUND_PERMISSIONS
    assert not caller.may("act_as")
    assert not caller.may("documents.read")

    own = (await create(platform, tenant_id)).secret
    await platform.tenants.DeactivateTenant(
        pb.DeactivateTenantRequest(tenant_id=(gone := await new_tenant(platform.pool))), metadata=platform.admin()
    )
    for credential, named in ((own, tenant_id), (platform.service_key, gone), (platform.service_key, "nowhere")):
        answer = await refusal(exchange(pb.AuthenticateRequest(credential=credential, tenant_id=named)))
        assert answer.code is grpc.StatusCode.UNAUTHENTICATED


async def test_the_bootstrap_keys_open_the_platform_and_its_services(platform: Platform) -> None:
    admin = await authenticate(platform, platform.admin_key)
    assert (admin.tenant_id, frozenset(admin.permissions)) == ("", PERMISSIONS[Role.PLATFORM_ADMIN])
    made = await platform.tenants.CreateTenant(
        pb.CreateTenantRequest(display_name="Primeira"), metadata=as_caller(admin.access_token)
    )
    service = await authenticate(platform, platform.service_key)
    user = await authenticate(platform, (await create(platform, made.tenant_id)).secret)
    held = await platform.quotas.ReserveTokens(
        quota_service_pb2.ReserveTokensRequest(tokens=5),
        metadata=as_service(service.access_token, user.access_token),
    )
    assert held.granted_tokens == 5


async def test_replicas_may_start_at_once_and_a_rotated_bootstrap_key_is_void(
    pool: asyncpg.Pool, other_pool: asyncpg.Pool, config: Config, platform: Platform
) -> None:
    keyed_hash = KeyedHash(config.api_key_pepper)
    stores = [ApiKeys(each, keyed_hash, config.api_key_environment) for each in (pool, other_pool)]
    current = {Role.PLATFORM_ADMIN: config.bootstrap_admin_key, Role.SERVICE: config.bootstrap_service_key}
    fresh_key = new_secret("test")
    try:
        await asyncio.gather(*(stores[n % 2].ensure_bootstrap(current) for n in range(8)))
        rotated = {**current, Role.PLATFORM_ADMIN: SecretStr(fresh_key)}
        await stores[0].ensure_bootstrap(rotated)
        assert (await authenticate(platform, fresh_key)).permissions
        assert (await refused(platform, platform.admin_key)).reason == "CREDENTIALS_INVALID"
    finally:
        await stores[0].ensure_bootstrap(current)
    assert (await authenticate(platform, platform.admin_key)).permissions


async def test_a_bootstrap_key_of_the_wrong_form_stops_the_start_without_printing_it(config: Config) -> None:
    wrong = config.model_copy(update={"bootstrap_admin_key": SecretStr("hunter2")})
    with pytest.raises(ValueError, match="new-key") as stopped:
        async with open_endpoints(wrong):
            pass
    assert "hunter2" not in str(stopped.value)


async def test_no_secret_is_logged_or_printed(
    platform: Platform, config: Config, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    tenant_id = await new_tenant(platform.pool)
    made = await create(platform, tenant_id, display_name=fresh("key"))
    granted = await authenticate(platform, made.secret)
    await refused(platform, made.secret + "x")
    printed = capfd.readouterr()
    said = caplog.text + printed.out + printed.err + repr(config) + str(parse_secret(made.secret))
    for secret in (made.secret, granted.access_token, "a pepper of these tests", platform.admin_key, "PRIVATE KEY"):
        assert secret not in said
