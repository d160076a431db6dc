"""Single messages as clients meet them: parts, long texts, edits and their history, feedback."""

import hashlib
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from prosa.chat_store.v1 import conversation_service_pb2 as pb
from services.chat_store.limits import BODY_CHUNK_BYTES, INLINE_BYTES, MAX_TEXT_BYTES
from tests.chat_store.calls import append, broken_fields, call, create, got, part, read, refusal, said, streamed
from tests.chat_store.conftest import World
from tests.house.in_process import Metadata

NAME = "minha"
FILE = {"uri": "s3://caixa/guia.pdf", "name": "guia.pdf", "mime_type": "application/pdf", "size_bytes": 7}


@pytest.fixture
async def ana(world: World) -> Metadata:
    """Somebody who said something."""
    ana = world.member()
    await create(world, ana, conversation_id=NAME)
    await append(world, ana, NAME, said("primeira versão", message_id="m1", metadata={"k": 1}))
    return ana


async def edited(world: World, who: Metadata, message: dict[str, Any], mask: str, **more: Any) -> pb.Message:
    wanted = {"type": "MESSAGE_TYPE_USER", **message}
    edit: pb.Message = await call(
        world, who, "UpdateMessage", conversationId=NAME, messageId="m1", message=wanted, updateMask=mask, **more
    )
    return edit


async def whole_text(world: World, who: Metadata, message_id: str) -> str:
    chunks: list[Any] = await streamed(world, who, "ReadMessageText", conversationId=NAME, messageId=message_id)
    offset = 0
    for chunk in chunks:
        assert chunk.offset_bytes == offset
        size_bytes = len(chunk.text.encode())
        assert 0 < size_bytes <= BODY_CHUNK_BYTES
        offset += size_bytes
    return "".join(chunk.text for chunk in chunks)


async def test_a_message_comes_back_with_its_parts(world: World, ana: Metadata) -> None:
    parts = [part(text="ver anexo"), part(data={"b": [1, None, "ç"], "a": True}), part(file=FILE)]
    (stored,) = await append(world, ana, NAME, said("", message_id="m2", reply_to="m1", parts=parts))
    assert list(stored.parts) == parts
    assert stored.reply_to == "m1"
    assert await call(world, ana, "GetMessage", conversationId=NAME, messageId="m2") == stored
    assert list((await read(world, ana, NAME, after_seq=1)).messages) == [stored]


async def test_data_without_content_is_a_part_too(world: World, ana: Metadata) -> None:
    (stored,) = await append(world, ana, NAME, said("", parts=[part(data={})]))
    assert stored.parts[0].WhichOneof("content") == "data"


async def test_malformed_parts_are_refused_where_they_stand(world: World, ana: Metadata) -> None:
    good = part(text="x")
    for parts, path in (
        ([good, part()], "messages[0].parts[1].content"),
        ([part(data={"k": float("inf")})], "messages[0].parts[0].data"),
        ([part(data={"k": "x" * 70_000})], "messages[0].parts[0].data"),
        ([good] * 65, "messages[0].parts"),
        ([part(file={**FILE, "size_bytes": -1})], "messages[0].parts[0].file.size_bytes"),
        ([part(file={"name": "no uri"})], "messages[0].parts[0].file.uri"),
    ):
        broken = await broken_fields(append(world, ana, NAME, said("x", parts=parts)))
        assert [each.field for each in broken] == [path]
    broken = await broken_fields(edited(world, ana, {"parts": [{"text": "x"}, {}]}, "parts"))
    assert [each.field for each in broken] == ["message.parts[1].content"]
    assert (await got(world, ana, NAME)).message_count == 1


async def test_a_long_text_is_shown_by_its_beginning_and_read_whole(world: World, ana: Metadata) -> None:
    text = "ção€𝄞" * 100_000
    (stored,) = await append(world, ana, NAME, said(text, message_id="m2"))
    assert text.startswith(stored.text)
    assert len(stored.text) < 10_000
    assert (stored.body.size_bytes, stored.body.sha256) == (
        len(text.encode()),
        hashlib.sha256(text.encode()).hexdigest(),
    )
    assert await call(world, ana, "GetMessage", conversationId=NAME, messageId="m2") == stored
    assert await whole_text(world, ana, "m2") == text


