"""ConversationService as its clients meet it: over the wire, with the real engine."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from grpc_status import rpc_status

from prosa.chat_store.v1 import conversation_service_pb2 as pb
from prosa.common.v1 import usage_pb2
from services.chat_store.pages import query_of
from services.chat_store.selection import Reach
from shared.caller import Caller, acting_as
from shared.paging import page_token
from tests.chat_store.calls import ASSISTANT, append, create, got, listed, read, refusal, said
from tests.chat_store.conftest import World


@pytest.fixture(scope="module")
def engine() -> str:
    """What most installations use."""
    return "mongo"


async def test_a_conversation_is_created_continued_and_read(world: World) -> None:
    ana = world.member()
    made = await create(world, ana, title="IPTU", channel="web", assistant_id="a1", metadata={"origem": "portal"})
    assert (made.user_id, made.status, made.message_count) == ("ana", pb.CONVERSATION_STATUS_ACTIVE, 0)
    answer = pb.Message(
        type=ASSISTANT,
        text="Até 10 de março. [1]",
        assistant_id="a1",
        rag=True,
        references=[pb.Reference(number=1, document_id="d1", title="Código", page=3, quote="10 de março", score=0.5)],
        usage=usage_pb2.TokenUsage(input_tokens=100, cached_input_tokens=5, output_tokens=20, reasoning_tokens=1),
        usage_source=usage_pb2.USAGE_SOURCE_PROVIDER,
        cost_micros=42,
        model="m",
        latency_ms=900,
    )
    answer.metadata.update({"nota": 1.5, "lista": [None, True, "x"]})
    stored = await append(world, ana, made.conversation_id, said("Quando vence?"), answer)
    assert [(each.seq, each.user_id, each.status) for each in stored] == [
        (1, "ana", pb.MESSAGE_STATUS_COMPLETE),
        (2, "", pb.MESSAGE_STATUS_COMPLETE),
    ]
    answer.MergeFrom(
        pb.Message(
            message_id=stored[1].message_id,
            seq=2,
            status=pb.MESSAGE_STATUS_COMPLETE,
            create_time=stored[1].create_time,
        )
    )
    assert stored[1] == answer
    assert list((await read(world, ana, made.conversation_id)).messages) == stored
    kept = await got(world, ana, made.conversation_id)
    assert (kept.message_count, kept.usage, kept.cost_micros) == (2, answer.usage, 42)
    assert kept.last_message_preview == answer.text
    assert kept.last_activity_time == stored[1].create_time
    assert MessageToDict(kept.metadata) == {"origem": "portal"}
    assert list((await listed(world, ana)).conversations) == [kept]


async def test_creation_with_a_request_id_alone_is_safe_to_retry(world: World) -> None:
    ana = world.member()
    made = await asyncio.gather(*(create(world, ana, title="x", request_id="r1") for _ in range(5)))
    assert len({each.conversation_id for each in made}) == 1
    other = await create(world, world.member("bia"), title="x", request_id="r1")
    assert other.conversation_id != made[0].conversation_id
    refused = await refusal(create(world, ana, title="y", request_id="r1"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_ID_REUSED")
    named = [await create(world, ana, conversation_id="mine", request_id=each) for each in ("r2", "r3")]
    assert named[0] == named[1]


async def test_a_retried_append_answers_with_the_same_bytes(world: World) -> None:
    ana = world.member()
    made = await create(world, ana)
    request = pb.AppendMessagesRequest(
        conversation_id=made.conversation_id, messages=[said("a", metadata={"k": 1})], request_id="r1"
    )
    first = await world.conversations.AppendMessages(request, metadata=ana)
    again = await world.conversations.AppendMessages(request, metadata=ana)
    assert again.SerializeToString(deterministic=True) == first.SerializeToString(deterministic=True)
    request.messages[0].metadata["k"] = 2
    refused = await refusal(world.conversations.AppendMessages(request, metadata=ana))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_ID_REUSED")


async def test_a_repeated_message_id_with_other_words_already_exists(world: World) -> None:
    ana = world.member()
    made = await create(world, ana)
    await append(world, ana, made.conversation_id, said("a", message_id="m1"))
    refused = await refusal(append(world, ana, made.conversation_id, said("b", message_id="m1")))
    assert refused.code == grpc.StatusCode.ALREADY_EXISTS


async def test_members_see_their_own_conversations_and_admins_all(world: World) -> None:
    ana, bia, admin = world.member("ana"), world.member("bia"), world.admin()
    hers = await create(world, ana)
    await create(world, bia)
    anonymous = await create(world, world.end_user())
    for who in (bia, world.end_user(), world.service_for("bia"), world.service_for("")):
        assert (await refusal(got(world, who, hers.conversation_id))).code == grpc.StatusCode.NOT_FOUND
    for who in (ana, admin, world.service_for("ana")):
        assert await got(world, who, hers.conversation_id) == hers
    for who in (world.end_user(), world.service_for(""), admin):
        assert await got(world, who, anonymous.conversation_id) == anonymous
    assert (await refusal(got(world, ana, anonymous.conversation_id))).code == grpc.StatusCode.NOT_FOUND
    assert len((await listed(world, admin)).conversations) == 3
    assert list((await listed(world, admin, user_id="ana")).conversations) == [hers]
    assert list((await listed(world, ana, user_id="ana")).conversations) == [hers]
    refused = await refusal(listed(world, ana, user_id="bia"))
    assert (refused.code, refused.metadata["permission"]) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "conversations.read_all",
    )
    assert not (await listed(world, world.service_for(""))).conversations


async def test_a_service_acting_for_a_member_cannot_reach_further_than_the_member(world: World) -> None:
    hers = await create(world, world.service_for("ana"))
    assert hers.user_id == "ana"
    acting = world.service_for("bia")
    assert (await refusal(append(world, acting, hers.conversation_id, said("x")))).code == grpc.StatusCode.NOT_FOUND
    taken = await refusal(create(world, acting, conversation_id=hers.conversation_id))
    assert taken.code == grpc.StatusCode.NOT_FOUND
    stored = await append(world, world.service_for("ana"), hers.conversation_id, said("x"))
    assert stored[0].user_id == "ana"


async def test_second_tenant_sees_nothing_byte_for_byte(world: World) -> None:
    other = world.other()
    await create(world, world.member(), conversation_id="taken")
    await append(world, world.member(), "taken", said("secret"))
    calls: list[Callable[[str], Awaitable[object]]] = [
        lambda name: got(other, other.admin(), name),
        lambda name: append(other, other.admin(), name, said("x")),
        lambda name: read(other, other.admin(), name),
    ]
    for call in calls:
        shown = []
        for name in ("taken", "other"):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(name)
            shown.append(_without_request_info(refused.value).replace(name.encode(), b"....."))
        assert shown[0] == shown[1]
    assert not (await listed(other, other.admin())).conversations


def _without_request_info(error: grpc.aio.AioRpcError) -> bytes:
    status = rpc_status.from_call(error)
    kept = [detail for detail in status.details if not detail.type_url.endswith("RequestInfo")]
    del status.details[:]
    status.details.extend(kept)
    return bytes(status.SerializeToString())


async def test_a_caller_without_a_tenant_has_no_conversations(world: World) -> None:
    refused = await refusal(create(world, world.service()))
    assert refused.code == grpc.StatusCode.PERMISSION_DENIED


async def test_messages_are_paged_in_both_directions(world: World) -> None:
    ana = world.member()
    made = await create(world, ana)
    for number in range(3):
        await append(world, ana, made.conversation_id, *(said(f"{number}") for _ in range(3)))
    for order, wanted in (
        (pb.MESSAGE_ORDER_OLDEST_FIRST, [3, 4, 5, 6, 7]),
        (pb.MESSAGE_ORDER_NEWEST_FIRST, [7, 6, 5, 4, 3]),
    ):
        asked: dict[str, Any] = {"order": order, "after_seq": 2, "before_seq": 8, "page_size": 2}
        page = await read(world, ana, made.conversation_id, **asked)
        found = [each.seq for each in page.messages]
        while page.next_page_token:
            page = await read(world, ana, made.conversation_id, **asked, page_token=page.next_page_token)
            found += [each.seq for each in page.messages]
        assert found == wanted


async def test_conversations_are_paged_and_tokens_belong_to_their_query(world: World) -> None:
    ana = world.member()
    made = [(await create(world, ana, assistant_id="a1")).conversation_id for _ in range(5)]
    page = await listed(world, ana, page_size=2)
    token, found = page.next_page_token, [each.conversation_id for each in page.conversations]
    while page.next_page_token:
        page = await listed(world, ana, page_size=2, page_token=page.next_page_token)
        found += [each.conversation_id for each in page.conversations]
    assert found == made[::-1]
    for call, reason in (
        (listed(world, ana, assistant_id="a1", page_token=token), "PAGE_TOKEN_MISMATCH"),
        (listed(world, world.admin(), page_token=token), "PAGE_TOKEN_MISMATCH"),
        (read(world, ana, made[0], page_token=token), "PAGE_TOKEN_MISMATCH"),
        (listed(world, ana, page_token="nonsense"), "PAGE_TOKEN_INVALID"),
    ):
        refused = await refusal(call)
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)


@pytest.mark.parametrize("edit", [{"t": -1}, {"t": 10**30}, {"t": "x"}, {}, {"s": None}, {"s": 0}])
async def test_an_edited_page_token_is_refused(world: World, edit: dict[str, Any]) -> None:
    ana = world.member()
    made = await create(world, ana)
    name = made.conversation_id
    with acting_as(Caller(world.tenant_id, "ana", "k", frozenset(), "", 0.0)):
        reach = Reach(world.tenant_id, "ana")
        lists = page_token(query_of(pb.ListConversationsRequest(), reach), edit)
        reads = page_token(query_of(pb.ListMessagesRequest(conversation_id=name), reach), edit)
    for call in (listed(world, ana, page_token=lists), read(world, ana, name, page_token=reads)):
        assert (await refusal(call)).reason == "PAGE_TOKEN_INVALID"


async def test_bad_input_is_refused_with_the_field(world: World) -> None:
    ana = world.member()
    made = await create(world, ana)
    big = "x" * 70_000
    name = made.conversation_id
    for call in (
        create(world, ana, conversation_id="a:b"),
        create(world, ana, metadata={"k": big}),
        create(world, ana, metadata={"k": float("nan")}),
        append(world, ana, name),
        append(world, ana, name, pb.Message(text="no type")),
        append(world, ana, name, said("x", metadata={"k": big})),
        append(world, ana, name, said("x" * (20 * 2**20 + 1))),
        append(world, ana, name, *(said("x" * 250_000) for _ in range(15))),
        append(world, ana, name, *(said("x") for _ in range(101))),
        append(world, ana, name, said("x", message_id="m"), said("y", message_id="m")),
        append(world, ana, name, said("x", cost_micros=2**62)),
        append(world, ana, name, said("x", latency_ms=-1)),
        read(world, ana, name, page_size=-1),
        read(world, ana, name, after_seq=-1),
        listed(world, ana, page_size=-1),
    ):
        refused = await refusal(call)
        assert refused.code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED), refused
    assert (await got(world, ana, name)).message_count == 0


async def test_a_batch_of_the_largest_size_comes_back(world: World) -> None:
    ana = world.member()
    made = await create(world, ana)
    stored = await append(world, ana, made.conversation_id, *(said("x" * 250_000) for _ in range(13)))
    assert [each.seq for each in stored] == list(range(1, 14))
    page = await read(world, ana, made.conversation_id)
    assert [each.seq for each in page.messages] == list(range(1, 9))
    assert page.next_page_token
