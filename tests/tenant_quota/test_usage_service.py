"""UsageService through the real wire: who sees which usage, pages, and what callers get wrong."""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from prosa.tenant_quota.v1 import quota_service_pb2, usage_service_pb2
from prosa.tenant_quota.v1 import usage_service_pb2 as pb
from prosa.tenant_quota.v1.usage_service_pb2_grpc import UsageServiceStub
from services.tenant_quota.model import BACKGROUND_PERMISSIONS, Role
from services.tenant_quota.quota_model import Settlement, State, TokenUsage
from services.tenant_quota.reservations import Reservations
from tests.house.in_process import Metadata, as_caller, token
from tests.tenant_quota.account_world import ask
from tests.tenant_quota.world import Platform, fresh, new_tenant, new_user, refusal

if TYPE_CHECKING:
    from prosa.tenant_quota.v1.usage_service_pb2_grpc import UsageServiceAsyncStub

DAY, MONTH, USER, KEY, MODEL = (pb.UsageDimension.ValueType(number) for number in range(1, 6))


@pytest.fixture
def stub(platform: Platform) -> "UsageServiceAsyncStub":
    return UsageServiceStub(platform.channel)


@pytest.fixture
async def store(platform: Platform) -> AsyncIterator[Reservations]:
    reservations = Reservations(platform.pool)
    yield reservations
    await reservations.close()


async def use(store: Reservations, tenant_id: str, user_id: str, key_id: str, model: str, tokens: int) -> None:
    held = await store.reserve(ask(tenant_id, tokens, user_id=user_id, key_id=key_id, model=model))
    usage = TokenUsage(tokens - 3, 1, 1, 1)
    await store.settle(Settlement(tenant_id, held.reservation_id, State.COMMITTED, usage, 1, cost_micros=2 * tokens))


@pytest.fixture
async def tenant(platform: Platform, store: Reservations) -> tuple[str, str, str]:
    """A tenant and two of its users, who used 100 + 20 and 7 tokens."""
    tenant_id = await new_tenant(platform.pool)
    maria, joao = sorted([await new_user(platform.pool, tenant_id), await new_user(platform.pool, tenant_id)])
    await use(store, tenant_id, maria, "key-a", "m1", 100)
    await use(store, tenant_id, maria, "key-b", "m2", 20)
    await use(store, tenant_id, joao, "key-b", "m2", 7)
    return tenant_id, maria, joao


def around_today(**fields: Any) -> pb.QueryUsageRequest:
    today = datetime.now(UTC).date()
    first, last = today - timedelta(days=1), today + timedelta(days=1)
    return pb.QueryUsageRequest(first_day=first.isoformat(), last_day=last.isoformat(), **fields)


def tokens(line: pb.UsageLine) -> int:
    return line.input_tokens + line.cached_input_tokens + line.output_tokens + line.reasoning_tokens


async def test_usage_is_summed_up_as_wished(
    platform: Platform, stub: "UsageServiceAsyncStub", tenant: tuple[str, str, str]
) -> None:
    tenant_id, maria, joao = tenant
    admin = platform.caller(tenant_id, Role.TENANT_ADMIN)

    async def query(**fields: Any) -> list[pb.UsageLine]:
        return list((await stub.QueryUsage(around_today(**fields), metadata=admin)).lines)

    (total,) = await query()
    assert (total.requests, tokens(total), total.cost_micros, total.cached_input_tokens) == (3, 127, 254, 3)
    by_user = await query(group_by=[USER])
    assert [(line.user_id, tokens(line)) for line in by_user] == [(maria, 120), (joao, 7)]
    by_model_and_key = await query(group_by=[MODEL, KEY])
    assert [(line.model, line.key_id, tokens(line)) for line in by_model_and_key] == [
        ("m1", "key-a", 100),
        ("m2", "key-b", 27),
    ]
    (by_month,) = await query(group_by=[MONTH])
    (by_day,) = await query(group_by=[DAY])
    assert by_day.day.startswith(by_month.month)
    assert len(by_month.month) == 7
    assert [tokens(line) for line in await query(user_id=maria, model="m2")] == [20]
    assert [tokens(line) for line in await query(key_id="key-b")] == [27]
    assert [line.requests for line in await query(model="nobody's")] == [0]
    assert await query(model="nobody's", group_by=[USER]) == []


