"""What people say counts: in reports, when the conversation is analysed again, and for conversations like it."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest

from prosa.analytics.v1 import analysis_service_pb2 as pb
from services.analytics.analyses.conversations import Conversations
from services.analytics.analyses.topic_map import MOST_TOPICS
from services.analytics.analyses.unasked import Unasked
from services.analytics.model import Wish
from shared.errors import Unavailable, error_of
from tests.analytics.analyses.world import BAD_LIGHT, GOOD_SCHOOL, World

FAIR = "quando abre a barraca de pastel da feira livre de domingo"


async def test_a_correction_is_the_next_version_and_stays(analysed: World) -> None:
    conversation_id = await analysed.conversation(FAIR)
    found = await analysed.analyze(conversation_id)
    corrected = await analysed.correct(
        found.analysis_id, main_topic="Feiras livres", sentiment=pb.ANALYSIS_SENTIMENT_POSITIVE, satisfaction=5
    )
    assert (corrected.version, corrected.trigger, corrected.corrected_by) == (2, pb.ANALYSIS_TRIGGER_CORRECTED, "ana")
    by = {each.field: each.stage for each in corrected.findings}
    assert by["main_topic"] == by["sentiment"] == pb.ANALYSIS_STAGE_HUMAN
    assert (await analysed.counted())["sentiment_positive"] == 1
    assert (await analysed.counted("topic", "Feiras livres"))["analyses"] == 1
    assert not await analysed.counted("topic", found.main_topic)

    # By the example that it is, the conversation would be taken for the same anyway.
    await analysed.database["analysis_examples"].delete_many({"tenant_id": analysed.tenant_id})
    await analysed.say(conversation_id, "péssimo, que absurdo")
    later = await analysed.analyze(conversation_id)
    assert later.version == 3
    assert (later.main_topic, later.sentiment) == ("Feiras livres", pb.ANALYSIS_SENTIMENT_POSITIVE)
    assert (later.satisfaction, later.corrected_by) == (5, "ana")


async def test_a_correction_decides_conversations_like_it_of_that_tenant_only(analysed: World) -> None:
    found = await analysed.analyze(await analysed.conversation(FAIR))
    await analysed.correct(found.analysis_id, main_topic="Feiras livres", category=pb.ANALYSIS_CATEGORY_REQUEST)
    like = await analysed.analyze(await analysed.conversation("Quando abre a barraca de pastel na feira livre?"))
    assert (like.main_topic, like.category) == ("Feiras livres", pb.ANALYSIS_CATEGORY_REQUEST)
    stages = {each.field: each.stage for each in like.findings}
    assert stages["main_topic"] == stages["category"] == pb.ANALYSIS_STAGE_EXAMPLES
    other = await analysed.analyze(await analysed.conversation(BAD_LIGHT))
    assert other.main_topic == "Iluminação pública"
    kept = str(await analysed.kept("analysis_examples"))
    assert "pastel" not in kept, "an example keeps words"


async def test_only_the_newest_version_is_corrected_and_a_retry_corrects_once(analysed: World) -> None:
    found = await analysed.analyze(await analysed.conversation(FAIR))
    once = await analysed.correct(found.analysis_id, request_id="um", main_topic="Feiras")
    assert (
        (await analysed.correct(found.analysis_id, request_id="um", main_topic="Feiras")).version == once.version == 2
    )
    with pytest.raises(grpc.aio.AioRpcError) as superseded:
        await analysed.correct(found.analysis_id, main_topic="Outra")
    assert error_of(superseded.value).reason == "ANALYSIS_SUPERSEDED"
    with pytest.raises(grpc.aio.AioRpcError) as reused:
        await analysed.correct(found.analysis_id, request_id="um", main_topic="Outra")
    assert error_of(reused.value).reason == "REQUEST_ID_REUSED"


@pytest.mark.parametrize("fields", [{"version": 7}, {"main_topic": " "}, {}])
async def test_what_is_not_a_persons_to_say_is_refused(analysed: World, fields: dict[str, Any]) -> None:
    found = await analysed.analyze(await analysed.conversation(FAIR))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await analysed.correct(found.analysis_id, **fields)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_topic_map_makes_one_of_near_identical_names_and_hides_what_few_people_say(analysed: World) -> None:
    await analysed.settle(k_anonymity=2)
    for user_id, name in (("ana", "Coleta de galhos"), ("bia", "coletas de galho"), ("ana", "COLETA DE GALHOS")):
        found = await analysed.analyze(await analysed.conversation("quero falar disso", user_id=user_id))
        await analysed.correct(found.analysis_id, main_topic=name)
        await analysed.database["analysis_examples"].delete_many({"tenant_id": analysed.tenant_id})
    await analysed.analyze(await analysed.conversation(GOOD_SCHOOL))

    shown = await analysed.topic_map()
    assert [(each.name, each.conversations, each.users) for each in shown.topics] == [("Coleta de galhos", 3, 2)]
    assert list(shown.topics[0].aliases) == []
    assert (shown.hidden_conversations, shown.k_anonymity) == (1, 2)
    await analysed.settle(k_anonymity=0)
    assert {each.name for each in (await analysed.topic_map()).topics} == {"Coleta de galhos", "Educação"}


async def test_the_topic_map_counts_people_exactly_also_when_analyses_change(analysed: World) -> None:
    await analysed.settle(k_anonymity=0)
    one, two = [await analysed.analyze(await analysed.conversation(BAD_LIGHT)) for _ in range(2)]
    await analysed.correct(one.analysis_id, main_topic="Praças")
    by_name = {each.name: each for each in (await analysed.topic_map()).topics}
    assert (by_name["Iluminação pública"].users, by_name["Praças"].users) == (1, 1)
    await analysed.correct(two.analysis_id, main_topic="Praça")
    topics = (await analysed.topic_map()).topics
    assert [(each.name, each.users, each.conversations, each.negative) for each in topics] == [("Praças", 1, 2, 2)]


async def test_of_a_user_who_is_forgotten_the_sums_stay(analysed: World) -> None:
    await analysed.settle(k_anonymity=0)
    found = await analysed.analyze(await analysed.conversation(BAD_LIGHT))
    await analysed.correct(found.analysis_id, main_topic="Praças")
    others = await analysed.analyze(await analysed.conversation(GOOD_SCHOOL, user_id="bia"))
    await analysed.correct(others.analysis_id, satisfaction=5)
    before = await analysed.topic_map(), await analysed.counted()

    assert await analysed.room.store.forget_user(analysed.tenant_id, "ana") == 2
    assert (await analysed.topic_map(), await analysed.counted()) == before
    everything = str([await analysed.kept(name) for name in ("analyses", "analysis_examples")])
    assert "'ana'" not in everything
    assert "escuro" not in everything
    assert len(await analysed.kept("topic_members")) == 1
    assert await analysed.room.store.forget_conversations(analysed.tenant_id, [others.conversation_id]) == 2
    for name in ("analyses", "analysis_examples"):
        assert await analysed.kept(name) == []


async def test_what_rests_is_analysed_by_the_tenants_own_timeout(analysed: World) -> None:
    conversation_id = await analysed.conversation(BAD_LIGHT)
    unasked: Unasked = analysed.room.unasked
    rest = Wish(f"outside:{analysed.tenant_id}:rest-{conversation_id}-1", analysed.tenant_id, conversation_id)
    await unasked.fulfil(rest)
    assert await analysed.kept("analyses") == [], "it rests for seconds only"
    (due,) = await analysed.kept("analyses_due")

    await analysed.change("analyses_due", due=due["due"].replace(year=2020))
    await unasked.analyse_what_is_due()
    assert [each["trigger"] for each in await analysed.kept("analyses")] == ["idle"]
    assert await analysed.kept("analyses_due") == []


async def test_a_shorter_timeout_finds_open_sessions_at_rest(analysed: World) -> None:
    conversation_id = await analysed.conversation(BAD_LIGHT)
    last = (await analysed.messages(conversation_id))[-1].create_time.ToDatetime()
    place = {"tenant_id": analysed.tenant_id, "conversation_id": conversation_id}
    sessions = (await analysed.projection.current()).sessions
    await sessions.insert_one({"_id": place, "open": True, "end": last.replace(year=2020)})
    settings = pb.UpdateAnalysisSettingsRequest()
    settings.settings.idle_timeout.FromSeconds(60)
    settings.update_mask.paths.append("idle_timeout")
    await analysed.analyses.UpdateAnalysisSettings(settings, metadata=analysed.person())
    await analysed.room.unasked.analyse_what_is_due()
    assert [each["trigger"] for each in await analysed.kept("analyses")] == ["idle"]


async def test_a_tenant_may_switch_analyses_unasked_off(analysed: World) -> None:
    assert (await analysed.settle(automatic=False)).idle_timeout.seconds == 1800
    conversation_id = await analysed.conversation(BAD_LIGHT)
    await analysed.room.unasked.fulfil(
        Wish(f"outside:{analysed.tenant_id}:rest-{conversation_id}-1", analysed.tenant_id, conversation_id)
    )
    assert await analysed.kept("analyses_due") == []
    await analysed.room.unasked.fulfil(Wish("outside:x:asked", analysed.tenant_id, conversation_id))
    assert len(await analysed.kept("analyses")) == 1


async def test_many_conversations_at_once_make_one_topic_with_exact_sums(analysed: World) -> None:
    await analysed.settle(k_anonymity=0)
    conversations = [await analysed.conversation(BAD_LIGHT, user_id=f"u{number % 4}") for number in range(12)]
    await asyncio.gather(*(analysed.analyze(each) for each in conversations))
    (topic,) = (await analysed.topic_map()).topics
    assert (topic.name, topic.conversations, topic.users, topic.negative) == ("Iluminação pública", 12, 4, 12)
    assert (await analysed.counted("topic", topic.name))["analyses"] == 12


async def test_a_correction_is_learnt_although_the_conversation_could_not_be_read_at_once(
    analysed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await analysed.analyze(await analysed.conversation(FAIR))
    with monkeypatch.context() as outage:

        async def away(*_: Any) -> None:
            raise Unavailable(dependency="chat_store")

        outage.setattr(Conversations, "transcript", away)
        with pytest.raises(grpc.aio.AioRpcError):
            await analysed.correct(found.analysis_id, main_topic="Feiras livres")
    await analysed.change("analyses", look_again=datetime(2020, 1, 1, tzinfo=UTC))
    await analysed.room.analyses.finish_abandoned()
    like = await analysed.analyze(await analysed.conversation("Quando abre a barraca de pastel na feira livre?"))
    assert like.main_topic == "Feiras livres"


async def test_the_topic_map_reads_no_more_than_the_topics_it_may_show(analysed: World) -> None:
    nobody = {"aliases": [], "users": 0, "positivo": 0, "neutro": 0, "negativo": 0, "tenant_id": analysed.tenant_id}
    topics = [
        {**nobody, "name": f"t{number}", "keys": [f"t{number}"], "conversations": number + 1}
        for number in range(MOST_TOPICS + 500)
    ]
    await analysed.database["topics"].insert_many(topics)
    await analysed.database.command("profile", 2)
    try:
        await analysed.topic_map()
    finally:
        await analysed.database.command("profile", 0)
    reads = analysed.database["system.profile"].find(
        {"ns": f"{analysed.database.name}.topics", "op": {"$ne": "insert"}}
    )
    assert sum([each["docsExamined"] async for each in reads]) == MOST_TOPICS
