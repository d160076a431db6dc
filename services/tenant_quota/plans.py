"""The store of plans, and of who is on which."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields, replace
from typing import Any

import asyncpg

from services.tenant_quota.model import PLATFORM, Replay
from services.tenant_quota.plan_model import NO_TERMS, Plan, PlanInUse, PlanTerms, TenantPlan, in_force
from services.tenant_quota.quota_model import Enforcement, Quota, UnpricedModels
from services.tenant_quota.quotas import GET_QUOTA, quota_of
from services.tenant_quota.replays import once, present
from services.tenant_quota.tenants import ACROSS_TENANTS, Position, bounds, keep_plan, require_tenant
from shared.errors import AlreadyExists, NotFound
from shared.postgres import tenant_transaction

_TERMS = tuple(field.name for field in fields(PlanTerms))
_COLUMNS = ", ".join(_TERMS)
_PLACES = ", ".join(f"${number}" for number in range(2, len(_TERMS) + 2))

INSERT = f"INSERT INTO plans (plan_id, {_COLUMNS}) VALUES ($1, {_PLACES}) RETURNING *"  # noqa: S608 only constants
UPDATE = f"""
UPDATE plans SET ({_COLUMNS}, update_time) = ({_PLACES}, clock_timestamp()) WHERE plan_id = $1 RETURNING *
"""  # noqa: S608 only constants
GET = "SELECT * FROM plans WHERE plan_id = $1"
GET_TO_CHANGE = "SELECT * FROM plans WHERE plan_id = $1 FOR UPDATE"
LIST = """
SELECT * FROM plans WHERE (create_time, plan_id) < ($1::text::timestamptz, $2)
 ORDER BY create_time DESC, plan_id DESC LIMIT $3
"""
DELETE = "DELETE FROM plans WHERE plan_id = $1 RETURNING true"
COUNT_TENANTS = "SELECT count(*) FROM tenants WHERE plan_id = $1"
GIVE = """
UPDATE tenants SET plan_id = $2, plan_time = CASE plan_id WHEN $2 THEN plan_time ELSE clock_timestamp() END
 WHERE tenant_id = $1 RETURNING true
"""


class Plans:
    """Keeps plans, and puts tenants on them."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def create(self, plan_id: str, terms: PlanTerms, replay: Replay | None) -> Plan:
        """AlreadyExists when the id is taken."""
        async with tenant_transaction(self._pool, ACROSS_TENANTS) as connection:
            try:
                row, _ = await once(
                    connection,
                    PLATFORM,
                    "CreatePlan",
                    replay,
                    "plans",
                    lambda: connection.fetchrow(INSERT, plan_id, *astuple(terms)),
                )
            except asyncpg.UniqueViolationError as error:
                raise AlreadyExists("plan", plan_id) from error
        return _plan(row)

    async def get(self, plan_id: str) -> Plan:
        """NotFound when there is none."""
        async with tenant_transaction(self._pool, ACROSS_TENANTS) as connection:
            return _plan(await _require(connection, GET, plan_id))

    async def list(self, before: Position | None, most: int) -> Sequence[Plan]:
        """Newest first."""
        async with tenant_transaction(self._pool, ACROSS_TENANTS) as connection:
            return [_plan(row) for row in await connection.fetch(LIST, *bounds(before), most)]

    async def update(self, plan_id: str, changes: Mapping[str, Any]) -> Plan:
        """Changes the terms that are in `changes`; NotFound when there is no such plan."""
        async with tenant_transaction(self._pool, ACROSS_TENANTS) as connection:
            now = _plan(await _require(connection, GET_TO_CHANGE, plan_id))
            row = await connection.fetchrow(UPDATE, plan_id, *astuple(replace(now.terms, **changes)))
        return _plan(present(row))

    async def delete(self, plan_id: str) -> None:
        """PlanInUse while a tenant is on it; NotFound."""
        async with tenant_transaction(self._pool, ACROSS_TENANTS) as connection:
            await _require(connection, DELETE, plan_id)
            tenants: int = await connection.fetchval(COUNT_TENANTS, plan_id)
            if tenants:
                raise PlanInUse(tenants)

    async def give(self, tenant_id: str, plan_id: str) -> TenantPlan:
        """The tenant is on the plan from now on, on none when it is ""; NotFound when either does not exist."""
        async with tenant_transaction(self._pool, ACROSS_TENANTS) as connection:
            await keep_plan(connection, plan_id)
            if not await connection.fetchval(GIVE, tenant_id, plan_id):
                raise NotFound("tenant", tenant_id)
        return await self.of_tenant(tenant_id)

    async def of_tenant(self, tenant_id: str) -> TenantPlan:
        """What the tenant is on, and the limits that follow; NotFound without the tenant."""
        async with tenant_transaction(self._pool, tenant_id, snapshot=True) as connection:
            tenant = await require_tenant(connection, tenant_id)
            planned = await connection.fetchrow(GET, tenant["plan_id"])
            own = await connection.fetchrow(GET_QUOTA, tenant_id, 1, "")
        plan = None if planned is None else _plan(planned)
        quota = Quota(tenant_id, "") if own is None else quota_of(own)
        limits = in_force(quota, plan.terms if plan else NO_TERMS)
        return TenantPlan(tenant_id, plan, tenant["plan_time"], limits)


async def _require(connection: asyncpg.Connection, statement: str, plan_id: str) -> asyncpg.Record:
    row = await connection.fetchrow(statement, plan_id)
    if row is None:
        raise NotFound("plan", plan_id)
    return row


def _plan(row: asyncpg.Record) -> Plan:
    kept = {name: row[name] for name in _TERMS}
    kept["enforcement"] = Enforcement(row["enforcement"])
    kept["threshold_percents"] = tuple(row["threshold_percents"])
    kept["unpriced_models"] = UnpricedModels(row["unpriced_models"])
    return Plan(row["plan_id"], PlanTerms(**kept), row["create_time"], row["update_time"])