async def test_pages_show_each_line_once(
    platform: Platform, stub: "UsageServiceAsyncStub", tenant: tuple[str, str, str]
) -> None:
    admin = platform.caller(tenant[0], Role.TENANT_ADMIN)
    wanted: dict[str, Any] = {"group_by": [DAY, USER, KEY, MODEL], "page_size": 1}
    seen, token = [], ""
    while True:
        page = await stub.QueryUsage(around_today(**wanted, page_token=token), metadata=admin)
        assert len(page.lines) == 1
        seen += [(line.day, line.user_id, line.key_id, line.model) for line in page.lines]
        token = page.next_page_token
        if not token:
            break
    assert len(seen) == 3
    assert seen == sorted(seen)
    first = await stub.QueryUsage(around_today(**wanted), metadata=admin)
    other = around_today(group_by=[USER, KEY], page_token=first.next_page_token)
    assert (await refusal(stub.QueryUsage(other, metadata=admin))).reason == "PAGE_TOKEN_MISMATCH"


async def test_a_member_sees_its_own_usage_alone(
    platform: Platform, stub: "UsageServiceAsyncStub", tenant: tuple[str, str, str]
) -> None:
    tenant_id, maria, joao = tenant
    member = platform.caller(tenant_id, Role.MEMBER, joao)
    lines = (await stub.QueryUsage(around_today(group_by=[USER]), metadata=member)).lines
    assert [(line.user_id, tokens(line)) for line in lines] == [(joao, 7)]
    assert not (await stub.QueryUsage(around_today(user_id=maria), metadata=member)).lines
    for call in (
        stub.GetStatement(pb.GetStatementRequest(month="2026-11"), metadata=member),
        stub.Simulate(pb.SimulateRequest(tenant_id=tenant_id), metadata=member),
        stub.AuditLedger(pb.AuditLedgerRequest(tenant_id=tenant_id), metadata=member),
    ):
        refused = await refusal(call)
        assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_MISSING")


async def test_a_service_sees_all_usage_of_a_tenant_in_the_background_and_not_on_somebodys_behalf(
    platform: Platform, stub: "UsageServiceAsyncStub", tenant: tuple[str, str, str]
) -> None:
    tenant_id, _, joao = tenant
    background = as_caller(token(platform.keys, tenant_id=tenant_id, scopes=BACKGROUND_PERMISSIONS))
    lines = (await stub.QueryUsage(around_today(), metadata=background)).lines
    assert [tokens(line) for line in lines] == [127]
    other = around_today(tenant_id=await new_tenant(platform.pool))
    assert (await refusal(stub.QueryUsage(other, metadata=background))).reason == "TENANT_MISMATCH"
    acting = platform.caller(tenant_id, Role.SERVICE, joao)
    lines = (await stub.QueryUsage(around_today(), metadata=acting)).lines
    assert [tokens(line) for line in lines] == [7]


