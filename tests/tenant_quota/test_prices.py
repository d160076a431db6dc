"""PriceService through the real wire: the price book is appended to, and what was in force stays."""

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from prosa.tenant_quota.v1 import plan_service_pb2 as pb
from services.tenant_quota.model import Role
from tests.tenant_quota.world import Platform, fresh, insisting, new_tenant, refusal

MOST = 10**11


def price(model: str, micros: int = 0, begin: Timestamp | None = None, request_id: str = "") -> pb.SetPriceRequest:
    """The same for all components."""
    return pb.SetPriceRequest(
        model=model,
        effective_time=begin,
        input_micros=micros,
        cached_input_micros=micros,
        output_micros=micros,
        reasoning_micros=micros,
        request_id=request_id,
    )


def at(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def in_days(days: float) -> Timestamp:
    return at(datetime.now(UTC) + timedelta(days=days))


async def micros_of(platform: Platform, model: str, time: Timestamp | None = None) -> int:
    """What the model's prompts cost then."""
    request = pb.GetPriceRequest(model=model, time=time)
    return (await platform.prices.GetPrice(request, metadata=platform.admin())).input_micros


async def listed(platform: Platform, model: str) -> list[int]:
    found = await platform.prices.ListPrices(pb.ListPricesRequest(model=model), metadata=platform.admin())
    return [each.input_micros for each in found.prices]


async def test_a_price_is_set_from_now_on_and_from_a_time_on(platform: Platform) -> None:
    admin, stub, model = platform.admin(), platform.prices, fresh("model")
    request = pb.SetPriceRequest(
        model=f"  {model} ", input_micros=4, cached_input_micros=3, output_micros=2, reasoning_micros=1
    )
    before = datetime.now(UTC)
    now = await stub.SetPrice(request, metadata=admin)
    assert (now.model, now.currency_code) == (model, "BRL")
    assert (now.input_micros, now.cached_input_micros, now.output_micros, now.reasoning_micros) == (4, 3, 2, 1)
    assert before <= now.effective_time.ToDatetime(UTC) <= datetime.now(UTC)
    assert await stub.GetPrice(pb.GetPriceRequest(model=f" {model}"), metadata=admin) == now

    later = await stub.SetPrice(price(model, 9, in_days(30)), metadata=admin)
    assert await micros_of(platform, model) == 4
    assert await micros_of(platform, model, later.effective_time) == 9
    just_before = at(later.effective_time.ToDatetime(UTC) - timedelta(microseconds=1))
    assert await micros_of(platform, model, just_before) == 4
    assert await listed(platform, model) == [9, 4]
    earlier = pb.GetPriceRequest(model=model, time=at(before - timedelta(days=1)))
    assert (await refusal(stub.GetPrice(earlier, metadata=admin))).code is grpc.StatusCode.NOT_FOUND


async def test_a_price_to_come_is_replaced_and_removed(platform: Platform) -> None:
    admin, stub, model = platform.admin(), platform.prices, fresh("model")
    begin = in_days(1)
    begin.nanos = begin.nanos // 1000 * 1000 + 999
    for micros in (7, 8):
        set_ = await stub.SetPrice(price(model, micros, begin), metadata=admin)
    assert set_.effective_time.nanos == begin.nanos - 999, "to the microsecond"
    assert await listed(platform, model) == [8]
    gone = pb.DeletePriceRequest(model=f"{model} ", effective_time=set_.effective_time)
    await stub.DeletePrice(gone, metadata=admin)
    assert await listed(platform, model) == []
    assert (await refusal(stub.DeletePrice(gone, metadata=admin))).code is grpc.StatusCode.NOT_FOUND


async def test_what_was_in_force_is_neither_changed_nor_removed(platform: Platform) -> None:
    admin, stub, model = platform.admin(), platform.prices, fresh("model")
    made = await stub.SetPrice(price(model, 5), metadata=admin)
    for past in (made.effective_time, in_days(-1), Timestamp(seconds=0)):
        refused = await refusal(stub.SetPrice(price(model, 6, past), metadata=admin))
        assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["effective_time"])
    gone = pb.DeletePriceRequest(model=model, effective_time=made.effective_time)
    refused = await refusal(stub.DeletePrice(gone, metadata=admin))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "PRICE_IN_FORCE")
    assert await listed(platform, model) == [5]


async def test_an_explicit_zero_is_a_price_and_a_component_left_out_is_none(platform: Platform) -> None:
    admin, stub, model = platform.admin(), platform.prices, fresh("model")
    for name in ("input_micros", "cached_input_micros", "output_micros", "reasoning_micros"):
        request = price(model, 5)
        request.ClearField(name)
        refused = await refusal(stub.SetPrice(request, metadata=admin))
        assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [name])
    await stub.SetPrice(price(model, 0), metadata=admin)
    assert await micros_of(platform, model) == 0


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (price("", 1), "model"),
        (price("  ", 1), "model"),
        (price("x\0", 1), "model"),
        (price("x" * 201, 1), "model"),
        (price("x", -1), "input_micros"),
        (price("x", MOST + 1), "input_micros"),
        (price("x", 2**63 - 1), "input_micros"),
        (price("x", 1, Timestamp(seconds=300_000_000_000)), "effective_time"),
        (price("x", 1, Timestamp(nanos=-1)), "effective_time"),
    ],
)
async def test_what_is_no_price_is_refused(platform: Platform, request_: pb.SetPriceRequest, field: str) -> None:
    refused = await refusal(platform.prices.SetPrice(request_, metadata=platform.admin()))
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert field in refused.fields


