"""People who come in with a password, through the real wire."""

import asyncio
import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import asyncpg
import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from prosa.tenant_quota.v1 import session_service_pb2 as pb
from prosa.tenant_quota.v1 import tenant_service_pb2 as tenants
from services.tenant_quota.config import Config
from services.tenant_quota.credentials import KeyedHash
from services.tenant_quota.model import PERMISSIONS, LoginThrottled, Role
from services.tenant_quota.passwords import AT_ONCE, MOST_WAITING, PasswordHashing
from services.tenant_quota.sessions import SECONDS_PER_TRY, TRIES_AT_ONCE, Person, Sessions
from shared.caller import TokenVerifier
from shared.errors import Unavailable
from shared.postgres import tenant_transaction
from tests.house.in_process import Metadata, as_caller, token
from tests.tenant_quota.world import Platform, Refusal, fresh, new_tenant, new_user, refusal

PASSWORD = "correct horse battery staple"
OTHER = "um outro segredo, bem comprido"


@dataclass(frozen=True)
class Somebody:
    """A user with a password."""

    platform: Platform
    tenant_id: str
    user_id: str

    @property
    def email(self) -> str:
        return f"{self.user_id}@example.org"

    @property
    def address(self) -> dict[str, str]:
        return {"tenant_id": self.tenant_id, "user_id": self.user_id}

    async def login(self, password: str = PASSWORD) -> pb.LoginResponse:
        return await self.platform.sessions.Login(pb.LoginRequest(email=self.email, password=password))

    async def token(self, credential: str) -> Metadata:
        answer = await self.platform.tenants.Authenticate(tenants.AuthenticateRequest(credential=credential))
        return as_caller(answer.access_token)

    async def is_refused(self, credential: str) -> bool:
        call = self.platform.tenants.Authenticate(tenants.AuthenticateRequest(credential=credential))
        return await call.code() is grpc.StatusCode.UNAUTHENTICATED

    async def sessions(self, metadata: Metadata) -> list[pb.Session]:
        request = pb.ListSessionsRequest(tenant_id=self.tenant_id, user_id=self.user_id)
        return list((await self.platform.sessions.ListSessions(request, metadata=metadata)).sessions)


async def set_password(person: Somebody, metadata: Metadata, new: str = PASSWORD, old: str = "") -> int:
    request = pb.SetPasswordRequest(**person.address, new_password=new, old_password=old)
    return (await person.platform.sessions.SetPassword(request, metadata=metadata)).revoked_sessions


@pytest.fixture
async def member(platform: Platform) -> Somebody:
    return await somebody(platform, Role.MEMBER)


async def somebody(platform: Platform, role: Role, tenant_id: str = "") -> Somebody:
    tenant_id = tenant_id or await new_tenant(platform.pool)
    person = Somebody(platform, tenant_id, await new_user(platform.pool, tenant_id, role))
    await set_password(person, platform.admin())
    return person


@pytest.fixture
def store(pool: asyncpg.Pool, config: Config) -> Callable[[], Sessions]:
    """A replica's store, new as after a restart."""
    keyed_hash = KeyedHash(config.api_key_pepper)
    return lambda: Sessions(pool, keyed_hash, "test", lifetime_seconds=3600, idle_seconds=600)


async def test_a_session_is_taken_wherever_a_key_is(member: Somebody) -> None:
    opened = await member.login()
    assert opened.credential.startswith(f"ps_test_{opened.session.session_id}_")
    assert (opened.session.tenant_id, opened.session.user_id) == (member.tenant_id, member.user_id)
    lifetime = opened.session.expire_time.ToDatetime() - opened.session.create_time.ToDatetime()
    assert 43_199 < lifetime.total_seconds() < 43_201
    request = tenants.AuthenticateRequest(credential=opened.credential)
    granted = await member.platform.tenants.Authenticate(request)
    caller = TokenVerifier(member.platform.keys.public_pem).verify(granted.access_token)
    assert (caller.tenant_id, caller.user_id, caller.key_id) == (
        member.tenant_id,
        member.user_id,
        opened.session.session_id,
    )
    assert caller.scopes == PERMISSIONS[Role.MEMBER] == set(granted.permissions)
    spelled = pb.LoginRequest(email=f"  {member.email.upper()} ", password=PASSWORD)
    assert (await member.platform.sessions.Login(spelled)).credential


