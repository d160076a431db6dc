"""What may be done with a conversation as a whole, as its owner meets it."""

from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from prosa.chat_store.v1 import conversation_service_pb2 as pb
from tests.chat_store.calls import ASSISTANT, append, broken_fields, call, create, got, listed, refusal, said
from tests.chat_store.conftest import World

ACTIVE, ARCHIVED = pb.CONVERSATION_STATUS_ACTIVE, pb.CONVERSATION_STATUS_ARCHIVED
FINALIZED, DELETED = pb.CONVERSATION_STATUS_FINALIZED, pb.CONVERSATION_STATUS_DELETED


def json(message: Any) -> dict[str, Any]:
    return MessageToDict(message)


async def test_only_what_the_mask_names_is_changed(world: World) -> None:
    ana = world.member()
    made = await create(world, ana, title="um", metadata={"k": 1}, context={"tópico": "IPTU"}, ttl={"seconds": 60})
    assert (json(made.context), made.ttl.seconds) == ({"tópico": "IPTU"}, 60)
    assert made.expire_time.ToDatetime() > made.create_time.ToDatetime()
    wanted = {"title": "dois", "metadata": {"k": 2}, "context": {"tópico": "ISS"}, "ttl": "3600s"}
    name = made.conversation_id
    changed = await call(
        world, ana, "UpdateConversation", conversationId=name, conversation=wanted, updateMask="title,ttl"
    )
    assert (changed.title, changed.ttl.seconds, changed.revision) == ("dois", 3600, 1)
    assert (json(changed.metadata), json(changed.context)) == ({"k": 1}, {"tópico": "IPTU"})
    cleared = await call(
        world, ana, "UpdateConversation", conversationId=name, conversation={}, updateMask="metadata,context,ttl"
    )
    assert (json(cleared.metadata), json(cleared.context), cleared.title) == ({}, {}, "dois")
    assert not cleared.HasField("ttl")
    assert not cleared.HasField("expire_time")
    assert await got(world, ana, name) == cleared


async def test_a_change_of_what_somebody_else_changed_meanwhile_is_refused(world: World) -> None:
    ana = world.member()
    name = (await create(world, ana)).conversation_id
    fields: dict[str, Any] = {"conversationId": name, "updateMask": "title", "revision": 0}
    changed = await call(world, ana, "UpdateConversation", **fields, conversation={"title": "um"})
    refused = await refusal(call(world, ana, "UpdateConversation", **fields, conversation={"title": "dois"}))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REVISION_MISMATCH")
    assert refused.metadata["revision"] == "1"
    assert await got(world, ana, name) == changed


@pytest.mark.parametrize("mask", ["", "nada", "conversationId", "title,status", "metadata.k", "*"])
async def test_a_mask_that_names_what_cannot_be_changed_is_refused_by_name(world: World, mask: str) -> None:
    ana = world.member()
    made = await create(world, ana, title="um")
    request = pb.UpdateConversationRequest(conversation_id=made.conversation_id, conversation=pb.Conversation())
    request.update_mask.paths.extend(mask.split(",") if mask else [])
    broken = await broken_fields(world.conversations.UpdateConversation(request, metadata=ana))
    assert [each.field for each in broken] == ["update_mask"]
    assert (mask.rsplit(",", maxsplit=1)[-1] or "empty") in broken[0].description
    assert await got(world, ana, made.conversation_id) == made


async def test_what_is_changed_is_held_to_the_limits_of_what_is_created(world: World) -> None:
    ana = world.member()
    name = (await create(world, ana)).conversation_id
    big = "x" * 70_000
    for path, wanted in (
        ("title", {"title": "x" * 501}),
        ("metadata", {"metadata": {"k": big}}),
        ("context", {"context": {"k": big}}),
        ("ttl", {"ttl": "-1s"}),
        ("ttl", {"ttl": "100000000000s"}),
    ):
        asked = call(world, ana, "UpdateConversation", conversationId=name, conversation=wanted, updateMask=path)
        assert [each.field for each in await broken_fields(asked)] == [f"conversation.{path}"]
    assert (await got(world, ana, name)).revision == 0


async def test_an_archived_conversation_leaves_the_list_and_comes_back(world: World) -> None:
    ana = world.member()
    name = (await create(world, ana)).conversation_id
    archived = await call(world, ana, "ArchiveConversation", conversationId=name)
    assert (archived.status, archived.HasField("archive_time")) == (ARCHIVED, True)
    assert not (await listed(world, ana)).conversations
    assert list((await listed(world, ana, statuses=[ARCHIVED])).conversations) == [archived]
    await append(world, ana, name, said("ainda aqui"))
    again = await call(world, ana, "UnarchiveConversation", conversationId=name)
    assert (again.status, again.HasField("archive_time"), again.revision) == (ACTIVE, False, 2)
    assert list((await listed(world, ana)).conversations) == [again]