async def test_a_model_is_found_by_its_exact_name(platform: Platform) -> None:
    model = fresh("gpt-x")
    await platform.prices.SetPrice(price(model, 5), metadata=platform.admin())
    for other in (f"{model}-2026-01-01", model.upper(), model[:-1]):
        call = platform.prices.GetPrice(pb.GetPriceRequest(model=other), metadata=platform.admin())
        assert (await refusal(call)).code is grpc.StatusCode.NOT_FOUND


async def test_repeating_a_request_id_sets_one_price(platform: Platform) -> None:
    admin, stub, model = platform.admin(), platform.prices, fresh("model")
    request = price(model, 5, request_id=fresh("request"))
    answers = await asyncio.gather(*(insisting(lambda: stub.SetPrice(request, metadata=admin)) for _ in range(10)))
    assert len({answer.SerializeToString(deterministic=True) for answer in answers}) == 1
    assert await listed(platform, model) == [5]
    request.output_micros = 6
    assert (await refusal(stub.SetPrice(request, metadata=admin))).reason == "REQUEST_ID_REUSED"


async def test_prices_set_at_the_same_time_are_all_in_the_book(platform: Platform) -> None:
    admin, stub, model = platform.admin(), platform.prices, fresh("model")

    async def set_at_once(begin: Timestamp | None) -> list[pb.Price]:
        wanted = [price(model, n, begin) for n in range(20)]
        calls = (insisting(partial(stub.SetPrice, each, metadata=admin)) for each in wanted)
        return await asyncio.gather(*calls)

    made = await set_at_once(None)
    times = {each.effective_time.ToNanoseconds() for each in made}
    assert len(times) == 20
    newest_first = sorted(made, key=lambda each: -each.effective_time.ToNanoseconds())
    assert await listed(platform, model) == [each.input_micros for each in newest_first]

    begin = in_days(1)
    made = await set_at_once(begin)
    assert len(await listed(platform, model)) == 21, "one price begins at one time"
    kept = pb.GetPriceRequest(model=model, time=begin)
    assert await stub.GetPrice(kept, metadata=admin) in made


async def test_prices_are_listed_in_pages_of_one_model_or_of_all(platform: Platform) -> None:
    admin, stub = platform.admin(), platform.prices
    models = [fresh("model") for _ in range(2)]
    begin = in_days(4000)
    for model in models:
        for days in range(3):
            stamp = at(begin.ToDatetime(UTC) + timedelta(days=days))
            await stub.SetPrice(price(model, days, stamp), metadata=admin)
    for wanted in ("", models[0]):
        seen: list[tuple[int, str]] = []
        token = ""
        while len(seen) < (6 if not wanted else 3):
            request = pb.ListPricesRequest(model=wanted, page_size=2, page_token=token)
            page = await stub.ListPrices(request, metadata=admin)
            seen += [(each.input_micros, each.model) for each in page.prices]
            token = page.next_page_token
        everybody = models if not wanted else [wanted]
        assert seen[: 3 * len(everybody)] == sorted(((n, model) for n in range(3) for model in everybody), reverse=True)
    other = pb.ListPricesRequest(model=models[1], page_size=2, page_token=token or "x")
    assert (await refusal(stub.ListPrices(other, metadata=admin))).reason.startswith("PAGE_TOKEN_")


async def test_everybody_who_is_charged_reads_the_price_book_and_the_platform_writes_it(platform: Platform) -> None:
    tenant_id, model = await new_tenant(platform.pool), fresh("model")
    set_ = await platform.prices.SetPrice(price(model, 5, in_days(1)), metadata=platform.admin())
    member = platform.caller(tenant_id, Role.MEMBER, "maria")
    found = await platform.prices.ListPrices(pb.ListPricesRequest(model=model), metadata=member)
    assert list(found.prices) == [set_]
    owner = platform.caller(tenant_id, Role.TENANT_ADMIN, "ana")
    gone = pb.DeletePriceRequest(model=model, effective_time=set_.effective_time)
    for call in (
        platform.prices.SetPrice(price(model, 1), metadata=owner),
        platform.prices.DeletePrice(gone, metadata=owner),
        platform.prices.ListPrices(pb.ListPricesRequest(), metadata=platform.caller(tenant_id, Role.END_USER)),
    ):
        assert (await refusal(call)).reason == "PERMISSION_MISSING"
