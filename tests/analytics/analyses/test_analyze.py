"""A conversation is analysed, once for what was said in it, whoever asks, dies or asks again."""

import asyncio
from typing import Any

import grpc
import pytest

from prosa.analytics.v1 import analysis_service_pb2 as pb
from prosa.chat_store.v1 import conversation_service_pb2 as chat_pb
from services.analytics.analyses.conversations import Conversations
from services.analytics.analyses.model import Step, Trigger
from services.analytics.rollups.statements import StatementStore
from shared.errors import Unavailable, error_of
from tests.analytics.analyses.world import BAD_LIGHT, GOOD_SCHOOL, World, of_another


async def test_a_conversation_is_analysed_linked_counted_and_given_feedback(analysed: World) -> None:
    conversation_id = await analysed.conversation(BAD_LIGHT)
    found = await analysed.analyze(conversation_id)

    assert (found.version, found.newest, found.trigger) == (1, True, pb.ANALYSIS_TRIGGER_REQUESTED)
    assert found.main_topic == "Iluminação pública"
    assert found.sentiment == pb.ANALYSIS_SENTIMENT_NEGATIVE
    assert found.category == pb.ANALYSIS_CATEGORY_COMPLAINT
    assert found.resolution == pb.ANALYSIS_RESOLUTION_UNRESOLVED
    assert (found.user_id, found.assistant_id, found.channel, found.last_seq) == ("ana", "atendente", "web", 2)
    assert found.summary.startswith("Pedido: A rua está no escuro")
    assert {each.field for each in found.findings} >= {"sentiment", "main_topic", "category"}

    (message,) = found.messages
    assert (message.seq, message.topic) == (1, "Iluminação pública")
    assert (message.sentiment, "rua" in " ".join(message.keywords)) == (pb.ANALYSIS_SENTIMENT_NEGATIVE, True)

    assert list((await analysed.told(conversation_id)).analysis_ids) == [found.analysis_id]
    feedback = (await analysed.messages(conversation_id))[-1].feedback
    assert (feedback.auto_generated, feedback.sentiment) == (True, chat_pb.SENTIMENT_NEGATIVE)
    assert feedback.rating == found.satisfaction
    assert await analysed.counted() == {
        "analyses": 1,
        "sentiment_negative": 1,
        "satisfaction": found.satisfaction,
        "satisfaction_known": 1,
        "unresolved": 1,
    }
    assert (await analysed.counted("topic", "Iluminação pública"))["analyses"] == 1
    got = await analysed.analyses.GetAnalysis(
        pb.GetAnalysisRequest(analysis_id=found.analysis_id), metadata=analysed.person()
    )
    assert got == found


async def test_what_was_analysed_is_analysed_again_only_when_more_was_said_or_it_is_asked_for(analysed: World) -> None:
    conversation_id = await analysed.conversation(BAD_LIGHT)
    first = await analysed.analyze(conversation_id)
    assert (await analysed.analyze(conversation_id)).analysis_id == first.analysis_id

    await analysed.say(conversation_id, "Voltou a luz! Muito obrigada, excelente atendimento, adorei a rapidez!")
    second = await analysed.analyze(conversation_id)
    assert (second.version, second.sentiment) == (2, pb.ANALYSIS_SENTIMENT_POSITIVE)
    again = await analysed.analyze(conversation_id, again=True, request_id="outra vez")
    assert again.version == 3
    assert (await analysed.analyze(conversation_id, again=True, request_id="outra vez")).version == 3

    counted = await analysed.counted()
    assert (counted["analyses"], counted["sentiment_positive"]) == (1, 1)
    assert "sentiment_negative" not in counted, "the version before was not taken away"
    versions = pb.ListAnalysesRequest(conversation_id=conversation_id, all_versions=True)
    listed = (await analysed.analyses.ListAnalyses(versions, metadata=analysed.person())).analyses
    assert {each.version: each.newest for each in listed} == {1: False, 2: False, 3: True}


async def test_a_request_id_says_one_thing_only(analysed: World) -> None:
    conversation_id = await analysed.conversation(BAD_LIGHT)
    first = await analysed.analyze(conversation_id, request_id="um")
    await analysed.say(conversation_id, GOOD_SCHOOL)
    assert (await analysed.analyze(conversation_id, request_id="um")).analysis_id == first.analysis_id
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await analysed.analyze(conversation_id, request_id="um", again=True)
    assert error_of(refused.value).reason == "REQUEST_ID_REUSED"