@pytest.mark.parametrize("size_bytes", [1, INLINE_BYTES - 1, INLINE_BYTES, INLINE_BYTES + 1, MAX_TEXT_BYTES])
async def test_texts_of_every_size_come_back_whole(world: World, ana: Metadata, size_bytes: int) -> None:
    text = "é" * (size_bytes // 2) + "x" * (size_bytes % 2)
    await append(world, ana, NAME, said(text, message_id="m2"))
    assert await whole_text(world, ana, "m2") == text
    assert (await got(world, ana, NAME)).message_count == 2


async def test_a_message_that_says_nothing_has_no_text_to_read(world: World, ana: Metadata) -> None:
    await append(world, ana, NAME, said("", message_id="m2"))
    assert await whole_text(world, ana, "m2") == ""


async def test_texts_above_the_limit_are_refused_and_leave_nothing(world: World, ana: Metadata) -> None:
    for messages, path in (
        ([said("x" * (MAX_TEXT_BYTES + 1))], "messages[0].text"),
        ([said("x" * (11 * 1024 * 1024)), said("x" * (11 * 1024 * 1024))], "messages"),
    ):
        assert (await broken_fields(append(world, ana, NAME, *messages)))[0].field == path
    assert (await got(world, ana, NAME)).message_count == 1


async def test_an_edit_changes_what_the_mask_names_and_keeps_what_was_said(world: World, ana: Metadata) -> None:
    before = await call(world, ana, "GetMessage", conversationId=NAME, messageId="m1")
    assert (before.revision, before.edit_count, before.HasField("update_time")) == (0, 0, False)
    after = await edited(world, ana, {"text": "segunda", "metadata": {"k": 2}}, "text")
    assert (after.text, after.revision, after.edit_count) == ("segunda", 1, 1)
    assert MessageToDict(after.metadata) == {"k": 1}
    assert after.HasField("update_time")
    assert list((await read(world, ana, NAME)).messages) == [after]
    page = await call(world, ana, "ListMessageRevisions", conversationId=NAME, messageId="m1")
    assert list(page.revisions) == [before, after]


async def test_a_history_is_paged_from_the_oldest_on(world: World, ana: Metadata) -> None:
    for number in range(1, 5):
        await edited(world, ana, {"text": f"versão {number}"}, "text")
    found, token = list[int](), ""
    while True:
        fields = {"conversationId": NAME, "messageId": "m1", "pageSize": 2, "pageToken": token}
        page = await call(world, ana, "ListMessageRevisions", **fields)
        found += [each.revision for each in page.revisions]
        token = page.next_page_token or token
        if not page.next_page_token:
            break
    assert found == [0, 1, 2, 3, 4]
    await append(world, ana, NAME, said("outra", message_id="m2"))
    other = call(world, ana, "ListMessageRevisions", conversationId=NAME, messageId="m2", pageToken=token)
    assert (await refusal(other)).reason == "PAGE_TOKEN_MISMATCH"


async def test_an_edit_of_what_changed_meanwhile_is_refused(world: World, ana: Metadata) -> None:
    first = await edited(world, ana, {"text": "um"}, "text", revision=0)
    refused = await refusal(edited(world, ana, {"text": "dois"}, "text", revision=0))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REVISION_MISMATCH")
    assert refused.metadata["revision"] == "1"
    assert list((await read(world, ana, NAME)).messages) == [first]


@pytest.mark.parametrize("mask", ["seq", "type", "feedback", "text,usage", "messageId", "parts.text"])
async def test_what_was_said_by_whom_and_when_cannot_be_edited(world: World, ana: Metadata, mask: str) -> None:
    broken = await broken_fields(edited(world, ana, {"text": "x"}, mask))
    assert [each.field for each in broken] == ["update_mask"]
    assert (await got(world, ana, NAME)).revision == 0


async def test_a_text_may_become_long_and_short_again(world: World, ana: Metadata) -> None:
    long = "palavra " * 100_000
    grown = await edited(world, ana, {"text": long}, "text")
    assert grown.body.size_bytes == len(long)
    assert await whole_text(world, ana, "m1") == long
    shrunk = await edited(world, ana, {"text": "curta"}, "text")
    assert (shrunk.text, shrunk.HasField("body")) == ("curta", False)
    assert await whole_text(world, ana, "m1") == "curta"


async def test_an_edit_is_held_to_the_limits_of_a_message(world: World, ana: Metadata) -> None:
    for message, mask, path in (
        ({"metadata": {"k": "x" * 70_000}}, "metadata", "message.metadata"),
        ({"parts": [{"data": {"k": "x" * 70_000}}]}, "parts", "message.parts[0].data"),
        ({"parts": [{"text": "x" * 60_000}] * 64}, "parts", "message"),
    ):
        assert (await broken_fields(edited(world, ana, message, mask)))[0].field == path
    assert (await got(world, ana, NAME)).revision == 0


async def test_feedback_is_set_changed_and_taken_away(world: World, ana: Metadata) -> None:
    thought = {"rating": 2, "category": "exatidão", "comment": "faltou o prazo", "sentiment": "SENTIMENT_NEGATIVE"}
    fields: dict[str, Any] = {"conversationId": NAME, "messageId": "m1"}
    rated = await call(world, ana, "SetFeedback", **fields, feedback=thought)
    assert (rated.feedback.rating, rated.feedback.comment, rated.feedback.user_id) == (2, "faltou o prazo", "ana")
    assert (rated.feedback.sentiment, rated.feedback.auto_generated) == (pb.SENTIMENT_NEGATIVE, False)
    assert rated.feedback.HasField("update_time")
    assert (rated.revision, rated.edit_count) == (1, 0)
    assert list((await read(world, ana, NAME)).messages) == [rated]
    assert await call(world, ana, "SetFeedback", **fields, feedback=thought) == rated
    by_admin = await call(world, world.admin(), "SetFeedback", **fields, feedback={"rating": 4, "autoGenerated": True})
    assert (by_admin.feedback.user_id, by_admin.feedback.comment) == ("root", "")
    cleared = await call(world, ana, "ClearFeedback", **fields)
    assert (cleared.HasField("feedback"), cleared.text) == (False, "primeira versão")
    assert await call(world, ana, "ClearFeedback", **fields) == cleared


@pytest.mark.parametrize(
    ("feedback", "field"),
    [
        ({}, "feedback.rating"),
        ({"rating": 6}, "feedback.rating"),
        ({"rating": -1}, "feedback.rating"),
        ({"rating": 3, "category": "x" * 101}, "feedback.category"),
        ({"rating": 3, "comment": "x" * 4001}, "feedback.comment"),
        ({"rating": 3, "sentiment": 9}, "feedback.sentiment"),
    ],
)
async def test_feedback_that_is_none_is_refused(
    world: World, ana: Metadata, feedback: dict[str, Any], field: str
) -> None:
    asked = call(world, ana, "SetFeedback", conversationId=NAME, messageId="m1", feedback=feedback)
    assert [each.field for each in await broken_fields(asked)] == [field]
    assert (await got(world, ana, NAME)).revision == 0
