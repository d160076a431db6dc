"""Analyses are found again, page by page, without reading a tenant's whole past."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from prosa.analytics.v1 import analysis_service_pb2 as pb
from services.analytics.analyses import analysis_store, wire
from shared.errors import error_of
from tests.analytics.analyses.world import BAD_LIGHT, GOOD_SCHOOL, World


async def test_analyses_are_filtered_and_paged(analysed: World) -> None:
    made = [await analysed.analyze(await analysed.conversation(text)) for text in (BAD_LIGHT, GOOD_SCHOOL, BAD_LIGHT)]
    request = pb.ListAnalysesRequest(page_size=2)
    first = await analysed.analyses.ListAnalyses(request, metadata=analysed.person())
    request.page_token = first.next_page_token
    second = await analysed.analyses.ListAnalyses(request, metadata=analysed.person())
    listed = [each.analysis_id for each in (*first.analyses, *second.analyses)]
    assert listed == [each.analysis_id for each in reversed(made)]
    assert not second.next_page_token
    for wanted in (
        pb.ListAnalysesRequest(sentiment=pb.ANALYSIS_SENTIMENT_POSITIVE),
        pb.ListAnalysesRequest(main_topic="Educação"),
        pb.ListAnalysesRequest(category=pb.ANALYSIS_CATEGORY_PRAISE),
    ):
        found = await analysed.analyses.ListAnalyses(wanted, metadata=analysed.person())
        assert [each.analysis_id for each in found.analyses] == [made[1].analysis_id]
    request.sentiment = pb.ANALYSIS_SENTIMENT_POSITIVE
    with pytest.raises(grpc.aio.AioRpcError) as mismatched:
        await analysed.analyses.ListAnalyses(request, metadata=analysed.person())
    assert error_of(mismatched.value).reason == "PAGE_TOKEN_MISMATCH"


async def test_before_its_indexes_are_made_a_list_is_unavailable_and_not_broken(analysed: World) -> None:
    await analysed.analyze(await analysed.conversation(BAD_LIGHT))
    await analysed.database["analyses"].drop_indexes()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await analysed.analyses.ListAnalyses(pb.ListAnalysesRequest(), metadata=analysed.person())
    assert error_of(refused.value).reason == "DEPENDENCY_UNAVAILABLE"
    await analysed.room.prepare()
    assert len(await listed(analysed, pb.ListAnalysesRequest())) == 1


async def test_finding_the_newest_version_reads_one_document(analysed: World) -> None:
    conversation_id = await analysed.conversation(BAD_LIGHT)
    for number in range(4):
        await analysed.analyze(conversation_id, again=True, request_id=str(number))
    query = {"tenant_id": analysed.tenant_id, "conversation_id": conversation_id, "version": {"$gt": 0}}
    plan = analysed.database["analyses"].find(query).sort([("version", -1)]).limit(1)
    examined = (await plan.explain())["executionStats"]["totalDocsExamined"]
    newest = await analysed.room.store.newest(analysed.tenant_id, conversation_id)
    assert newest is not None
    assert (newest.version, examined) == (4, 1)


async def listed(world: World, request: pb.ListAnalysesRequest) -> list[list[str]]:
    """All pages, each as the ids on it."""
    pages: list[list[str]] = []
    while True:
        page = await world.analyses.ListAnalyses(request, metadata=world.person())
        pages.append([each.analysis_id for each in page.analyses])
        request.page_token = page.next_page_token
        if not request.page_token:
            return pages


async def test_a_page_looks_at_so_many_only_and_finds_what_hardly_anything_is(
    analysed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analysis_store, "MOST_EXAMINED", 4)
    rare = await analysed.analyze(await analysed.conversation(GOOD_SCHOOL))
    for _ in range(9):
        await analysed.analyze(await analysed.conversation(BAD_LIGHT))
    await analysed.analyze(rare.conversation_id, again=True)
    for every_version, expected in ((False, 1), (True, 2)):
        request = pb.ListAnalysesRequest(main_topic="Educação", all_versions=every_version)
        async with examined(analysed) as documents:
            pages = await listed(analysed, request)
        assert len([each for page in pages for each in page]) == expected
        assert len(pages) > 2
        # One more where the page before ended, and one where two orders of time are merged.
        assert max(documents) <= 4 + 2


async def test_one_conversations_versions_are_read_alone(analysed: World) -> None:
    for _ in range(6):
        await analysed.analyze(await analysed.conversation(BAD_LIGHT))
    conversation_id = await analysed.conversation(BAD_LIGHT)
    made = [await analysed.analyze(conversation_id, again=True) for _ in range(3)]
    async with examined(analysed) as documents:
        pages = await listed(analysed, pb.ListAnalysesRequest(conversation_id=conversation_id, all_versions=True))
    assert sorted(*pages) == sorted(each.analysis_id for each in made)
    assert max(documents) <= 3


async def test_an_answer_stays_small_enough_to_be_sent(analysed: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [await analysed.analyze(await analysed.conversation(BAD_LIGHT)) for _ in range(4)]
    monkeypatch.setattr(wire, "PAGE_BYTES", 2 * made[0].ByteSize() + 50)
    pages = await listed(analysed, pb.ListAnalysesRequest(page_size=1000))
    assert [len(page) for page in pages] == [2, 2]
    assert [each for page in pages for each in page] == [each.analysis_id for each in reversed(made)]


@asynccontextmanager
async def examined(world: World) -> AsyncIterator[list[int]]:
    """After the block, how many analyses each command on them has read."""
    documents: list[int] = []
    await world.database["system.profile"].drop()
    await world.database.command("profile", 2)
    try:
        yield documents
    finally:
        await world.database.command("profile", 0)
    reads = {"ns": f"{world.database.name}.analyses", "docsExamined": {"$exists": True}}
    documents += [each["docsExamined"] async for each in world.database["system.profile"].find(reads)]
