"""PlanService through the real wire: plans come, change and go; who is on which, and what is in force then."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import asyncpg
import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from prosa.tenant_quota.v1 import plan_service_pb2 as pb
from prosa.tenant_quota.v1 import quota_service_pb2 as quotas
from prosa.tenant_quota.v1.tenant_service_pb2 import CreateTenantRequest
from prosa.tenant_quota.v1.tenant_service_pb2_grpc import TenantServiceStub
from services.tenant_quota.__main__ import open_endpoints
from services.tenant_quota.config import Config
from services.tenant_quota.model import Role
from services.tenant_quota.plan_model import LimitSource, PlanInUse, PlanTerms
from services.tenant_quota.plans import Plans
from services.tenant_quota.quota_model import Enforcement, Quota
from services.tenant_quota.quotas import Quotas
from services.tenant_quota.reservations import Reservations
from shared.errors import NotFound, QuotaExceeded
from tests.house.in_process import serving
from tests.house.signing import SigningKeys
from tests.tenant_quota.account_world import ask, month, opened
from tests.tenant_quota.world import Platform, fresh, new_tenant, refusal

if TYPE_CHECKING:
    from prosa.tenant_quota.v1.tenant_service_pb2_grpc import TenantServiceAsyncStub

SMALL = pb.Plan(
    display_name=" Município pequeno ",
    tokens_per_day=1_000,
    tokens_per_month=20_000,
    cost_micros_per_month=5_000_000,
    requests_per_minute=60,
    enforcement=quotas.ENFORCEMENT_SOFT,
    threshold_percents=[50, 90],
    unpriced_models=quotas.UNPRICED_MODELS_ADMIT,
    fair_share_borrow_percent=50,
    user_limits=pb.SubjectLimits(tokens_per_day=100, requests_per_minute=0),
    key_limits=pb.SubjectLimits(tokens_per_month=300),
)


@pytest.fixture
async def store(pool: asyncpg.Pool) -> AsyncIterator[Reservations]:
    async with opened(pool) as (only,):
        yield only


async def new_plan(platform: Platform, **terms: object) -> pb.Plan:
    """A plan of its own for one test."""
    request = pb.CreatePlanRequest(plan_id=fresh("plan"), plan=pb.Plan(display_name="Plano", **terms))  # type: ignore[arg-type]
    return await platform.plans.CreatePlan(request, metadata=platform.admin())


async def give(platform: Platform, tenant_id: str, plan_id: str) -> pb.TenantPlan:
    request = pb.SetTenantPlanRequest(tenant_id=tenant_id, plan_id=plan_id)
    return await platform.plans.SetTenantPlan(request, metadata=platform.admin())


async def test_a_new_tenant_is_on_the_plan_it_names_else_on_the_operators(
    platform: Platform, config: Config, signing_keys: SigningKeys
) -> None:
    admin, usual, named = platform.admin(), await new_plan(platform), await new_plan(platform, tokens_per_month=500)
    async with (
        open_endpoints(config.model_copy(update={"new_tenants_plan": usual.plan_id})) as service,
        serving(service.endpoints, signing_keys, ready=service.ready) as channel,
    ):
        tenants: TenantServiceAsyncStub = TenantServiceStub(channel)
        for plan_id, expected in ((named.plan_id, named), ("", usual)):
            request = CreateTenantRequest(display_name="Nova", plan_id=plan_id, request_id=fresh("request"))
            tenant = await tenants.CreateTenant(request, metadata=admin)
            assert await tenants.CreateTenant(request, metadata=admin) == tenant
            own = pb.GetTenantPlanRequest(tenant_id=tenant.tenant_id)
            on = await platform.plans.GetTenantPlan(own, metadata=admin)
            assert (on.plan, on.HasField("plan_time")) == (expected, True)

    unknown = CreateTenantRequest(display_name="Nova", plan_id=fresh("plan"))
    assert (await refusal(platform.tenants.CreateTenant(unknown, metadata=admin))).code is grpc.StatusCode.NOT_FOUND


async def test_a_plan_is_created_read_changed_and_deleted(platform: Platform) -> None:
    admin, stub = platform.admin(), platform.plans
    made = await stub.CreatePlan(pb.CreatePlanRequest(plan=SMALL), metadata=admin)
    expected = pb.Plan(plan_id=made.plan_id, create_time=made.create_time, update_time=made.update_time)
    expected.MergeFrom(SMALL)
    expected.display_name = "Município pequeno"
    assert made == expected
    assert made.plan_id
    assert made.create_time.seconds > 0
    assert await stub.GetPlan(pb.GetPlanRequest(plan_id=made.plan_id), metadata=admin) == made

    paths = ["tokens_per_day", "tokens_per_month", "user_limits", "enforcement", "threshold_percents"]
    change = pb.UpdatePlanRequest(
        plan_id=made.plan_id,
        plan=pb.Plan(display_name="not read", tokens_per_month=7, user_limits=pb.SubjectLimits(tokens_per_month=5)),
        update_mask=FieldMask(paths=paths),
    )
    changed = await stub.UpdatePlan(change, metadata=admin)
    assert not changed.HasField("tokens_per_day"), "named by the mask and left out: lifted"
    assert (changed.tokens_per_month, changed.cost_micros_per_month) == (7, 5_000_000)
    assert changed.user_limits == pb.SubjectLimits(tokens_per_month=5), "in whole"
    assert changed.key_limits == made.key_limits
    assert (changed.display_name, changed.enforcement) == (made.display_name, quotas.ENFORCEMENT_HARD)
    assert list(changed.threshold_percents) == []
    assert changed.update_time.ToNanoseconds() > made.update_time.ToNanoseconds()

    gone = pb.DeletePlanRequest(plan_id=made.plan_id)
    await stub.DeletePlan(gone, metadata=admin)
    for call in (
        stub.DeletePlan(gone, metadata=admin),
        stub.GetPlan(pb.GetPlanRequest(plan_id=made.plan_id), metadata=admin),
        stub.UpdatePlan(change, metadata=admin),
    ):
        assert (await refusal(call)).code is grpc.StatusCode.NOT_FOUND


async def test_repeating_a_request_id_makes_one_plan(platform: Platform) -> None:
    admin, stub = platform.admin(), platform.plans
    request = pb.CreatePlanRequest(plan=SMALL, request_id=fresh("request"))
    answers = await asyncio.gather(*(stub.CreatePlan(request, metadata=admin) for _ in range(10)))
    assert len({answer.SerializeToString(deterministic=True) for answer in answers}) == 1
    request.plan.tokens_per_day += 1
    assert (await refusal(stub.CreatePlan(request, metadata=admin))).reason == "REQUEST_ID_REUSED"
    taken = pb.CreatePlanRequest(plan_id=answers[0].plan_id, plan=SMALL)
    assert (await refusal(stub.CreatePlan(taken, metadata=admin))).code is grpc.StatusCode.ALREADY_EXISTS


@pytest.mark.parametrize(
    ("plan", "field"),
    [
        (pb.Plan(), "plan.display_name"),
        (pb.Plan(display_name=" "), "plan.display_name"),
        (pb.Plan(display_name="x\0"), "plan.display_name"),
        (pb.Plan(display_name="x", tokens_per_day=-1), "plan.tokens_per_day"),
        (pb.Plan(display_name="x", tokens_per_month=10**15 + 1), "plan.tokens_per_month"),
        (pb.Plan(display_name="x", cost_micros_per_month=2**63 - 1), "plan.cost_micros_per_month"),
        (pb.Plan(display_name="x", enforcement=9), "plan.enforcement"),  # type: ignore[arg-type]
        (pb.Plan(display_name="x", threshold_percents=[80, 80]), "plan.threshold_percents"),
        (pb.Plan(display_name="x", key_limits=pb.SubjectLimits(tokens_per_day=-1)), "plan.key_limits.tokens_per_day"),
    ],
)
async def test_what_no_plan_can_say_is_refused(platform: Platform, plan: pb.Plan, field: str) -> None:
    refused = await refusal(platform.plans.CreatePlan(pb.CreatePlanRequest(plan=plan), metadata=platform.admin()))
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


@pytest.mark.parametrize("paths", [[], ["plan_id"], ["create_time"], ["user_limits.tokens_per_day"], ["nonsense"]])
async def test_a_mask_names_what_can_be_changed(platform: Platform, paths: list[str]) -> None:
    plan = await new_plan(platform)
    change = pb.UpdatePlanRequest(plan_id=plan.plan_id, plan=SMALL, update_mask=FieldMask(paths=paths))
    refused = await refusal(platform.plans.UpdatePlan(change, metadata=platform.admin()))
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["update_mask"])


async def test_plans_are_listed_newest_first_in_pages(platform: Platform) -> None:
    made = [(await new_plan(platform)).plan_id for _ in range(5)]
    listed: list[str] = []
    token = ""
    while len(listed) < 5:
        request = pb.ListPlansRequest(page_size=2, page_token=token)
        page = await platform.plans.ListPlans(request, metadata=platform.admin())
        listed += [plan.plan_id for plan in page.plans]
        token = page.next_page_token
    assert listed[:5] == made[::-1]


async def test_a_plan_is_not_deleted_while_a_tenant_is_on_it(platform: Platform) -> None:
    plan = await new_plan(platform, tokens_per_day=5)
    tenants = [await new_tenant(platform.pool) for _ in range(2)]
    for tenant_id in tenants:
        await give(platform, tenant_id, plan.plan_id)
    gone = pb.DeletePlanRequest(plan_id=plan.plan_id)
    refused = await refusal(platform.plans.DeletePlan(gone, metadata=platform.admin()))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "PLAN_IN_USE")
    assert refused.metadata == {"tenants": "2"}
    assert (await give(platform, tenants[0], plan.plan_id)).plan == plan, "it is still there"
    for tenant_id in tenants:
        assert not (await give(platform, tenant_id, "")).HasField("plan")
    await platform.plans.DeletePlan(gone, metadata=platform.admin())


async def test_no_tenant_is_ever_on_a_plan_that_was_deleted_at_that_moment(
    pool: asyncpg.Pool, other_pool: asyncpg.Pool
) -> None:
    here, there = Plans(pool), Plans(other_pool)
    for _ in range(15):
        tenants = [await new_tenant(pool) for _ in range(3)]
        plan = await here.create(fresh("plan"), PlanTerms("Plano"), None)
        ends = await asyncio.gather(
            *(here.give(tenant_id, plan.plan_id) for tenant_id in tenants),
            there.delete(plan.plan_id),
            return_exceptions=True,
        )
        assert all(
            end is None or not isinstance(end, BaseException) or isinstance(end, NotFound | PlanInUse) for end in ends
        )
        on_it = [await _plan_of(pool, tenant_id) for tenant_id in tenants]
        assert on_it == ([plan.plan_id] * 3 if isinstance(ends[-1], PlanInUse) else [""] * 3), ends


async def _plan_of(pool: asyncpg.Pool, tenant_id: str) -> str:
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT set_config('app.tenant', $1, true)", tenant_id)
        return str(await connection.fetchval("SELECT plan_id FROM tenants WHERE tenant_id = $1", tenant_id))


async def test_a_tenant_is_put_on_a_plan_and_taken_off(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool, tokens_per_day=50)
    plan = await new_plan(platform, tokens_per_day=10, tokens_per_month=60, threshold_percents=[70])
    never = await platform.plans.GetTenantPlan(pb.GetTenantPlanRequest(tenant_id=tenant_id), metadata=platform.admin())
    assert not never.HasField("plan")
    assert not never.HasField("plan_time")
    assert list(never.limits.threshold_percents) == [80, 100]

    given = await give(platform, tenant_id, plan.plan_id)
    assert given.plan == plan
    hard = quotas.ENFORCEMENT_HARD
    assert given.limits.tokens_per_day == pb.Limit(most=50, enforcement=hard, source=pb.LIMIT_SOURCE_QUOTA)
    assert given.limits.tokens_per_month == pb.Limit(most=60, enforcement=hard, source=pb.LIMIT_SOURCE_PLAN)
    assert not given.limits.HasField("cost_micros_per_month")
    assert list(given.limits.threshold_percents) == [70]
    assert await give(platform, tenant_id, plan.plan_id) == given, "repeating it changes nothing"

    member = platform.caller(tenant_id, Role.MEMBER, "maria")
    assert await platform.plans.GetTenantPlan(pb.GetTenantPlanRequest(), metadata=member) == given
    off = await give(platform, tenant_id, "")
    assert not off.HasField("plan")
    assert off.plan_time.ToNanoseconds() > given.plan_time.ToNanoseconds()


async def test_a_tenant_or_a_plan_that_does_not_exist_is_not_found(platform: Platform) -> None:
    tenant_id, plan = await new_tenant(platform.pool), await new_plan(platform)
    for wanted in ((tenant_id, fresh("plan")), (fresh("tenant"), plan.plan_id), (fresh("tenant"), "")):
        request = pb.SetTenantPlanRequest(tenant_id=wanted[0], plan_id=wanted[1])
        call = platform.plans.SetTenantPlan(request, metadata=platform.admin())
        assert (await refusal(call)).code is grpc.StatusCode.NOT_FOUND
    missing = pb.GetTenantPlanRequest(tenant_id=fresh("tenant"))
    found = platform.plans.GetTenantPlan(missing, metadata=platform.admin())
    assert (await refusal(found)).code is grpc.StatusCode.NOT_FOUND


async def test_tenants_neither_write_plans_nor_see_those_of_others(platform: Platform) -> None:
    own, other = await new_tenant(platform.pool), await new_tenant(platform.pool)
    plan = await new_plan(platform)
    administrator, stub = platform.caller(own, Role.TENANT_ADMIN, "ana"), platform.plans
    for call in (
        stub.CreatePlan(pb.CreatePlanRequest(plan=SMALL), metadata=administrator),
        stub.GetPlan(pb.GetPlanRequest(plan_id=plan.plan_id), metadata=administrator),
        stub.ListPlans(pb.ListPlansRequest(), metadata=administrator),
        stub.DeletePlan(pb.DeletePlanRequest(plan_id=plan.plan_id), metadata=administrator),
        stub.SetTenantPlan(pb.SetTenantPlanRequest(tenant_id=own, plan_id=plan.plan_id), metadata=administrator),
    ):
        assert (await refusal(call)).reason == "PERMISSION_MISSING"
    foreign = stub.GetTenantPlan(pb.GetTenantPlanRequest(tenant_id=other), metadata=administrator)
    assert (await refusal(foreign)).reason == "TENANT_MISMATCH"


async def test_the_limits_that_are_told_are_those_that_the_account_keeps_to(
    pool: asyncpg.Pool, store: Reservations
) -> None:
    choices = itertools.product((None, 0, 30), (None, 20), Enforcement, Enforcement, (False, True))
    for own, planned, own_enforcement, planned_enforcement, unlimited in choices:
        if unlimited and own is not None:
            continue
        tenant_id = await new_tenant(pool)
        quota = Quota(tenant_id, "", tokens_per_month=own, enforcement=own_enforcement, unlimited=unlimited)
        await Quotas(pool).set(quota)
        terms = PlanTerms("Plano", tokens_per_month=planned, enforcement=planned_enforcement)
        plan = await Plans(pool).create(fresh("plan"), terms, None)
        told = (await Plans(pool).give(tenant_id, plan.plan_id)).limits.tokens_per_month
        assert (told and told.most) == (await month(pool, tenant_id)).limit_tokens
        assert (told and told.source) in (None, LimitSource.PLAN if own is None else LimitSource.QUOTA)
        if told and told.enforcement is Enforcement.HARD:
            with pytest.raises(QuotaExceeded):
                await store.reserve(ask(tenant_id, told.most + 1))
        else:
            assert (await store.reserve(ask(tenant_id, 31))).granted == 31