async def test_a_statement_is_told_to_whoever_manages_the_tenant(
    platform: Platform, stub: "UsageServiceAsyncStub", tenant: tuple[str, str, str]
) -> None:
    tenant_id, maria, joao = tenant
    (line,) = (
        await stub.QueryUsage(around_today(group_by=[MONTH]), metadata=platform.caller(tenant_id, Role.TENANT_ADMIN))
    ).lines
    own = pb.GetStatementRequest(month=line.month)
    named = pb.GetStatementRequest(month=line.month, tenant_id=tenant_id)
    statement = await stub.GetStatement(own, metadata=platform.caller(tenant_id, Role.TENANT_ADMIN))
    assert statement == await stub.GetStatement(named, metadata=platform.admin())
    assert (statement.tenant_id, statement.month, statement.final) == (tenant_id, line.month, False)
    assert [(each.user_id, tokens(each)) for each in statement.users] == [(maria, 120), (joao, 7)]
    assert [(each.model, each.cost_micros) for each in statement.models] == [("m1", 200), ("m2", 54)]
    assert (tokens(statement.total), statement.other_users, len(statement.digest)) == (127, 0, 64)


async def test_the_audit_answers_with_nothing(
    platform: Platform, stub: "UsageServiceAsyncStub", tenant: tuple[str, str, str]
) -> None:
    request = pb.AuditLedgerRequest(tenant_id=tenant[0])
    assert await stub.AuditLedger(request, metadata=platform.admin()) == pb.AuditLedgerResponse()
    refused = await refusal(stub.AuditLedger(request, metadata=platform.caller(tenant[0], Role.TENANT_ADMIN)))
    assert refused.reason == "PERMISSION_MISSING"
    missing = pb.AuditLedgerRequest(tenant_id=fresh("tenant"))
    assert (await refusal(stub.AuditLedger(missing, metadata=platform.admin()))).code is grpc.StatusCode.NOT_FOUND


async def test_what_would_have_been_is_told(
    platform: Platform, stub: "UsageServiceAsyncStub", tenant: tuple[str, str, str]
) -> None:
    tenant_id, maria, _ = tenant
    request = pb.SimulateRequest(
        tenant_id=tenant_id,
        quota=quota_service_pb2.Quota(tokens_per_month=50),
        prices=[pb.ProposedPrice(model="m2", input_micros=1_000_000)],
    )
    found = await stub.Simulate(request, metadata=platform.caller(tenant_id, Role.TENANT_ADMIN))
    assert found.complete
    assert (found.reservations, found.denied_reservations, found.denied_tokens) == (3, 1, 100)
    assert found.first_denied_time == found.last_denied_time
    (day,) = found.denied_days
    assert (day.limit, day.reservations, day.tokens) == (pb.DENYING_LIMIT_TOKENS_PER_MONTH, 1, 100)
    assert [(user.user_id, user.tokens) for user in found.denied_users] == [(maria, 100)]
    # Only input has a price: 17 + 4 tokens of m2.
    costs = [(each.model, each.cost_micros, each.simulated_cost_micros) for each in found.models]
    assert costs == [("m1", 200, 0), ("m2", 54, 21)]
    assert (found.total.cost_micros, found.total.simulated_cost_micros) == (254, 21)
    of_a_user = pb.SimulateRequest(
        tenant_id=tenant_id, user_id=maria, quota=quota_service_pb2.Quota(tokens_per_month=10), days=1
    )
    assert (await stub.Simulate(of_a_user, metadata=platform.admin())).reservations == 2


def proposal(**fields: Any) -> pb.SimulateRequest:
    return pb.SimulateRequest(**{"tenant_id": "t", "quota": quota_service_pb2.Quota(), **fields})


