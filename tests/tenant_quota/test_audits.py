"""The audit: it agrees with an honest account, finds every kind of lie, and goes round all tenants by itself."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from opentelemetry import metrics
from pydantic import SecretStr

from services.tenant_quota.audits import Audits
from services.tenant_quota.nightly_audit import NightlyAudit, night_before
from services.tenant_quota.quota_model import Quota
from services.tenant_quota.quotas import Quotas
from services.tenant_quota.reservations import Reservations
from services.tenant_quota.top_ups import TopUps
from shared.errors import NotFound
from shared.postgres import tenant_transaction
from shared.telemetry import gauge
from tests.tenant_quota.account_world import ask, more, new_key
from tests.tenant_quota.world import commit, fresh, new_tenant, new_user, sweep_all, wish

# What nobody but a lie does; $1 is the tenant.
LIES = {
    "a counter that forgot": "UPDATE balances SET used = used - 1 WHERE tenant_id = $1 AND level = 1",
    "a day that forgot": "UPDATE balances SET day_used[{day}] = day_used[{day}] + 1 WHERE tenant_id = $1 AND level = 1",
    "usage that vanished": "DELETE FROM usage_days WHERE tenant_id = $1",
    "cost that grew": "UPDATE balances SET cost_used = cost_used + 1 WHERE tenant_id = $1 AND level = 1",
    "a top-up that grew": "UPDATE top_ups SET tokens = tokens + 1 WHERE tenant_id = $1",
    "a gift that no day knows": "UPDATE top_up_days SET given = given + 1 WHERE tenant_id = $1",
    "an entry that vanished": "DELETE FROM ledger WHERE tenant_id = $1 AND kind = 2",
}


@pytest.fixture
async def superuser(quiet_database: SecretStr) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(
        quiet_database.get_secret_value(), server_settings={"search_path": "tenant_quota"}
    )
    yield connection
    await connection.close()


@pytest.fixture
async def store(quiet_pool: asyncpg.Pool) -> AsyncIterator[Reservations]:
    reservations = Reservations(quiet_pool)
    yield reservations
    await reservations.close()


async def _busy_tenant(pool: asyncpg.Pool, store: Reservations) -> str:
    """With a bit of everything, up to its limits."""
    tenant_id = await new_tenant(pool, tokens_per_day=100, tokens_per_month=100)
    user_id, key_id = await new_user(pool, tenant_id, tokens_per_day=200), await new_key(pool, tenant_id)
    await TopUps(pool).create(tenant_id, 40, 0, None, "", None)
    held = await store.reserve(ask(tenant_id, 60, user_id=user_id, key_id=key_id))
    child = await store.reserve(ask(tenant_id, 10, parent=held.reservation_id))
    await store.settle(commit(tenant_id, child.reservation_id, 12, cost_micros=3))
    await store.extend(more(tenant_id, held.reservation_id, 30))
    await store.settle(commit(tenant_id, held.reservation_id, 95, cost_micros=5))
    await store.reserve(ask(tenant_id, 30, key_id=key_id))
    return tenant_id


async def test_an_honest_account_agrees(quiet_pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id = await _busy_tenant(quiet_pool, store)
    audit = await Audits(quiet_pool).run(tenant_id)
    assert (list(audit.discrepancies), audit.phantom_held_tokens, audit.overshoot_tokens) == ([], 0, 0)
    with pytest.raises(NotFound):
        await Audits(quiet_pool).run(fresh("tenant"))


@pytest.mark.parametrize("lie", LIES)
async def test_each_lie_is_found(
    quiet_pool: asyncpg.Pool, store: Reservations, superuser: asyncpg.Connection, lie: str
) -> None:
    tenant_id = await _busy_tenant(quiet_pool, store)
    async with tenant_transaction(quiet_pool, tenant_id) as connection:
        day = await connection.fetchval("SELECT extract(day FROM max(day))::int FROM usage_days")
    await superuser.execute(LIES[lie].format(day=day), tenant_id)
    assert (await Audits(quiet_pool).run(tenant_id)).discrepancies


async def test_what_is_held_without_a_live_reservation_is_a_phantom(
    quiet_pool: asyncpg.Pool, store: Reservations, superuser: asyncpg.Connection
) -> None:
    tenant_id = await new_tenant(quiet_pool)
    held = await store.reserve(wish(tenant_id, 30))
    await store.reserve(wish(tenant_id, 7))
    late = "UPDATE reservations SET expire_time = now() - interval '2 minutes' WHERE reservation_id = $1"
    await superuser.execute(late, held.reservation_id)
    assert (await Audits(quiet_pool).run(tenant_id)).phantom_held_tokens == 30, "no sweeper came"
    await sweep_all(quiet_pool, store)
    assert (await Audits(quiet_pool).run(tenant_id)).phantom_held_tokens == 0
    await superuser.execute("UPDATE balances SET held = held + 5 WHERE tenant_id = $1", tenant_id)
    assert (await Audits(quiet_pool).run(tenant_id)).phantom_held_tokens == 5, "nobody holds it"


@pytest.mark.parametrize("level", ["tenant", "user", "key"])
async def test_grants_beyond_a_limit_are_an_overshoot_and_usage_beyond_it_is_none(
    quiet_pool: asyncpg.Pool, store: Reservations, superuser: asyncpg.Connection, level: str
) -> None:
    tenant_id = await new_tenant(quiet_pool)
    user_id, key_id = await new_user(quiet_pool, tenant_id), await new_key(quiet_pool, tenant_id)
    first = await store.reserve(ask(tenant_id, 90, user_id=user_id, key_id=key_id))
    await store.settle(commit(tenant_id, first.reservation_id, 150))
    names = {"tenant": ("", ""), "user": (user_id, ""), "key": ("", key_id)}[level]
    await Quotas(quiet_pool).set(Quota(tenant_id, names[0], tokens_per_month=140, key_id=names[1]))
    backdate = "UPDATE quotas SET update_time = now() - interval '1 hour' WHERE tenant_id = $1"
    await superuser.execute(backdate, tenant_id)
    audits = Audits(quiet_pool)
    assert (await audits.run(tenant_id)).overshoot_tokens == 0, "usage is charged in full"
    await Quotas(quiet_pool).set(Quota(tenant_id, names[0], tokens_per_month=1_000, key_id=names[1]))
    await store.reserve(ask(tenant_id, 20, user_id=user_id, key_id=key_id))
    await Quotas(quiet_pool).set(Quota(tenant_id, names[0], tokens_per_month=160, key_id=names[1]))
    assert (await audits.run(tenant_id)).overshoot_tokens == 0, "a limit that came later"
    await superuser.execute(backdate, tenant_id)
    assert (await audits.run(tenant_id)).overshoot_tokens == 10, "150 were used, 20 were granted, 160 are the limit"


async def test_every_night_each_tenant_is_audited_once_by_one_replica(
    quiet_pool: asyncpg.Pool, other_quiet_pool: asyncpg.Pool, store: Reservations, superuser: asyncpg.Connection
) -> None:
    await superuser.execute("TRUNCATE audits")
    tenants = [await _busy_tenant(quiet_pool, store) for _ in range(3)]
    await superuser.execute("UPDATE balances SET held = held + 5 WHERE tenant_id = $1", tenants[0])
    replicas = [Audits(quiet_pool), Audits(other_quiet_pool)]
    night = datetime.now(UTC) + timedelta(seconds=1)
    await asyncio.sleep(1)
    turns: list[str] = []

    async def replica(audits: Audits) -> None:
        misses = 0
        while misses < 20:
            done = await audits.run_next(night)
            misses += done is None
            turns.extend([] if done is None else [done[0]])
            await asyncio.sleep(0.01 * (done is None))

    await asyncio.gather(*map(replica, replicas))
    assert set(tenants) <= set(turns)
    assert len(turns) == await superuser.fetchval("SELECT count(*) FROM tenants")
    findings = await replicas[0].findings()
    assert findings.phantom_held_tokens >= 5
    assert findings.discrepancies > 0
    assert findings.oldest is not None
    assert await replicas[0].run_next(night) is None, "until the next night"


async def test_an_audit_that_fails_holds_up_nobody(
    quiet_pool: asyncpg.Pool, store: Reservations, superuser: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await superuser.execute("TRUNCATE audits")
    await _busy_tenant(quiet_pool, store)
    await _busy_tenant(quiet_pool, store)
    night = datetime.now(UTC) + timedelta(seconds=1)
    audits = Audits(quiet_pool)
    with monkeypatch.context() as broken:
        broken.setattr("services.tenant_quota.audits.PHANTOM", "SELECT 1 / 0, $1::text")
        with pytest.raises(asyncpg.DivisionByZeroError):
            await audits.run_next(night)
    failed = await superuser.fetchval("SELECT tenant_id FROM audits WHERE audit_time IS NULL")
    assert failed
    done = await audits.run_next(night)
    assert done is not None
    assert done[0] != failed


async def test_the_findings_are_metrics(
    quiet_pool: asyncpg.Pool, store: Reservations, superuser: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await superuser.execute("TRUNCATE audits")
    tenant_id = await _busy_tenant(quiet_pool, store)
    await superuser.execute("UPDATE balances SET held = held + 5 WHERE tenant_id = $1", tenant_id)
    await superuser.execute(
        "UPDATE tenants SET create_time = now() + interval '1 hour' WHERE tenant_id <> $1", tenant_id
    )
    await superuser.execute("UPDATE tenants SET create_time = '2020-01-01' WHERE tenant_id = $1", tenant_id)
    shown: dict[str, float] = {}

    class Shown:
        def __init__(self, name: str) -> None:
            self._name = name

        def set(self, value: float) -> None:
            shown[self._name] = value

    monkeypatch.setattr("services.tenant_quota.nightly_audit.gauge", Shown)
    await NightlyAudit(Audits(quiet_pool), datetime.now(UTC).hour).look()
    assert shown["prosa.quota.phantom_held_tokens"] == 5
    assert shown["prosa.quota.overshoot_tokens"] == 0
    assert shown["prosa.quota.discrepancies"] > 0
    assert shown["prosa.quota.oldest_audit_time"] == pytest.approx(datetime.now(UTC).timestamp(), abs=30)
    assert {type(gauge(name)) for name in shown} == {type(metrics.get_meter("x").create_gauge("y"))}  # type: ignore[arg-type]


def test_a_night_begins_at_its_hour() -> None:
    morning = datetime(2026, 11, 21, 7, 30, tzinfo=UTC)
    assert night_before(morning, 6) == datetime(2026, 11, 21, 6, tzinfo=UTC)
    assert night_before(morning, 8) == datetime(2026, 11, 20, 8, tzinfo=UTC)