async def test_a_finalized_conversation_takes_nothing_more_but_opinions(world: World) -> None:
    ana = world.member()
    name = (await create(world, ana)).conversation_id
    await append(world, ana, name, said("obrigada", message_id="m1"), request_id="r1")
    closed = await call(world, ana, "FinalizeConversation", conversationId=name, reason="resolvida")
    assert (closed.status, closed.finalize_reason) == (FINALIZED, "resolvida")
    assert closed.HasField("finalize_time")
    edit = {"messageId": "m1", "message": {"text": "x", "type": 1}, "updateMask": "text"}
    for asked in (
        append(world, ana, name, said("mais uma coisa")),
        call(world, ana, "UpdateMessage", conversationId=name, **edit),
        call(world, ana, "FinalizeConversation", conversationId=name, reason="outra"),
    ):
        refused = await refusal(asked)
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CONVERSATION_CLOSED")
    assert await append(world, ana, name, said("obrigada", message_id="m1"), request_id="r1")
    rated = await call(world, ana, "SetFeedback", conversationId=name, messageId="m1", feedback={"rating": 5})
    assert rated.feedback.rating == 5
    assert (await got(world, ana, name)).message_count == 1


async def test_finalizing_needs_a_reason(world: World) -> None:
    ana = world.member()
    name = (await create(world, ana)).conversation_id
    for reason in ("", "x" * 501):
        broken = await broken_fields(call(world, ana, "FinalizeConversation", conversationId=name, reason=reason))
        assert [each.field for each in broken] == ["reason"]


async def test_a_deleted_conversation_is_gone_until_it_is_brought_back(world: World) -> None:
    ana = world.member()
    made = await create(world, ana, title="IPTU")
    name = made.conversation_id
    await append(world, ana, name, said("oi", message_id="m1"))
    deleted = await call(world, ana, "DeleteConversation", conversationId=name)
    assert deleted.status == DELETED
    assert (deleted.purge_time.seconds - deleted.delete_time.seconds) == 30 * 86_400
    for method in ("GetConversation", "ListMessages", "GetStats", "ArchiveConversation", "DeleteConversation"):
        assert (await refusal(call(world, ana, method, conversationId=name))).code is grpc.StatusCode.NOT_FOUND
    assert (await refusal(append(world, ana, name, said("x")))).code is grpc.StatusCode.NOT_FOUND
    assert not (await listed(world, ana)).conversations
    assert list((await listed(world, ana, statuses=[DELETED])).conversations) == [deleted]
    back = await call(world, ana, "UndeleteConversation", conversationId=name)
    assert (back.status, back.title, back.message_count) == (ACTIVE, "IPTU", 1)
    assert await got(world, ana, name) == back
    assert await call(world, ana, "UndeleteConversation", conversationId=name) == back


async def test_statistics_are_the_sums_over_the_messages(world: World) -> None:
    ana = world.member()
    name = (await create(world, ana)).conversation_id
    empty = await call(world, ana, "GetStats", conversationId=name)
    assert (empty.message_count, empty.average_response_ms) == (0, 0)
    answers = [
        said("a", type=ASSISTANT, latency_ms=latency, cost_micros=3, usage={"output_tokens": 7})
        for latency in (100, 201)
    ]
    stored = await append(world, ana, name, said("um"), answers[0], said("dois"), answers[1])
    stats = await call(world, ana, "GetStats", conversationId=name)
    assert (stats.message_count, stats.cost_micros, stats.usage.output_tokens) == (4, 6, 14)
    assert (stats.response_count, stats.average_response_ms) == (2, 150)
    assert stats.last_activity_time == stored[-1].create_time


async def test_an_analysis_is_linked_once_to_the_conversation_or_to_a_message(world: World) -> None:
    ana = world.member()
    name = (await create(world, ana)).conversation_id
    await append(world, ana, name, said("oi", message_id="m1"))
    for analysis in ("a1", "a2", "a1"):
        linked = await call(world, ana, "LinkAnalysis", conversationId=name, analysisId=analysis)
    assert (list(linked.analysis_ids), linked.revision) == (["a1", "a2"], 2)
    linked = await call(world, ana, "LinkAnalysis", conversationId=name, messageId="m1", analysisId="a3")
    assert (list(linked.analysis_ids), linked.revision) == (["a1", "a2"], 3)
    message = await call(world, ana, "GetMessage", conversationId=name, messageId="m1")
    assert list(message.analysis_ids) == ["a3"]
    missing = call(world, ana, "LinkAnalysis", conversationId=name, messageId="m9", analysisId="a3")
    assert (await refusal(missing)).code is grpc.StatusCode.NOT_FOUND
    assert (await broken_fields(call(world, ana, "LinkAnalysis", conversationId=name)))[0].field == "analysis_id"


async def test_more_analyses_than_a_conversation_holds_are_refused(world: World) -> None:
    ana = world.member()
    name = (await create(world, ana)).conversation_id
    for number in range(100):
        await call(world, ana, "LinkAnalysis", conversationId=name, analysisId=f"a{number}")
    refused = await refusal(call(world, ana, "LinkAnalysis", conversationId=name, analysisId="one-more"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TOO_MANY")
