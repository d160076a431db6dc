"""A person erased: nothing says who they were, and the account adds up as before."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import grpc
import pytest
from pydantic import SecretStr

from prosa.tenant_quota.v1 import quota_service_pb2 as quotas
from prosa.tenant_quota.v1 import session_service_pb2 as sessions
from prosa.tenant_quota.v1 import tenant_service_pb2 as pb
from services.tenant_quota.__main__ import SCHEMA, SCHEMA_DIRECTORY
from services.tenant_quota.audit import discrepancies
from services.tenant_quota.config import Config
from services.tenant_quota.credentials import KeyedHash
from services.tenant_quota.erasure import Erasure
from services.tenant_quota.model import Role
from services.tenant_quota.reservations import Reservations
from services.tenant_quota.sessions import Sessions
from shared.errors import Conflict
from shared.postgres import migrate, open_pool, tenant_transaction
from tests.tenant_quota.account_world import more, new_plan
from tests.tenant_quota.world import Platform, commit, fresh, new_tenant, new_user, refusal, wish

PASSWORD = "correct horse battery staple"
NAMED_IN = """
SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'tenant_quota'::regnamespace AND c.relkind = 'r'
"""


@dataclass(frozen=True)
class Person:
    """Somebody who has left something everywhere."""

    tenant_id: str
    user_id: str
    name: str
    email: str
    secret: str
    held_id: str


@pytest.fixture
async def person(platform: Platform, pool: asyncpg.Pool) -> Person:
    tenant_id = await new_tenant(pool, tokens_per_month=10_000)
    admin, user_id, name = platform.admin(), fresh("maria"), fresh("Maria das Dores")
    email = f"{user_id}@example.org"
    user = pb.CreateUserRequest(
        tenant_id=tenant_id, user_id=user_id, display_name=name, email=email, role=pb.ROLE_MEMBER, request_id="u"
    )
    await platform.tenants.CreateUser(user, metadata=admin)
    wanted = pb.CreateApiKeyRequest(tenant_id=tenant_id, user_id=user_id, display_name=f"do {name}", request_id="k")
    key = await platform.tenants.CreateApiKey(wanted, metadata=admin)
    await platform.tenants.Authenticate(pb.AuthenticateRequest(credential=key.secret))
    for subject in ({"user_id": user_id}, {"key_id": key.api_key.key_id}):
        limit = quotas.SetQuotaRequest(tenant_id=tenant_id, quota=quotas.Quota(tokens_per_month=500), **subject)
        await platform.quotas.SetQuota(limit, metadata=admin)
    password = sessions.SetPasswordRequest(tenant_id=tenant_id, user_id=user_id, new_password=PASSWORD)
    await platform.sessions.SetPassword(password, metadata=admin)
    await platform.sessions.Login(sessions.LoginRequest(email=email, password=PASSWORD))
    store = Reservations(pool)
    for tokens in (40, 60):
        held = await store.reserve(wish(tenant_id, tokens, user_id=user_id))
        await store.settle(commit(tenant_id, held.reservation_id, tokens // 2))
    held = await store.reserve(wish(tenant_id, 30, user_id=user_id))
    async with tenant_transaction(pool, tenant_id) as connection:
        await connection.execute("SELECT set_config('app.tenants', jsonb_object($1, $1)::text, true)", [tenant_id])
        await connection.execute(
            """INSERT INTO signals (tenant_id, level, subject, "window", measure, period_start, percent, limit_amount,
                                    used_amount, period_start_time, create_time)
               VALUES ($1, 2, $2, 2, 1, '2026-11-01', 80, 500, 400, now(), now())""",
            tenant_id,
            user_id,
        )
    return Person(tenant_id, user_id, name, email, key.secret, held.reservation_id)


async def erase(platform: Platform, tenant_id: str, user_id: str) -> Mapping[str, tuple[int, int]]:
    request = pb.EraseUserRequest(tenant_id=tenant_id, user_id=user_id)
    answer = await platform.tenants.EraseUser(request, metadata=platform.caller(tenant_id, Role.TENANT_ADMIN))
    return {each.name: (each.deleted_rows, each.renamed_rows) for each in answer.tables}


async def tables_that_name(database: SecretStr, *words: str) -> set[str]:
    """The tables with a row that holds one of the words, in whatever column."""
    superuser = await asyncpg.connect(database.get_secret_value())
    try:
        await superuser.execute("SET search_path = tenant_quota")
        pattern = [f"%{word}%" for word in words]
        names = [row["relname"] for row in await superuser.fetch(NAMED_IN)]
        found = [
            await superuser.fetchval(f"SELECT EXISTS (SELECT FROM {name} t WHERE t::text ILIKE ANY ($1))", pattern)
            for name in names
        ]
    finally:
        await superuser.close()
    return {name for name, is_named in zip(names, found, strict=True) if is_named}


async def sums(pool: asyncpg.Pool, tenant_id: str) -> list[tuple[object, ...]]:
    """Everything that is counted, without whose it is."""
    statements = (
        "SELECT count(*), sum(held_delta), sum(used_delta), sum(cost_micros), count(DISTINCT user_id) FROM ledger",
        "SELECT count(*), sum(granted), sum(state), count(DISTINCT user_id) FROM reservations",
        "SELECT level, sum(used), sum(held) FROM balances GROUP BY level ORDER BY level",
        "SELECT count(*), sum(requests), sum(output_tokens), sum(cost_micros) FROM usage_days",
        "SELECT count(*), sum(used_amount) FROM signals",
    )
    async with tenant_transaction(pool, tenant_id) as connection:
        return [tuple(row.values()) for each in statements for row in await connection.fetch(each)]


async def test_an_erased_person_is_named_nowhere_and_every_sum_is_as_before(
    platform: Platform, pool: asyncpg.Pool, database: SecretStr, person: Person
) -> None:
    words = (person.user_id, person.name, person.email)
    before = await sums(pool, person.tenant_id)
    assert {"users", "api_keys", "ledger", "reservations", "balances", "requests"} <= await tables_that_name(
        database, *words
    )
    receipt = await erase(platform, person.tenant_id, person.user_id)
    assert receipt == {
        "users": (1, 0),
        "passwords": (1, 0),
        "sessions": (1, 0),
        "api_keys": (1, 0),
        "quotas": (2, 0),
        "requests": (2, 0),
        "balances": (0, 1),
        "reservations": (0, 3),
        "ledger": (0, 5),
        "usage_days": (0, 1),
        "signals": (0, 1),
        **({"last_uses": receipt["last_uses"]} if "last_uses" in receipt else {}),
    }
    assert await tables_that_name(database, *words) == {"erasures"}, "until nothing can be on its way"
    assert await sums(pool, person.tenant_id) == before
    assert await discrepancies(pool, person.tenant_id) == []
    for call in (
        platform.tenants.Authenticate(pb.AuthenticateRequest(credential=person.secret)),
        platform.sessions.Login(sessions.LoginRequest(email=person.email, password=PASSWORD)),
    ):
        assert (await refusal(call)).code is grpc.StatusCode.UNAUTHENTICATED
    assert await erase(platform, person.tenant_id, person.user_id) == {}


async def test_what_the_erased_still_hold_is_settled_as_usual(
    platform: Platform, pool: asyncpg.Pool, person: Person
) -> None:
    await erase(platform, person.tenant_id, person.user_id)
    settled = await Reservations(pool).settle(commit(person.tenant_id, person.held_id, 20))
    assert settled is not None
    assert await discrepancies(pool, person.tenant_id) == []
    async with tenant_transaction(pool, person.tenant_id) as connection:
        rows = await connection.fetch("SELECT DISTINCT user_id FROM ledger")
    (pseudonym,) = [row["user_id"] for row in rows]
    assert pseudonym.startswith("erased-")


async def test_what_comes_after_the_erasure_is_erased_too_and_then_the_id_is_forgotten(
    platform: Platform, pool: asyncpg.Pool, database: SecretStr, person: Person, config: Config
) -> None:
    await erase(platform, person.tenant_id, person.user_id)
    late = await Reservations(pool).reserve(wish(person.tenant_id, 10, user_id=person.user_id))
    again = pb.CreateUserRequest(
        tenant_id=person.tenant_id, user_id=person.user_id, display_name="x", email=person.email, role=pb.ROLE_MEMBER
    )
    refused = await refusal(platform.tenants.CreateUser(again, metadata=platform.admin()))
    assert refused.code is grpc.StatusCode.ALREADY_EXISTS
    store = Sessions(pool, KeyedHash(config.api_key_pepper), "test", lifetime_seconds=1, idle_seconds=1)
    erasure = Erasure(pool, store)
    await erasure.finish()
    assert "ledger" in await tables_that_name(database, person.user_id), "it is not time yet"
    async with tenant_transaction(pool, person.tenant_id) as connection:
        await connection.execute("UPDATE erasures SET forget_time = now()")
    await erasure.finish()
    assert await tables_that_name(database, person.user_id) == set()
    await Reservations(pool).settle(commit(person.tenant_id, late.reservation_id, 4))
    assert await discrepancies(pool, person.tenant_id) == []
    assert (await platform.tenants.CreateUser(again, metadata=platform.admin())).user_id == person.user_id


async def test_erasures_and_reservations_at_once_leave_a_true_account(
    platform: Platform, pool: asyncpg.Pool, person: Person
) -> None:
    store = Reservations(pool)

    async def turn() -> None:
        held = await store.reserve(wish(person.tenant_id, 8, user_id=person.user_id))
        await store.settle(commit(person.tenant_id, held.reservation_id, 4))

    turns = [turn() for _ in range(25)]
    erasures = [erase(platform, person.tenant_id, person.user_id) for _ in range(5)]
    await asyncio.gather(*turns, *erasures)
    assert await discrepancies(pool, person.tenant_id) == []


async def test_erasing_nobody_changes_nothing_and_a_foreign_person_is_nobody(
    platform: Platform, pool: asyncpg.Pool, person: Person
) -> None:
    other = await new_tenant(pool)
    before = await sums(pool, person.tenant_id)
    assert await erase(platform, other, person.user_id) == {}
    assert await sums(pool, person.tenant_id) == before
    foreign = pb.EraseUserRequest(tenant_id=person.tenant_id, user_id=person.user_id)
    boss = platform.caller(other, Role.TENANT_ADMIN)
    assert (await refusal(platform.tenants.EraseUser(foreign, metadata=boss))).reason == "TENANT_MISMATCH"
    member = platform.caller(person.tenant_id, Role.MEMBER, person.user_id)
    assert (await refusal(platform.tenants.EraseUser(foreign, metadata=member))).reason == "PERMISSION_MISSING"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with tenant_transaction(pool, other) as connection:
            await connection.fetch("SELECT * FROM erase_user($1, $2)", person.tenant_id, person.user_id)


async def test_nothing_but_an_erasure_changes_the_ledger(
    pool: asyncpg.Pool, database: SecretStr, person: Person
) -> None:
    async with tenant_transaction(pool, person.tenant_id) as connection:
        assert await connection.execute("UPDATE ledger SET user_id = 'erased-x', key_display_name = ''") == "UPDATE 0"
    superuser = await asyncpg.connect(database.get_secret_value())
    try:
        for change in (
            "used_delta = used_delta",
            "user_id = 'somebody else', key_display_name = ''",
            "user_id = 'erased-x', key_display_name = '', cost_micros = cost_micros + 1",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="stays as it is"):
                await superuser.execute(
                    f"UPDATE tenant_quota.ledger SET {change} WHERE tenant_id = $1", person.tenant_id
                )
    finally:
        await superuser.close()


@pytest.mark.usefixtures("database")
async def test_erasing_works_in_a_database_whose_owner_is_no_superuser(fresh_database: Callable[[], str]) -> None:
    """As in a managed PostgreSQL: FORCE ROW LEVEL SECURITY binds the owner of the function too."""
    url, owner, word = fresh_database(), f"owner_{secrets.token_hex(4)}", secrets.token_hex(8)
    parts = urlsplit(url)
    superuser = await asyncpg.connect(url)
    try:
        await superuser.execute(f"CREATE ROLE {owner} LOGIN NOSUPERUSER CREATEROLE PASSWORD '{word}'")
        await superuser.execute(f'ALTER DATABASE "{parts.path[1:]}" OWNER TO {owner}')
        await superuser.execute(f"GRANT prosa_tenant_quota TO {owner} WITH ADMIN OPTION")
        address = (parts.netloc.rpartition("@")[2], parts.path, parts.query)
        owned = SecretStr(urlunsplit(("postgresql", f"{owner}:{word}@{address[0]}", address[1], address[2], "")))
        await migrate(owned, schema=SCHEMA, directory=SCHEMA_DIRECTORY)
        async with open_pool(owned, schema=SCHEMA, max_size=4) as pool:
            tenant_id = await new_tenant(pool, tokens_per_month=100)
            user_id = await new_user(pool, tenant_id)
            store = Reservations(pool)
            held = await store.reserve(wish(tenant_id, 10, user_id=user_id))
            await store.settle(commit(tenant_id, held.reservation_id, 5))
            keeper = Sessions(pool, KeyedHash(SecretStr("pepper")), "test", lifetime_seconds=1, idle_seconds=1)
            erased = {each.name: each.renamed_rows for each in await Erasure(pool, keeper).erase(tenant_id, user_id)}
            assert (erased["ledger"], erased["reservations"], erased["usage_days"]) == (2, 1, 1)
            assert await discrepancies(pool, tenant_id) == []
    finally:
        await superuser.close()


class ErasedMeanwhile(Reservations):
    """A store in which a person is erased between what an extension reads and what it does."""

    def __init__(self, pool: asyncpg.Pool, erase: Callable[[], Awaitable[object]]) -> None:
        super().__init__(pool)
        self._erasures = [erase]

    async def _known(self, wanted: Sequence[tuple[str, str]]) -> list[asyncpg.Record | None]:
        rows = await super()._known(wanted)
        while wanted and self._erasures:
            await self._erasures.pop()()
        return rows


async def test_whoever_is_erased_while_a_reservation_is_extended_leaves_an_account_that_adds_up(
    platform: Platform, pool: asyncpg.Pool
) -> None:
    tenant_id = await new_tenant(pool)
    await new_plan(pool, tenant_id, user_tokens_per_month=1_000)
    user_id = await new_user(pool, tenant_id)
    store = ErasedMeanwhile(pool, lambda: erase(platform, tenant_id, user_id))
    held = await store.reserve(wish(tenant_id, 10, user_id=user_id))
    with pytest.raises(Conflict):
        await store.extend(more(tenant_id, held.reservation_id, 20))
    assert (await store.extend(more(tenant_id, held.reservation_id, 20))).granted == 30
    await store.settle(commit(tenant_id, held.reservation_id, 25))
    assert await discrepancies(pool, tenant_id) == []