async def test_every_failed_login_is_refused_in_the_same_words(platform: Platform, member: Somebody) -> None:
    without = Somebody(platform, member.tenant_id, await new_user(platform.pool, member.tenant_id))
    inactive, homeless = await somebody(platform, Role.MEMBER), await somebody(platform, Role.MEMBER)
    mask = FieldMask(paths=["active"])
    off = tenants.UpdateUserRequest(**inactive.address, user=tenants.User(), update_mask=mask)
    await platform.tenants.UpdateUser(off, metadata=platform.admin())
    gone = tenants.DeactivateTenantRequest(tenant_id=homeless.tenant_id)
    await platform.tenants.DeactivateTenant(gone, metadata=platform.admin())
    nobody = Somebody(platform, member.tenant_id, fresh("nobody"))
    answers = [
        await refusal(attempt)
        for attempt in (
            member.login("wrong"),
            member.login(PASSWORD + " "),
            member.login(PASSWORD.upper()),
            without.login(),
            nobody.login(),
            inactive.login(),
            homeless.login(),
            platform.sessions.Login(pb.LoginRequest(email="no address", password=PASSWORD)),
        )
    ]
    assert {(answer.code, answer.reason) for answer in answers} == {
        (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID")
    }
    assert len({answer.without_trace() for answer in answers}) == 1


async def test_an_unknown_address_takes_as_long_as_a_wrong_password(platform: Platform) -> None:
    people = [await somebody(platform, Role.MEMBER) for _ in range(2)]
    took: dict[str, list[float]] = {"wrong": [], "unknown": []}
    for attempt in range(6):
        for kind, email in (("wrong", people[attempt % 2].email), ("unknown", f"{fresh('nobody')}@example.org")):
            # Of the processor, not of the wall: on a busy machine the latter says nothing.
            began = time.process_time()
            await refusal(platform.sessions.Login(pb.LoginRequest(email=email, password="wrong")))
            took[kind].append(time.process_time() - began)
    wrong, unknown = statistics.median(took["wrong"]), statistics.median(took["unknown"])
    assert 0.5 < unknown / wrong < 2, took
    assert unknown > 0.01, "an unknown address costs a hash too"


async def test_guesses_are_throttled_alike_whether_anybody_has_the_address_or_not(
    platform: Platform, member: Somebody, store: Callable[[], Sessions]
) -> None:
    for email in (member.email, f"{fresh('nobody')}@example.org"):
        for _ in range(TRIES_AT_ONCE - 3):
            await store().count_try(email)
        request = pb.LoginRequest(email=email, password="wrong")
        guesses = await asyncio.gather(*(refusal(platform.sessions.Login(request)) for _ in range(25)))
        tried = [each for each in guesses if each.code is grpc.StatusCode.UNAUTHENTICATED]
        throttled = [each for each in guesses if each.reason == "LOGIN_THROTTLED"]
        assert (len(tried), len(throttled)) == (3, 22)
        assert {each.code for each in throttled} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert all(0 < each.retry_seconds <= SECONDS_PER_TRY for each in throttled)
    assert (await refusal(member.login())).reason == "LOGIN_THROTTLED", "also the right password waits"


async def test_a_login_makes_all_tries_free_again(member: Somebody, store: Callable[[], Sessions]) -> None:
    for _ in range(2):
        for _ in range(TRIES_AT_ONCE - 1):
            await store().count_try(member.email)
        assert (await member.login()).credential


async def test_tries_are_counted_across_restarts_and_come_back_one_by_one(
    store: Callable[[], Sessions], pool: asyncpg.Pool
) -> None:
    email = f"{fresh('nobody')}@example.org"
    for _ in range(TRIES_AT_ONCE):
        await store().count_try(email)
    with pytest.raises(LoginThrottled) as throttled:
        await store().count_try(email)
    wait = throttled.value.retry_after_seconds
    assert wait is not None
    async with tenant_transaction(pool, "*") as connection:
        await connection.execute("UPDATE login_attempts SET full_time = full_time - make_interval(secs => $1)", wait)
    await store().count_try(email)
    with pytest.raises(LoginThrottled):
        await store().count_try(email)
    async with tenant_transaction(pool, "*") as connection:
        await connection.execute("UPDATE login_attempts SET full_time = clock_timestamp() - interval '1 s'")
    await store().forget()
    async with tenant_transaction(pool, "*") as connection:
        assert await connection.fetchval("SELECT count(*) FROM login_attempts") == 0


async def test_users_change_their_own_password_with_the_old_one_alone(platform: Platform, member: Somebody) -> None:
    sessions = [await member.login() for _ in range(2)]
    own = await member.token(sessions[0].credential)
    wrong = await refusal(set_password(member, own, OTHER, "not it at all"))
    assert (wrong.code, wrong.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["old_password"])
    assert (await refusal(set_password(member, own, OTHER))).fields == ["old_password"]
    assert await set_password(member, own, OTHER, PASSWORD) == 2
    assert all([await member.is_refused(each.credential) for each in sessions])
    assert (await refusal(member.login())).code is grpc.StatusCode.UNAUTHENTICATED
    assert (await member.login(OTHER)).credential


async def test_old_passwords_cannot_be_guessed_without_end(
    platform: Platform, member: Somebody, store: Callable[[], Sessions]
) -> None:
    own = platform.caller(member.tenant_id, Role.MEMBER, member.user_id)
    for _ in range(TRIES_AT_ONCE - 1):
        await store().count_try(member.email)
    answers = [await refusal(set_password(member, own, OTHER, "wrong")) for _ in range(2)]
    assert [each.reason for each in answers] == ["VALIDATION_FAILED", "LOGIN_THROTTLED"]


async def test_a_password_opens_no_way_up(platform: Platform) -> None:
    boss = await somebody(platform, Role.TENANT_ADMIN)
    other = await somebody(platform, Role.MEMBER, boss.tenant_id)
    member = platform.caller(boss.tenant_id, Role.MEMBER, other.user_id)
    narrowed = as_caller(
        token(platform.keys, tenant_id=boss.tenant_id, scopes=["tenant.manage", "account.manage"], user_id="x")
    )
    for metadata, code in ((member, grpc.StatusCode.NOT_FOUND), (narrowed, grpc.StatusCode.PERMISSION_DENIED)):
        assert (await refusal(set_password(boss, metadata, OTHER))).code is code
    scoped = as_caller(token(platform.keys, tenant_id=boss.tenant_id, scopes=["account.manage"], user_id=other.user_id))
    assert (await refusal(set_password(other, scoped, OTHER, PASSWORD))).code is grpc.StatusCode.PERMISSION_DENIED
    assert await set_password(other, platform.caller(boss.tenant_id, Role.TENANT_ADMIN), OTHER) == 0


@pytest.mark.parametrize("password", ["", "x" * 11, "ç" * 257, "eleven chars\0"])
async def test_a_password_of_the_wrong_size_is_refused(platform: Platform, member: Somebody, password: str) -> None:
    refused = await refusal(set_password(member, platform.admin(), password))
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["new_password"])


