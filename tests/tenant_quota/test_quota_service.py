"""QuotaService through the real wire: limits, reservations, counters, ledger, and who sees what."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from prosa.common.v1 import usage_pb2
from prosa.tenant_quota.v1 import quota_service_pb2 as pb
from services.tenant_quota.model import Role
from tests.house.waiting import until_answered
from tests.tenant_quota.world import Platform, Refusal, counters, fresh, new_tenant, new_user, nothing_held, refusal


def reads(platform: Platform) -> list[tuple[Callable[..., Awaitable[object]], Callable[..., Message]]]:
    """The methods that may name a tenant, and their requests."""
    stub = platform.quotas
    return [
        (stub.GetQuota, pb.GetQuotaRequest),
        (stub.GetUsage, pb.GetUsageRequest),
        (stub.ListLedger, pb.ListLedgerRequest),
    ]


def usage(tokens: int) -> usage_pb2.TokenUsage:
    return usage_pb2.TokenUsage(input_tokens=tokens)


def commit(reservation_id: str, tokens: int) -> pb.CommitReservationRequest:
    return pb.CommitReservationRequest(
        reservation_id=reservation_id,
        usage=usage(tokens),
        usage_source=usage_pb2.USAGE_SOURCE_PROVIDER,
        cost_micros=tokens,
        model="the one that answered",
    )


async def test_a_turn_is_reserved_committed_and_told(platform: Platform) -> None:
    tenant_id, stub = await new_tenant(platform.pool, tokens_per_day=1_000), platform.quotas
    user_id = await new_user(platform.pool, tenant_id, tokens_per_month=2_000)
    holder = platform.holder(tenant_id, user_id)
    held = await stub.ReserveTokens(
        pb.ReserveTokensRequest(tokens=400, model="m", conversation_id="c", assistant_id="a", lease_seconds=30),
        metadata=holder,
    )
    assert (held.state, held.granted_tokens, held.user_id) == (pb.RESERVATION_STATE_HELD, 400, user_id)
    assert not held.HasField("usage")
    assert held.expire_time.ToDatetime() - held.create_time.ToDatetime() == timedelta(seconds=30)

    settled = await stub.CommitReservation(commit(held.reservation_id, 250), metadata=holder)
    assert (settled.state, settled.usage) == (pb.RESERVATION_STATE_COMMITTED, usage(250))
    assert (settled.usage_source, settled.cost_micros) == (usage_pb2.USAGE_SOURCE_PROVIDER, 250)
    assert await stub.CommitReservation(commit(held.reservation_id, 250), metadata=holder) == settled

    member = platform.caller(tenant_id, Role.MEMBER, user_id)
    answer = await stub.GetUsage(pb.GetUsageRequest(), metadata=member)
    shown = [
        (each.window, each.user_id, each.limit_tokens if each.HasField("limit_tokens") else None, each.used_tokens)
        for each in answer.usages
    ]
    assert shown == [
        (pb.WINDOW_DAY, "", 1_000, 250),
        (pb.WINDOW_MONTH, "", None, 250),
        (pb.WINDOW_DAY, user_id, None, 250),
        (pb.WINDOW_MONTH, user_id, 2_000, 250),
    ]
    entries = (await stub.ListLedger(pb.ListLedgerRequest(), metadata=member)).entries
    assert [entry.kind for entry in entries] == [pb.LEDGER_ENTRY_KIND_SETTLED, pb.LEDGER_ENTRY_KIND_RESERVED]
    assert (entries[0].model, entries[1].model) == ("the one that answered", "m")
    assert (entries[0].used_delta, entries[0].usage) == (250, usage(250))


async def test_a_denial_says_which_limit_and_when_to_come_back(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool, tokens_per_day=100)
    holder = platform.holder(tenant_id)
    await platform.quotas.ReserveTokens(pb.ReserveTokensRequest(tokens=90), metadata=holder)

    before = datetime.now(UTC)
    denied = await refusal(platform.quotas.ReserveTokens(pb.ReserveTokensRequest(tokens=20), metadata=holder))
    after = datetime.now(UTC)

    assert (denied.code, denied.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    assert denied.quota_subjects == [f"tenant:{tenant_id}"]
    assert {key: denied.metadata[key] for key in ("window", "limit", "used", "held")} == {
        "window": "day",
        "limit": "100",
        "used": "0",
        "held": "90",
    }
    day = (await platform.quotas.GetUsage(pb.GetUsageRequest(), metadata=holder)).usages[0]
    end = day.end_time.ToDatetime(UTC)
    slack = 0.01
    assert (end - after).total_seconds() - slack <= denied.retry_seconds <= (end - before).total_seconds() + slack


async def test_64_callers_through_the_wire_never_exceed_the_limit(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool, tokens_per_day=1_000)
    holder = platform.holder(tenant_id, "u")

    async def turn(number: int) -> int:
        request = pb.ReserveTokensRequest(tokens=100, request_id=f"turn-{number}")
        try:
            held = await platform.quotas.ReserveTokens(request, metadata=holder)
        except grpc.aio.AioRpcError as error:
            return 0 if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED else -1
        assert (await platform.quotas.ReserveTokens(request, metadata=holder)).reservation_id == held.reservation_id
        await platform.quotas.CommitReservation(commit(held.reservation_id, 100), metadata=holder)
        return 100

    spent = sum(await asyncio.gather(*(turn(number) for number in range(64))))

    assert spent == 1_000
    account = await counters(platform.pool, tenant_id)
    assert (account.used, account.held) == (1_000, 0)


async def test_the_sweeper_of_the_running_service_frees_what_nobody_commits(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool, tokens_per_day=10)
    holder = platform.holder(tenant_id)
    await platform.quotas.ReserveTokens(pb.ReserveTokensRequest(tokens=10, lease_seconds=1), metadata=holder)
    await until_answered(lambda: nothing_held(platform.pool, tenant_id))
    again = await platform.quotas.ReserveTokens(pb.ReserveTokensRequest(tokens=10), metadata=holder)
    released = await platform.quotas.ReleaseReservation(
        pb.ReleaseReservationRequest(reservation_id=again.reservation_id), metadata=holder
    )
    assert released.state == pb.RESERVATION_STATE_RELEASED
    late = await refusal(platform.quotas.CommitReservation(commit(again.reservation_id, 1), metadata=holder))
    assert (late.code, late.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "RESERVATION_EXPIRED")


async def test_a_request_id_stands_for_one_user_and_one_payload(platform: Platform) -> None:
    tenant_id, stub = await new_tenant(platform.pool), platform.quotas
    request = pb.ReserveTokensRequest(tokens=10, request_id="r")
    await stub.ReserveTokens(request, metadata=platform.holder(tenant_id, "maria"))
    other_user = await refusal(stub.ReserveTokens(request, metadata=platform.holder(tenant_id, "jose")))
    assert (other_user.code, other_user.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_ID_REUSED")
    request.tokens = 11
    other_payload = await refusal(stub.ReserveTokens(request, metadata=platform.holder(tenant_id, "maria")))
    assert other_payload.reason == "REQUEST_ID_REUSED"


async def test_a_foreign_reservation_is_the_same_as_a_missing_one(platform: Platform) -> None:
    own, other = await new_tenant(platform.pool), await new_tenant(platform.pool)
    stub = platform.quotas
    held = await stub.ReserveTokens(pb.ReserveTokensRequest(tokens=10), metadata=platform.holder(other))
    foreign, missing = held.reservation_id, "x" * len(held.reservation_id)

    async def both(make: type, **fields: object) -> list[Refusal]:
        method = stub.CommitReservation if make is pb.CommitReservationRequest else stub.ReleaseReservation
        requests = [make(reservation_id=each, **fields) for each in (foreign, missing)]
        return [await refusal(method(request, metadata=platform.holder(own))) for request in requests]

    source = usage_pb2.USAGE_SOURCE_PARTIAL
    for found, absent in (
        await both(pb.ReleaseReservationRequest),
        await both(pb.CommitReservationRequest, usage=usage(1), usage_source=source),
    ):
        assert found.code is grpc.StatusCode.NOT_FOUND
        assert found.without_trace().replace(foreign.encode(), missing.encode()) == absent.without_trace()
    ledger = pb.ListLedgerRequest(reservation_id=foreign)
    assert not (await stub.ListLedger(ledger, metadata=platform.caller(own, Role.TENANT_ADMIN))).entries


async def test_a_quota_is_set_whole_and_read(platform: Platform) -> None:
    tenant_id, stub, admin = await new_tenant(platform.pool), platform.quotas, platform.admin()
    user_id = await new_user(platform.pool, tenant_id)
    unset = await stub.GetQuota(pb.GetQuotaRequest(tenant_id=tenant_id), metadata=admin)
    assert unset == pb.Quota(tenant_id=tenant_id, enforcement=pb.ENFORCEMENT_HARD)

    limits = pb.Quota(tokens_per_day=0, tokens_per_month=5, enforcement=pb.ENFORCEMENT_SOFT)
    wanted = pb.SetQuotaRequest(tenant_id=tenant_id, user_id=user_id, quota=limits)
    kept = await stub.SetQuota(wanted, metadata=admin)
    assert kept.HasField("tokens_per_day")
    assert (kept.user_id, kept.tokens_per_day, kept.tokens_per_month) == (user_id, 0, 5)
    address = pb.GetQuotaRequest(tenant_id=tenant_id, user_id=user_id)
    assert await stub.GetQuota(address, metadata=admin) == kept

    lifted = pb.SetQuotaRequest(tenant_id=tenant_id, user_id=user_id, quota=pb.Quota())
    await stub.SetQuota(lifted, metadata=admin)
    now = await stub.GetQuota(address, metadata=admin)
    assert not now.HasField("tokens_per_day")
    assert now.enforcement == pb.ENFORCEMENT_HARD

    for nobody in ({"tenant_id": "missing"}, {"tenant_id": tenant_id, "user_id": "missing"}):
        answers = [
            await refusal(stub.SetQuota(pb.SetQuotaRequest(**nobody, quota=limits), metadata=admin)),
            await refusal(stub.GetQuota(pb.GetQuotaRequest(**nobody), metadata=admin)),
        ]
        assert {answer.code for answer in answers} == {grpc.StatusCode.NOT_FOUND}


async def test_only_the_platform_sets_limits(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool)
    boss = platform.caller(tenant_id, Role.TENANT_ADMIN)
    request = pb.SetQuotaRequest(tenant_id=tenant_id, quota=pb.Quota())
    assert (await refusal(platform.quotas.SetQuota(request, metadata=boss))).reason == "PERMISSION_MISSING"


async def test_a_member_sees_the_tenant_and_themselves_but_no_other_user(platform: Platform) -> None:
    tenant_id, stub = await new_tenant(platform.pool), platform.quotas
    maria, jose = [await new_user(platform.pool, tenant_id) for _ in range(2)]
    for user_id in (maria, jose):
        await stub.ReserveTokens(pb.ReserveTokensRequest(tokens=5), metadata=platform.holder(tenant_id, user_id))
    member, boss = platform.caller(tenant_id, Role.MEMBER, maria), platform.caller(tenant_id, Role.TENANT_ADMIN)

    assert (await stub.GetQuota(pb.GetQuotaRequest(user_id=maria), metadata=member)).user_id == maria
    for method, make in reads(platform)[:2]:
        for other in (jose, "missing"):
            assert (await refusal(method(make(user_id=other), metadata=member))).code is grpc.StatusCode.NOT_FOUND
    seen = await stub.ListLedger(pb.ListLedgerRequest(), metadata=member)
    assert {entry.user_id for entry in seen.entries} == {maria}
    assert not (await stub.ListLedger(pb.ListLedgerRequest(user_id=jose), metadata=member)).entries
    everything = await stub.ListLedger(pb.ListLedgerRequest(), metadata=boss)
    assert {entry.user_id for entry in everything.entries} == {maria, jose}
    of_jose = await stub.GetUsage(pb.GetUsageRequest(user_id=jose), metadata=boss)
    assert [each.held_tokens for each in of_jose.usages] == [10, 10, 5, 5]


async def test_a_caller_of_no_tenant_must_name_one(platform: Platform) -> None:
    stub, admin = platform.quotas, platform.admin()
    tenant_id = await new_tenant(platform.pool)
    for method, make in reads(platform):
        unnamed = await refusal(method(make(), metadata=admin))
        assert (unnamed.code, unnamed.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["tenant_id"])
        await method(make(tenant_id=tenant_id), metadata=admin)
        assert (await refusal(method(make(tenant_id="nobody"), metadata=admin))).code is grpc.StatusCode.NOT_FOUND
    homeless = await refusal(stub.ReserveTokens(pb.ReserveTokensRequest(tokens=1), metadata=platform.holder("")))
    assert (homeless.code, homeless.reason) == (grpc.StatusCode.PERMISSION_DENIED, "TENANT_MISMATCH")


async def test_another_tenant_cannot_be_named(platform: Platform) -> None:
    own, other = await new_tenant(platform.pool), await new_tenant(platform.pool)
    boss = platform.caller(own, Role.TENANT_ADMIN)
    for method, make in reads(platform):
        answers = [await refusal(method(make(tenant_id=name), metadata=boss)) for name in (other, fresh("none"))]
        assert {answer.reason for answer in answers} == {"TENANT_MISMATCH"}
        assert len({answer.without_trace() for answer in answers}) == 1


async def test_the_ledger_comes_in_pages_and_between_two_instants(platform: Platform) -> None:
    tenant_id, stub = await new_tenant(platform.pool), platform.quotas
    holder, boss = platform.holder(tenant_id, "u"), platform.caller(tenant_id, Role.TENANT_ADMIN)
    held = [await stub.ReserveTokens(pb.ReserveTokensRequest(tokens=number), metadata=holder) for number in range(1, 6)]
    request = pb.ListLedgerRequest(page_size=2)
    seen: list[int] = []
    for _ in range(3):
        page = await stub.ListLedger(request, metadata=boss)
        seen += [entry.held_delta for entry in page.entries]
        request.page_token = page.next_page_token
    assert seen == [5, 4, 3, 2, 1]
    assert not request.page_token

    middle = pb.ListLedgerRequest(start_time=held[1].create_time, end_time=held[3].create_time)
    assert [e.held_delta for e in (await stub.ListLedger(middle, metadata=boss)).entries] == [3, 2]
    one = pb.ListLedgerRequest(reservation_id=held[2].reservation_id)
    assert [e.held_delta for e in (await stub.ListLedger(one, metadata=boss)).entries] == [3]

    first = await stub.ListLedger(pb.ListLedgerRequest(page_size=2), metadata=boss)
    other = pb.ListLedgerRequest(page_size=2, user_id="u", page_token=first.next_page_token)
    assert (await refusal(stub.ListLedger(other, metadata=boss))).reason == "PAGE_TOKEN_MISMATCH"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.ReserveTokensRequest(tokens=0), "tokens"),
        (pb.ReserveTokensRequest(tokens=-5), "tokens"),
        (pb.ReserveTokensRequest(tokens=2**62), "tokens"),
        (pb.ReserveTokensRequest(tokens=5, minimum_tokens=6), "minimum_tokens"),
        (pb.ReserveTokensRequest(tokens=5, lease_seconds=-1), "lease_seconds"),
        (pb.ReserveTokensRequest(tokens=5, model="nul\0"), "model"),
    ],
)
async def test_amounts_that_make_no_sense_are_refused(
    platform: Platform, request_: pb.ReserveTokensRequest, field: str
) -> None:
    holder = platform.holder(await new_tenant(platform.pool))
    refused = await refusal(platform.quotas.ReserveTokens(request_, metadata=holder))
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_a_time_outside_of_the_calendar_is_refused(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool)
    request = pb.ListLedgerRequest(start_time=Timestamp(seconds=2**60))
    boss = platform.caller(tenant_id, Role.TENANT_ADMIN)
    refused = await refusal(platform.quotas.ListLedger(request, metadata=boss))
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["start_time"])


async def test_the_largest_usage_is_charged_without_overflow(platform: Platform) -> None:
    tenant_id, most = await new_tenant(platform.pool), 10**12
    holder = platform.holder(tenant_id)
    for _ in range(3):
        held = await platform.quotas.ReserveTokens(pb.ReserveTokensRequest(tokens=10**9), metadata=holder)
        request = pb.CommitReservationRequest(
            reservation_id=held.reservation_id,
            usage=usage_pb2.TokenUsage(
                input_tokens=most, cached_input_tokens=most, output_tokens=most, reasoning_tokens=most
            ),
            usage_source=usage_pb2.USAGE_SOURCE_ESTIMATED,
            cost_micros=10**15,
        )
        await platform.quotas.CommitReservation(request, metadata=holder)
    assert (await counters(platform.pool, tenant_id)).used == 12 * most
