"""Keys narrowed, renamed, rotated and seen in use, through the real wire."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from prosa.tenant_quota.v1 import quota_service_pb2 as quotas
from prosa.tenant_quota.v1 import tenant_service_pb2 as pb
from services.tenant_quota.last_uses import LastUses
from services.tenant_quota.model import PERMISSIONS, Role
from shared.clock import ManualClock
from shared.errors import Unavailable
from shared.postgres import tenant_transaction
from tests.house.in_process import as_caller, token
from tests.house.waiting import until_answered
from tests.tenant_quota.world import Platform, fresh, key_ends, new_tenant, new_user, refusal

MINUTE = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)


async def create(platform: Platform, tenant_id: str, **fields: object) -> pb.CreateApiKeyResponse:
    request = pb.CreateApiKeyRequest(tenant_id=tenant_id, **fields)  # type: ignore[arg-type]
    return await platform.tenants.CreateApiKey(request, metadata=platform.admin())


async def rotate(platform: Platform, key: pb.ApiKey, **fields: object) -> pb.RotateApiKeyResponse:
    request = pb.RotateApiKeyRequest(tenant_id=key.tenant_id, key_id=key.key_id, **fields)  # type: ignore[arg-type]
    return await platform.tenants.RotateApiKey(request, metadata=platform.admin())


async def permissions(platform: Platform, secret: str) -> set[str]:
    """What a secret may do; nothing when it is refused."""
    call = platform.tenants.Authenticate(pb.AuthenticateRequest(credential=secret))
    if await call.code() is grpc.StatusCode.UNAUTHENTICATED:
        return set()
    return set((await call).permissions)


async def listed(platform: Platform, tenant_id: str) -> dict[str, pb.ApiKey]:
    request = pb.ListApiKeysRequest(tenant_id=tenant_id)
    return {
        key.key_id: key for key in (await platform.tenants.ListApiKeys(request, metadata=platform.admin())).api_keys
    }


def at(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


async def test_a_key_may_do_what_its_scopes_name_and_no_more(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool)
    scopes = ["quota.read", "documents.read"]
    made = await create(platform, tenant_id, role=pb.ROLE_MEMBER, scopes=scopes)
    assert list(made.api_key.scopes) == list(made.api_key.permissions) == sorted(scopes)
    assert await permissions(platform, made.secret) == set(scopes)
    assert (await listed(platform, tenant_id))[made.api_key.key_id].scopes == sorted(scopes)


@pytest.mark.parametrize("scopes", [["tenant.manage"], ["tenants.admin"], ["Not A Permission"], ["a"] * 51])
async def test_a_scope_outside_of_the_role_is_an_invalid_argument(platform: Platform, scopes: list[str]) -> None:
    tenant_id = await new_tenant(platform.pool)
    request = pb.CreateApiKeyRequest(tenant_id=tenant_id, role=pb.ROLE_MEMBER, scopes=scopes)
    answer = await refusal(platform.tenants.CreateApiKey(request, metadata=platform.admin()))
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT
    assert {field.partition("[")[0] for field in answer.fields} == {"scopes"}


async def test_a_narrowed_key_makes_no_wider_one_and_gets_at_no_wider_secret(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool)
    wide = await create(platform, tenant_id, role=pb.ROLE_TENANT_ADMIN)
    narrow = as_caller(token(platform.keys, tenant_id=tenant_id, scopes=["tenant.manage"]))
    for call in (
        platform.tenants.CreateApiKey(
            pb.CreateApiKeyRequest(tenant_id=tenant_id, role=pb.ROLE_TENANT_ADMIN), metadata=narrow
        ),
        platform.tenants.RotateApiKey(
            pb.RotateApiKeyRequest(tenant_id=tenant_id, key_id=wide.api_key.key_id), metadata=narrow
        ),
    ):
        answer = await refusal(call)
        assert (answer.code, answer.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_MISSING")
    own = pb.CreateApiKeyRequest(tenant_id=tenant_id, role=pb.ROLE_TENANT_ADMIN, scopes=["tenant.manage"])
    assert (await platform.tenants.CreateApiKey(own, metadata=narrow)).secret


async def test_both_keys_work_while_they_overlap_and_the_new_one_carries_everything(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool)
    user_id = await new_user(platform.pool, tenant_id)
    old = await create(platform, tenant_id, user_id=user_id, display_name="site", scopes=["quota.read"])
    new = await rotate(platform, old.api_key, overlap_seconds=60)
    assert new.api_key.key_id != old.api_key.key_id
    assert new.api_key.rotated_from == old.api_key.key_id
    assert (new.api_key.user_id, new.api_key.display_name, new.api_key.role) == (user_id, "site", pb.ROLE_MEMBER)
    assert list(new.api_key.scopes) == ["quota.read"]
    assert not new.api_key.HasField("expire_time")
    for secret in (old.secret, new.secret):
        assert await permissions(platform, secret) == {"quota.read"}
    await key_ends(platform.pool, tenant_id, old.api_key.key_id)
    assert await permissions(platform, old.secret) == set()
    assert await permissions(platform, new.secret) == {"quota.read"}


async def test_the_new_key_has_the_old_one_s_quota(platform: Platform) -> None:
    tenant_id, admin = await new_tenant(platform.pool), platform.admin()
    old = await create(platform, tenant_id)
    limits = quotas.Quota(tokens_per_month=500, requests_per_minute=7, threshold_percents=[50])
    wanted = quotas.SetQuotaRequest(tenant_id=tenant_id, key_id=old.api_key.key_id, quota=limits)
    kept = await platform.quotas.SetQuota(wanted, metadata=admin)
    new = await rotate(platform, old.api_key)
    request = quotas.GetQuotaRequest(tenant_id=tenant_id, key_id=new.api_key.key_id)
    given = await platform.quotas.GetQuota(request, metadata=admin)
    assert (given.tokens_per_month, given.requests_per_minute, list(given.threshold_percents)) == (500, 7, [50])
    assert given.key_id == new.api_key.key_id != kept.key_id


async def test_without_a_word_the_old_key_works_for_a_day_and_with_zero_not_at_all(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool)
    first, second = [await create(platform, tenant_id) for _ in range(2)]
    await rotate(platform, first.api_key)
    left = (await listed(platform, tenant_id))[first.api_key.key_id].expire_time.ToDatetime(UTC) - datetime.now(UTC)
    assert timedelta(hours=23, minutes=59) < left <= timedelta(days=1)
    await rotate(platform, second.api_key, overlap_seconds=0)
    assert await permissions(platform, second.secret) == set()


async def test_a_rotation_makes_no_key_live_longer_than_it_was_meant_to(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool)
    soon = datetime.now(UTC) + timedelta(hours=1)
    old = await create(platform, tenant_id, expire_time=at(soon))
    new = await rotate(platform, old.api_key, overlap_seconds=86_400)
    assert (await listed(platform, tenant_id))[old.api_key.key_id].expire_time.ToDatetime(UTC) == soon
    meant = old.api_key.expire_time.ToDatetime() - old.api_key.create_time.ToDatetime()
    given = new.api_key.expire_time.ToDatetime() - new.api_key.create_time.ToDatetime()
    assert abs(meant - given) < timedelta(seconds=1)
    stated = await rotate(platform, new.api_key, expire_time=at(soon))
    assert stated.api_key.expire_time.ToDatetime(UTC) == soon


async def test_of_25_rotations_at_once_one_makes_a_key(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool)
    old = await create(platform, tenant_id)
    outcomes = await asyncio.gather(*(rotate(platform, old.api_key) for _ in range(25)), return_exceptions=True)
    made = [each for each in outcomes if isinstance(each, pb.RotateApiKeyResponse)]
    codes = {each.code() for each in outcomes if isinstance(each, grpc.aio.AioRpcError)}
    assert (len(made), codes) == (1, {grpc.StatusCode.FAILED_PRECONDITION})
    assert len(await listed(platform, tenant_id)) == 2
    assert await permissions(platform, made[0].secret)


async def test_a_repeated_rotation_gives_the_same_key_without_its_secret(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool)
    old = await create(platform, tenant_id)
    answers = await asyncio.gather(*(rotate(platform, old.api_key, request_id="turn") for _ in range(5)))
    assert len({each.api_key.key_id for each in answers}) == 1
    assert len([each for each in answers if each.secret]) == 1


async def test_what_has_ended_is_not_rotated(platform: Platform) -> None:
    tenant_id, other = await new_tenant(platform.pool), await new_tenant(platform.pool)
    revoked, foreign = await create(platform, tenant_id), await create(platform, other)
    expired = await create(platform, tenant_id)
    revoke = pb.RevokeApiKeyRequest(tenant_id=tenant_id, key_id=revoked.api_key.key_id)
    await platform.tenants.RevokeApiKey(revoke, metadata=platform.admin())
    await key_ends(platform.pool, tenant_id, expired.api_key.key_id)
    for key in (revoked, expired):
        answer = await refusal(rotate(platform, key.api_key))
        assert (answer.code, answer.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "API_KEY_ENDED")
    for key_id in ("missing", foreign.api_key.key_id):
        answer = await refusal(rotate(platform, pb.ApiKey(tenant_id=tenant_id, key_id=key_id)))
        assert answer.code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("fields", [{"overlap_seconds": -1}, {"overlap_seconds": 2_592_001}])
async def test_an_overlap_that_makes_no_sense_is_an_invalid_argument(
    platform: Platform, fields: dict[str, int]
) -> None:
    old = await create(platform, await new_tenant(platform.pool))
    answer = await refusal(rotate(platform, old.api_key, **fields))
    assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["overlap_seconds"])
    assert (await refusal(rotate(platform, old.api_key, expire_time=Timestamp(seconds=1)))).fields == ["expire_time"]


async def test_a_key_is_renamed_and_nothing_else_of_it_changes(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool)
    made = await create(platform, tenant_id, display_name="old")
    request = pb.UpdateApiKeyRequest(
        tenant_id=tenant_id,
        key_id=made.api_key.key_id,
        api_key=pb.ApiKey(display_name=" new ", role=pb.ROLE_TENANT_ADMIN),
        update_mask=FieldMask(paths=["display_name"]),
    )
    changed = await platform.tenants.UpdateApiKey(request, metadata=platform.admin())
    assert (changed.display_name, changed.role) == ("new", made.api_key.role)
    request.update_mask.paths[:] = ["role"]
    assert (await refusal(platform.tenants.UpdateApiKey(request, metadata=platform.admin()))).fields == ["update_mask"]
    request.update_mask.paths[:] = ["display_name"]
    request.key_id = "missing"
    answer = await refusal(platform.tenants.UpdateApiKey(request, metadata=platform.admin()))
    assert answer.code is grpc.StatusCode.NOT_FOUND


async def test_25_first_uses_of_a_new_key_are_one_last_use(platform: Platform, pool: asyncpg.Pool) -> None:
    tenant_id = await new_tenant(pool)
    made = await create(platform, tenant_id)
    assert not made.api_key.HasField("last_use_time")
    used = await asyncio.gather(*(permissions(platform, made.secret) for _ in range(25)))
    assert all(each == PERMISSIONS[Role.END_USER] for each in used)

    async def is_noted() -> bool:
        return (await listed(platform, tenant_id))[made.api_key.key_id].HasField("last_use_time")

    await until_answered(is_noted)
    last = (await listed(platform, tenant_id))[made.api_key.key_id].last_use_time.ToDatetime(UTC)
    assert (last.second, last.microsecond) == (0, 0)
    assert timedelta() <= datetime.now(UTC) - last < timedelta(minutes=2)


async def kept_uses(pool: asyncpg.Pool, tenant_id: str) -> dict[str, datetime]:
    async with tenant_transaction(pool, tenant_id) as connection:
        return {row["credential_id"]: row["use_time"] for row in await connection.fetch("SELECT * FROM last_uses")}


async def test_a_use_is_written_once_a_minute_and_never_goes_back(platform: Platform, pool: asyncpg.Pool) -> None:
    tenant_id = await new_tenant(pool)
    key_id = (await create(platform, tenant_id)).api_key.key_id
    clock = ManualClock(MINUTE + timedelta(seconds=40))
    uses = LastUses(pool, clock)
    uses.note(tenant_id, key_id)
    await uses.write()
    assert await kept_uses(pool, tenant_id) == {key_id: MINUTE}
    uses.note(tenant_id, key_id)
    assert not uses._noted, "a second use in the same minute costs nothing"
    clock.advance(-3600)
    uses.note(tenant_id, key_id)
    await uses.write()
    assert await kept_uses(pool, tenant_id) == {key_id: MINUTE}, "a clock that steps back changes nothing"
    clock.advance(3600 + 60)
    uses.note(tenant_id, key_id)
    await uses.write()
    assert await kept_uses(pool, tenant_id) == {key_id: MINUTE + timedelta(minutes=1)}
    clock.advance(180)
    uses.note(tenant_id, key_id)
    await uses.write()
    assert len(uses._written) == 1


async def test_what_could_not_be_written_is_written_the_next_time(platform: Platform, pool: asyncpg.Pool) -> None:
    tenant_id = await new_tenant(pool)
    key_id = (await create(platform, tenant_id)).api_key.key_id
    uses = LastUses(pool, ManualClock(MINUTE))
    uses.note(tenant_id, key_id)
    uses.note(tenant_id, fresh("erased"))
    async with tenant_transaction(pool, "*") as blocker:
        await blocker.execute("LOCK TABLE last_uses IN SHARE MODE")
        attempt = asyncio.create_task(uses.write())
        await asyncio.sleep(0.1)
        attempt.cancel()
        with pytest.raises((asyncio.CancelledError, Unavailable)):
            await attempt
    await uses.write()
    assert await kept_uses(pool, tenant_id) == {key_id: MINUTE}, "an erased credential leaves nothing"