@pytest.mark.parametrize("password", ["            ", "ç" * 256, "🔑🔑🔑🔑🔑🔑🔑🔑🔑🔑🔑🔑"])
async def test_a_password_may_be_of_any_characters(platform: Platform, member: Somebody, password: str) -> None:
    await set_password(member, platform.admin(), password)
    assert (await member.login(password)).credential


async def test_a_session_ends_by_logout_by_its_user_and_by_the_administrator(
    platform: Platform, member: Somebody
) -> None:
    by_logout, by_user, by_boss = [await member.login() for _ in range(3)]
    own = await member.token(by_logout.credential)
    assert [each.session_id for each in await member.sessions(own)] == [
        each.session.session_id for each in (by_boss, by_user, by_logout)
    ]
    boss = platform.caller(member.tenant_id, Role.TENANT_ADMIN)
    for metadata, session in ((own, by_user.session), (boss, by_boss.session)):
        request = pb.RevokeSessionRequest(**member.address, session_id=session.session_id)
        first, second = [await platform.sessions.RevokeSession(request, metadata=metadata) for _ in range(2)]
        assert first == second
        assert first.HasField("revoke_time")
    assert (await platform.sessions.Logout(pb.LogoutRequest(), metadata=own)).HasField("revoke_time")
    for opened in (by_logout, by_user, by_boss):
        assert await member.is_refused(opened.credential)
    assert await member.sessions(boss) == []