PRICE = pb.ProposedPrice(model="m")
MISTAKES = [
    ("GetStatement", pb.GetStatementRequest(month="2026-13"), "month"),
    ("GetStatement", pb.GetStatementRequest(month="2026-1"), "month"),
    ("GetStatement", pb.GetStatementRequest(month="0000-01"), "month"),
    ("GetStatement", pb.GetStatementRequest(), "month"),
    ("QueryUsage", pb.QueryUsageRequest(first_day="2026-02-30", last_day="2026-03-01"), "first_day"),
    ("QueryUsage", pb.QueryUsageRequest(first_day="2026-02-01", last_day="2026-02-32"), "last_day"),
    ("QueryUsage", pb.QueryUsageRequest(first_day="yesterday", last_day="2026-02-01"), "first_day"),
    ("QueryUsage", pb.QueryUsageRequest(first_day="2026-02-02", last_day="2026-02-01"), "last_day"),
    ("QueryUsage", pb.QueryUsageRequest(first_day="2025-01-01", last_day="2026-02-05"), "last_day"),
    ("QueryUsage", around_today(group_by=[DAY, MONTH]), "group_by"),
    ("QueryUsage", around_today(group_by=[USER, USER]), "group_by"),
    ("QueryUsage", around_today(group_by=[0]), "group_by[0]"),
    ("QueryUsage", around_today(page_size=-1), "page_size"),
    ("QueryUsage", around_today(model="a\0b"), "model"),
    ("Simulate", pb.SimulateRequest(tenant_id="t"), "quota"),
    ("Simulate", proposal(days=31), "days"),
    ("Simulate", proposal(user_id="u", key_id="k"), "key_id"),
    ("Simulate", proposal(prices=[PRICE, PRICE]), "prices"),
    ("Simulate", proposal(prices=[PRICE, pb.ProposedPrice(model=" m ")]), "prices"),
    ("Simulate", proposal(prices=[pb.ProposedPrice(model=" ")]), "prices.model"),
    ("Simulate", proposal(prices=[pb.ProposedPrice()]), "prices[0].model"),
    ("Simulate", proposal(prices=[pb.ProposedPrice(model="m", input_micros=-1)]), "prices[0].input_micros"),
    (
        "Simulate",
        proposal(quota=quota_service_pb2.Quota(fair_share_borrow_percent=10)),
        "quota.fair_share_borrow_percent",
    ),
]


@pytest.mark.parametrize(("method", "request_", "field"), MISTAKES)
async def test_a_mistake_names_its_field(
    platform: Platform, stub: "UsageServiceAsyncStub", method: str, request_: Any, field: str
) -> None:
    tenant_id = await new_tenant(platform.pool)
    request_ = type(request_).FromString(request_.SerializeToString())
    request_.tenant_id = tenant_id
    refused = await refusal(getattr(stub, method)(request_, metadata=platform.admin()))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED")
    assert refused.fields == [field]


async def test_four_hundred_days_are_not_too_many(platform: Platform, stub: "UsageServiceAsyncStub") -> None:
    caller: Metadata = platform.caller(await new_tenant(platform.pool), Role.TENANT_ADMIN)
    first = date(2026, 1, 1)
    last = first + timedelta(days=399)
    request = pb.QueryUsageRequest(first_day=first.isoformat(), last_day=last.isoformat())
    assert len((await stub.QueryUsage(request, metadata=caller)).lines) == 1
    oldest = pb.QueryUsageRequest(first_day="0001-01-01", last_day="0001-01-02")
    assert len((await stub.QueryUsage(oldest, metadata=caller)).lines) == 1


async def test_another_tenant_is_not_named(platform: Platform, stub: "UsageServiceAsyncStub") -> None:
    first, second = await new_tenant(platform.pool), await new_tenant(platform.pool)
    stranger = platform.caller(second, Role.TENANT_ADMIN)
    for call in (
        stub.QueryUsage(around_today(tenant_id=first), metadata=stranger),
        stub.GetStatement(pb.GetStatementRequest(tenant_id=first, month="2026-11"), metadata=stranger),
        stub.Simulate(proposal(tenant_id=first), metadata=stranger),
    ):
        assert (await refusal(call)).reason == "TENANT_MISMATCH"


def test_the_contract_says_what_the_model_says() -> None:
    limits = usage_service_pb2.DenyingLimit.keys()
    assert [name.removeprefix("DENYING_LIMIT_") for name in limits][1:] == [
        "TOKENS_PER_DAY",
        "TOKENS_PER_MONTH",
        "COST_PER_MONTH",
        "REQUESTS_PER_MINUTE",
        "NO_PRICE",
    ]
