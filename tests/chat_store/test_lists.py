"""Which conversations a list shows, and in which pages."""

from typing import Any

import grpc
import pytest

from prosa.chat_store.v1 import conversation_service_pb2 as pb
from tests.chat_store.calls import append, broken_fields, call, create, listed, refusal, said
from tests.chat_store.conftest import World
from tests.house.in_process import Metadata


async def names(world: World, who: Metadata, **wanted: Any) -> list[str]:
    return [each.conversation_id for each in (await listed(world, who, **wanted)).conversations]


async def test_lists_are_filtered_by_all_that_is_asked_for(world: World) -> None:
    ana = world.member()
    await create(world, ana, conversation_id="a", assistant_id="a1")
    await create(world, ana, conversation_id="b", team_id="t1")
    await create(world, ana, conversation_id="c", assistant_id="a1", team_id="t1")
    await create(world, ana, conversation_id="d")
    await call(world, ana, "FinalizeConversation", conversationId="d", reason="fim")
    finalized = [pb.CONVERSATION_STATUS_FINALIZED]
    assert await names(world, ana) == ["d", "c", "b", "a"]
    assert await names(world, ana, assistant_id="a1") == ["c", "a"]
    assert await names(world, ana, team_id="t1") == ["c", "b"]
    assert await names(world, ana, assistant_id="a1", team_id="t1") == ["c"]
    assert await names(world, ana, statuses=finalized) == ["d"]
    assert await names(world, ana, statuses=finalized, team_id="t1") == []


async def test_periods_hold_their_beginning_and_not_their_end(world: World) -> None:
    ana = world.member()
    made = await create(world, ana)
    name = made.conversation_id
    (message,) = await append(world, ana, name, said("oi"))
    created, active = made.create_time, message.create_time
    assert await names(world, ana, create_time_from=created) == [name]
    assert await names(world, ana, create_time_until=created) == []
    assert await names(world, ana, activity_time_from=active) == [name]
    assert await names(world, ana, activity_time_until=active) == []
    just_after = {"seconds": active.seconds, "nanos": active.nanos + 1}
    assert await names(world, ana, activity_time_from=just_after) == []
    assert await names(world, ana, activity_time_until=just_after) == [name]


@pytest.mark.parametrize("seconds", [-(10**12), 10**12])
async def test_a_time_that_no_calendar_has_is_refused(world: World, seconds: int) -> None:
    broken = await broken_fields(listed(world, world.member(), create_time_from={"seconds": seconds}))
    assert [each.field for each in broken] == ["create_time_from"]


async def test_the_last_moments_that_a_calendar_has_are_no_bounds(world: World) -> None:
    ana = world.member()
    name = (await create(world, ana)).conversation_id
    first, last = {"seconds": -62_135_596_800}, {"seconds": 253_402_300_799, "nanos": 999_999_999}
    assert await names(world, ana, create_time_from=first, create_time_until=last) == [name]


async def test_a_status_that_is_none_is_refused(world: World) -> None:
    for status in (0, 99):
        request = pb.ListConversationsRequest()
        request.statuses.append(status)  # type: ignore[arg-type]  # as a careless client would
        broken = await broken_fields(world.conversations.ListConversations(request, metadata=world.member()))
        assert broken[0].field == "statuses[0]"


async def test_a_page_ends_before_it_is_too_large_to_be_sent(world: World) -> None:
    ana = world.member()
    for number in range(40):
        await create(
            world, ana, conversation_id=f"c{number:02}", metadata={"k": "x" * 60_000}, context={"k": "x" * 60_000}
        )
    found, token, pages = list[str](), "", 0
    while True:
        page = await listed(world, ana, page_size=1000, page_token=token)
        assert page.ByteSize() < 3_000_000
        found += [each.conversation_id for each in page.conversations]
        token, pages = page.next_page_token, pages + 1
        if not token:
            break
    assert found == [f"c{number:02}" for number in reversed(range(40))]
    assert pages > 1


async def test_a_token_goes_on_with_its_own_query_only(world: World) -> None:
    ana = world.member()
    for _ in range(3):
        await create(world, ana)
    token = (await listed(world, ana, page_size=1)).next_page_token
    assert len((await listed(world, ana, page_size=2, page_token=token)).conversations) == 2
    for other in (
        {"team_id": "t1"},
        {"statuses": [pb.CONVERSATION_STATUS_ARCHIVED]},
        {"create_time_from": {"seconds": 1}},
        {"activity_time_until": {"seconds": 253_402_300_799}},
    ):
        refused = await refusal(listed(world, ana, page_token=token, **other))
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_MISMATCH")