async def test_a_key_cannot_log_out_and_sessions_of_others_are_not_found(platform: Platform, member: Somebody) -> None:
    other = await somebody(platform, Role.MEMBER, member.tenant_id)
    foreign = await somebody(platform, Role.MEMBER)
    session = (await member.login()).session
    caller = platform.caller(member.tenant_id, Role.MEMBER, other.user_id)
    boss = platform.caller(foreign.tenant_id, Role.TENANT_ADMIN)
    theirs = {"tenant_id": foreign.tenant_id, "user_id": foreign.user_id}
    for call in (
        platform.sessions.Logout(pb.LogoutRequest(), metadata=caller),
        platform.sessions.ListSessions(
            pb.ListSessionsRequest(tenant_id=member.tenant_id, user_id=member.user_id), metadata=caller
        ),
        platform.sessions.RevokeSession(
            pb.RevokeSessionRequest(**member.address, session_id=session.session_id), metadata=caller
        ),
        platform.sessions.RevokeSession(
            pb.RevokeSessionRequest(**theirs, session_id=session.session_id), metadata=boss
        ),
        platform.sessions.ListSessions(
            pb.ListSessionsRequest(tenant_id=foreign.tenant_id, user_id=member.user_id), metadata=boss
        ),
    ):
        assert (await refusal(call)).code is grpc.StatusCode.NOT_FOUND
    keyless = as_caller(token(platform.keys, scopes=["account.manage"]))
    assert (await refusal(platform.sessions.Logout(pb.LogoutRequest(), metadata=keyless))).reason == "TENANT_MISMATCH"


async def test_a_session_ends_when_it_lies_idle_and_when_its_time_is_up(member: Somebody, pool: asyncpg.Pool) -> None:
    idle, used, old = [await member.login() for _ in range(3)]
    names = [each.session.session_id for each in (idle, used, old)]
    async with tenant_transaction(pool, member.tenant_id) as connection:
        aged = "UPDATE sessions SET create_time = create_time - interval '61 minutes' WHERE session_id = ANY ($1)"
        await connection.execute(aged, names[:2])
        use = "INSERT INTO last_uses VALUES ($1, $2, clock_timestamp() - interval '59 minutes')"
        await connection.execute(use, names[1], member.tenant_id)
        await connection.execute("UPDATE sessions SET expire_time = now() WHERE session_id = $1", names[2])
    assert [await member.is_refused(each.credential) for each in (idle, used, old)] == [True, False, True]
    left = await member.sessions(member.platform.admin())
    assert [each.session_id for each in left] == [names[1]]


async def test_sessions_long_over_are_forgotten(
    member: Somebody, pool: asyncpg.Pool, store: Callable[[], Sessions]
) -> None:
    kept, gone = [(await member.login()).session.session_id for _ in range(2)]
    async with tenant_transaction(pool, member.tenant_id) as connection:
        aged = "UPDATE sessions SET expire_time = now() - interval '31 days' WHERE session_id = $1"
        await connection.execute(aged, gone)
    await store().forget()
    async with tenant_transaction(pool, member.tenant_id) as connection:
        rows = await connection.fetch("SELECT session_id FROM sessions WHERE user_id = $1", member.user_id)
    assert [row["session_id"] for row in rows] == [kept]


async def test_a_password_replaced_while_it_was_checked_opens_nothing(
    member: Somebody, store: Callable[[], Sessions]
) -> None:
    person = await store().person(member.email)
    assert isinstance(person, Person)
    await set_password(member, member.platform.admin(), OTHER)
    assert await store().open(person) is None


async def test_hashing_is_bounded_and_keeps_the_loop_free() -> None:
    hashing = PasswordHashing()
    kept = await hashing.hash(PASSWORD)
    assert kept.startswith("$argon2id$v=19$m=47104,t=1,p=1$")
    assert await hashing.is_right(kept, PASSWORD)
    assert not await hashing.is_right(None, PASSWORD)
    waiting = [asyncio.create_task(hashing.is_right(kept, "wrong")) for _ in range(AT_ONCE + MOST_WAITING)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting), "the loop turns while threads hash"
    with pytest.raises(Unavailable):
        await hashing.is_right(kept, PASSWORD)
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    hashing.close()


async def test_the_database_and_the_logs_hold_no_password_and_no_session(
    platform: Platform,
    member: Somebody,
    pool: asyncpg.Pool,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    opened = await member.login()
    refused: Refusal = await refusal(member.login(OTHER))
    async with tenant_transaction(pool, member.tenant_id) as connection:
        rows = [
            row["row"]
            for table in ("passwords", "sessions")
            for row in await connection.fetch(f"SELECT t::text AS row FROM {table} t")
        ]
    assert len(rows) >= 2
    printed = capfd.readouterr()
    said = "".join([*rows, caplog.text, printed.out, printed.err, str(refused.status)])
    for secret in (PASSWORD, OTHER, opened.credential, opened.credential.split("_")[3]):
        assert secret not in said