async def test_duplicate_deliveries_at_once_make_one_analysis(analysed: World) -> None:
    conversation_id = await analysed.conversation(BAD_LIGHT)
    analyze = analysed.room.analyses.analyze
    made = await asyncio.gather(*(analyze(analysed.tenant_id, conversation_id, Trigger.FINALIZED) for _ in range(8)))
    assert len({each.analysis_id for each in made}) == 1
    assert (await analysed.counted())["analyses"] == 1
    assert len(await analysed.kept("analyses")) == 1


@pytest.mark.parametrize(
    ("where", "what"),
    [(StatementStore, "commit"), (Conversations, "link"), (Conversations, "leave_feedback")],
)
async def test_an_analysis_whose_maker_is_killed_between_two_steps_is_finished_by_another(
    analysed: World, monkeypatch: pytest.MonkeyPatch, where: type, what: str
) -> None:
    conversation_id = await analysed.conversation(BAD_LIGHT)
    with monkeypatch.context() as death:

        async def killed(*_: Any) -> None:
            raise asyncio.CancelledError

        death.setattr(where, what, killed)
        with pytest.raises(asyncio.CancelledError):
            await analysed.room.analyses.analyze(analysed.tenant_id, conversation_id, Trigger.IDLE)
    (document,) = await analysed.kept("analyses")
    assert document["pending"], "nothing says what is still to be done"

    await analysed.change("analyses", look_again=document["look_again"].replace(year=2020))
    await analysed.room.analyses.finish_abandoned()
    await analysed.room.analyses.finish_abandoned()
    assert (await analysed.counted())["analyses"] == 1
    assert len((await analysed.told(conversation_id)).analysis_ids) == 1
    assert (await analysed.messages(conversation_id))[-1].feedback.auto_generated
    assert [each["pending"] for each in await analysed.kept("analyses")] == [[]]


async def test_every_step_may_be_done_again_without_effect(analysed: World) -> None:
    conversation_id = await analysed.conversation(GOOD_SCHOOL)
    made = await analysed.room.analyses.analyze(analysed.tenant_id, conversation_id, Trigger.IDLE)
    before = await analysed.counted()
    await analysed.change("analyses", pending=[step.value for step in made.pending])
    await analysed.room.analyses.finish(await analysed.room.store.get(analysed.tenant_id, made.analysis_id))
    assert made.pending == (Step.COUNT, Step.LINK, Step.FEEDBACK)
    assert await analysed.counted() == before
    assert len((await analysed.told(conversation_id)).analysis_ids) == 1


async def test_feedback_of_people_is_never_touched_and_counts_as_their_satisfaction(analysed: World) -> None:
    conversation_id = await analysed.conversation(BAD_LIGHT)
    answer = (await analysed.messages(conversation_id))[-1]
    given = chat_pb.Feedback(rating=4, comment="até que foi bom")
    request = chat_pb.SetFeedbackRequest(conversation_id=conversation_id, message_id=answer.message_id, feedback=given)
    await analysed.house.conversations.SetFeedback(request, metadata=analysed.person())
    found = await analysed.analyze(conversation_id)
    assert found.satisfaction == 4
    kept = (await analysed.messages(conversation_id))[-1].feedback
    assert (kept.comment, kept.auto_generated) == ("até que foi bom", False)


async def test_numbers_and_addresses_of_people_are_blotted_out(analysed: World) -> None:
    told = "Meu CPF é 123.456.789-00 e o e-mail ana@example.com, quero a segunda via do IPTU"
    found = await analysed.analyze(await analysed.conversation(told))
    everything = str(found) + str(await analysed.kept("analyses"))
    assert "456" not in everything
    assert "example.com" not in everything


async def test_where_nobody_said_anything_there_is_nothing_to_analyse(analysed: World) -> None:
    conversation_id = await analysed.conversation()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await analysed.analyze(conversation_id)
    assert error_of(refused.value).reason == "NOTHING_TO_ANALYSE"


async def test_another_tenant_finds_no_analysis(analysed: World) -> None:
    found = await analysed.analyze(await analysed.conversation(BAD_LIGHT))
    stranger = of_another(analysed)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stranger.analyses.GetAnalysis(
            pb.GetAnalysisRequest(analysis_id=found.analysis_id), metadata=stranger.person()
        )
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert not (await stranger.topic_map()).topics
    # A tenant that tenant_quota does not know cannot be acted for.
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await stranger.analyze(found.conversation_id)
    assert isinstance(error_of(unknown.value), Unavailable)
