"""SearchMessages as its clients meet it."""

from typing import Any

import grpc
import pytest

from prosa.chat_store.v1 import conversation_service_pb2 as pb
from services.chat_store.pages import query_of
from services.chat_store.selection import Reach
from shared.caller import Caller, acting_as
from shared.paging import page_token
from tests.chat_store.calls import ASSISTANT, append, broken_fields, call, create, refusal, said
from tests.chat_store.conftest import World
from tests.house.in_process import Metadata


async def search(world: World, who: Metadata, query: str, **wanted: Any) -> pb.SearchMessagesResponse:
    request = pb.SearchMessagesRequest(query=query, **wanted)
    return await world.conversations.SearchMessages(request, metadata=who)


async def ids(world: World, who: Metadata, query: str, **wanted: Any) -> list[str]:
    return [each.message.message_id for each in (await search(world, who, query, **wanted)).results]


async def test_what_was_just_said_is_found_and_shown_where_it_stands(world: World) -> None:
    ana = world.member()
    name = (await create(world, ana)).conversation_id
    text = "Bom dia. " * 60 + "O orçamento da obra foi aprovado ontem." + " Até logo." * 60
    (stored,) = await append(world, ana, name, said(text))
    (found,) = (await search(world, ana, "orcamentos aprovados")).results
    assert (found.conversation_id, found.message) == (name, stored)
    assert found.score > 0
    assert [found.snippet[each.begin : each.end] for each in found.highlights] == ["orçamento", "aprovado"]
    assert len(found.snippet) < len(text)


async def test_a_word_deep_in_a_long_text_is_shown(world: World) -> None:
    ana = world.member()
    name = (await create(world, ana)).conversation_id
    await append(world, ana, name, said("nada " * 12_000 + "jabuticaba " + "nada " * 60_000))
    (found,) = (await search(world, ana, "jabuticaba")).results
    assert found.message.HasField("body")
    assert [found.snippet[each.begin : each.end] for each in found.highlights] == ["jabuticaba"]


async def test_results_are_filtered_by_all_that_is_asked_for(world: World) -> None:
    ana = world.member()
    await create(world, ana, conversation_id="c1", assistant_id="a1")
    await create(world, ana, conversation_id="c2", team_id="t1")
    await append(
        world, ana, "c1", said("prazo", message_id="m1"), pb.Message(type=ASSISTANT, text="prazo", message_id="m2")
    )
    (last,) = await append(world, ana, "c2", said("prazo", message_id="m3"))
    newest = {"order": pb.SEARCH_ORDER_RECENCY}
    assert sorted(await ids(world, ana, "prazo")) == ["m1", "m2", "m3"]
    assert await ids(world, ana, "prazo", assistant_id="a1", types=[ASSISTANT]) == ["m2"]
    assert await ids(world, ana, "prazo", team_id="t1") == ["m3"]
    assert await ids(world, ana, "prazo", conversation_id="c1", **newest) == ["m2", "m1"]
    assert await ids(world, ana, "prazo", create_time_from=last.create_time, types=[ASSISTANT]) == []
    assert await ids(world, ana, "prazo", create_time_until={"seconds": 1}) == []
    await call(world, ana, "ArchiveConversation", conversationId="c2")
    assert sorted(await ids(world, ana, "prazo")) == ["m1", "m2"]
    assert await ids(world, ana, "prazo", statuses=[pb.CONVERSATION_STATUS_ARCHIVED]) == ["m3"]


async def test_everybody_finds_only_what_they_may_read(world: World) -> None:
    ana, bia = world.member("ana"), world.member("bia")
    await create(world, ana, conversation_id="dela")
    await append(world, ana, "dela", said("segredo", message_id="m1"))
    await create(world, world.end_user(), conversation_id="anonima")
    await append(world, world.end_user(), "anonima", said("segredo", message_id="m2"))
    other = world.other()
    for theirs, who in ((world, bia), (other, other.admin()), (world, world.service_for("bia"))):
        assert await ids(theirs, who, "segredo") == []
        assert await ids(theirs, who, "segredo", conversation_id="dela") == []
    for who in (ana, world.service_for("ana")):
        assert await ids(world, who, "segredo") == ["m1"]
        assert await ids(world, who, "segredo", conversation_id="anonima") == []
    assert sorted(await ids(world, world.admin(), "segredo")) == ["m1", "m2"]
    assert await ids(world, world.admin(), "segredo", user_id="ana") == ["m1"]
    assert await ids(world, world.admin(), "segredo", user_id="bia") == []
    refused = await refusal(search(world, ana, "segredo", user_id="bia"))
    assert refused.code is grpc.StatusCode.PERMISSION_DENIED
    assert await ids(world, world.service_for(""), "segredo") == []
    assert await ids(world, world.service_for(""), "segredo", conversation_id="anonima") == ["m2"]


async def test_pages_neither_skip_nor_repeat_and_belong_to_their_query(world: World) -> None:
    ana = world.member()
    name = (await create(world, ana)).conversation_id
    await append(world, ana, name, *(said("prazo " * (1 + n % 3), message_id=f"m{n}") for n in range(9)))
    for order in (pb.SEARCH_ORDER_RELEVANCE, pb.SEARCH_ORDER_RECENCY):
        found, token = list[str](), ""
        while True:
            page = await search(world, ana, "prazo", order=order, page_size=4, page_token=token)
            found += [each.message.message_id for each in page.results]
            if not page.next_page_token:
                break
            token = page.next_page_token
        assert sorted(found) == [f"m{n}" for n in range(9)]
        others: list[dict[str, Any]] = [{"conversation_id": "c"}, {"types": [ASSISTANT]}, {"user_id": "ana"}]
        for query, other in (("prazos", {}), *(("prazo", each) for each in others)):
            refused = await refusal(search(world, ana, query, order=order, page_token=token, **other))
            assert refused.reason == "PAGE_TOKEN_MISMATCH"


@pytest.mark.parametrize(
    "edit",
    [
        {},
        {"r": "x", "t": 1, "c": "c", "s": 1},
        {"r": float("nan"), "t": 1, "c": "c", "s": 1},
        {"r": 1.0, "t": -1, "c": "c", "s": 1},
        {"r": 1.0, "t": 1, "c": "a:b", "s": 1},
        {"r": 1.0, "t": 1, "c": "c", "s": 0},
    ],
)
async def test_an_edited_token_is_refused(world: World, edit: dict[str, Any]) -> None:
    with acting_as(Caller(world.tenant_id, "ana", "k", frozenset(), "", 0.0)):
        token = page_token(query_of(pb.SearchMessagesRequest(query="x"), Reach(world.tenant_id, "ana")), edit)
    assert (await refusal(search(world, world.member(), "x", page_token=token))).reason == "PAGE_TOKEN_INVALID"


@pytest.mark.parametrize("query", ["", "  ", "?!…", "x" * 501])
async def test_a_query_without_a_word_is_refused(world: World, query: str) -> None:
    assert [each.field for each in await broken_fields(search(world, world.member(), query))] == ["query"]
