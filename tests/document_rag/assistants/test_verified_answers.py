"""What an assistant reads, how it is asked, and what is told about its answer's support."""

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import MessageToDict

from prosa.document_rag.v1 import assistant_service_pb2 as pb
from prosa.document_rag.v1 import search_service_pb2
from tests.document_rag.neighbourhood import Tenant, Told, ask, request_id
from tests.house.fake_provider import FakeProvider

TEXT = "A cota única do IPTU vence em 10 de março de 2027 e tem desconto de 12%.\n"
QUESTION = "Quando vence a cota única do IPTU?"


async def test_each_sentence_is_verified_before_the_end_and_the_verdict_is_stored(tenant: Tenant) -> None:
    await tenant.document(TEXT)
    request = ask(await tenant.assistant("extractive"), QUESTION, request_id=request_id())
    told = await tenant.ask(request)
    kinds = [each.WhichOneof("event") for each in told.events]
    assert kinds == ["accepted", "citation", "text_delta", "verification", "completed"]
    (sentence,) = _verification(told).sentences
    assert sentence.support == pb.SENTENCE_SUPPORT_SUPPORTED
    assert list(sentence.citation_numbers) == [1]
    assert told.text[sentence.char_start : sentence.char_end] == told.text
    stored = (await tenant.messages(told.accepted.conversation_id))[1]
    kept = MessageToDict(stored.metadata)["verification"]
    assert kept == [{"start": 0, "end": float(len(told.text)), "support": "supported", "citations": [1]}]
    assert _verification(await tenant.ask(request)) == _verification(told)


async def test_a_model_that_invents_is_found_out(tenant: Tenant) -> None:
    """The fake says that the answer is "no documento da prefeitura [1]", whatever it reads."""
    await tenant.document(TEXT)
    told = await tenant.ask(ask(await tenant.assistant("fake-plain"), QUESTION))
    assert [each.support for each in _verification(told).sentences] == [pb.SENTENCE_SUPPORT_UNSUPPORTED]


async def test_an_assistant_can_do_without(tenant: Tenant) -> None:
    await tenant.document(TEXT)
    told = await tenant.ask(ask(await tenant.assistant("extractive", verify_answers=False), QUESTION))
    assert not any(each.HasField("verification") for each in told.events)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Quem ganhou o campeonato de xadrez em Marte?", "Não encontrei essa informação nos documentos."),
        ("Who won the chess championship on Mars?", "I did not find that in the documents."),
        ("¿Quién ganó el campeonato de ajedrez en Marte?", "No encontré esa información en los documentos."),
    ],
)
async def test_not_in_the_documents_is_an_answer_in_the_language_of_the_question(
    tenant: Tenant, question: str, answer: str
) -> None:
    await tenant.document(TEXT)
    request = ask(await tenant.assistant("extractive"), question, request_id=request_id())
    told = await tenant.ask(request)
    assert (told.text, told.completed.not_in_documents) == (answer, True)
    assert (await tenant.ask(request)).completed == told.completed
    assert not (await tenant.ask(ask(request.assistant_id, QUESTION))).completed.not_in_documents


async def test_an_assistant_reads_its_collections_and_documents_and_nothing_else(tenant: Tenant) -> None:
    await tenant.document(TEXT, title="Fora")
    named = await tenant.document(TEXT.replace("12%", "13%"), title="Dentro")
    told = await tenant.ask(ask(await tenant.assistant("extractive", document_ids=[named]), QUESTION))
    assert {each.citation.title for each in told.events if each.HasField("citation")} == {"Dentro"}
    empty = await tenant.collection("Vazia")
    none = await tenant.ask(ask(await tenant.assistant("extractive", collection_ids=[empty]), QUESTION))
    assert none.completed.not_in_documents


async def test_a_collection_that_is_foreign_is_a_missing_one(tenant: Tenant) -> None:
    foreign = await (await tenant.house.tenant()).collection("Alheia")
    own = await tenant.assistant("extractive")
    update = pb.UpdateAssistantRequest(
        assistant_id=own,
        assistant=pb.Assistant(collection_ids=[foreign]),
        update_mask=FieldMask(paths=["collection_ids"]),
    )
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await tenant.house.assistants.UpdateAssistant(update, metadata=tenant.person())
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_what_an_assistant_is_given_of_the_history_is_its_own_choice(
    tenant: Tenant, provider: FakeProvider
) -> None:
    first = await tenant.ask(ask(await tenant.assistant("fake-plain"), "Como tiro o alvará de funcionamento aqui?"))
    conversation_id = first.accepted.conversation_id
    question = "E qual é o prazo para o pagamento da taxa?"
    for history_tokens, remembers in ((None, True), (0, False), (1000, True)):
        assistant_id = await tenant.assistant("fake-plain", history_tokens=history_tokens)
        await tenant.ask(ask(assistant_id, question, conversation_id=conversation_id))
        sent = str(provider.answered[-1].messages)
        assert ("Como tiro o alvará" in sent) is remembers, history_tokens


async def test_an_assistant_keeps_what_it_was_told_about_itself(tenant: Tenant) -> None:
    fields = {
        "description": "Impostos",
        "keywords": ["IPTU", "ITBI"],
        "search_mode": search_service_pb2.SEARCH_MODE_KEYWORD,
        "history_tokens": 0,
        "verify_answers": False,
    }
    assistant_id = await tenant.assistant("extractive", **fields)
    request = pb.GetAssistantRequest(assistant_id=assistant_id)
    kept = await tenant.house.assistants.GetAssistant(request, metadata=tenant.person())
    assert {name: getattr(kept, name) for name in fields} == fields
    plain_id = await tenant.assistant("extractive")
    plain = await tenant.house.assistants.GetAssistant(
        pb.GetAssistantRequest(assistant_id=plain_id), metadata=tenant.person()
    )
    assert (plain.search_mode, plain.verify_answers) == (search_service_pb2.SEARCH_MODE_HYBRID, True)
    assert not plain.HasField("history_tokens")


async def test_the_plans_path_of_an_agent_answers_in_one_piece_and_begins_its_conversation(tenant: Tenant) -> None:
    await tenant.document(TEXT)
    request = pb.ChatWithAgentRequest(
        message=QUESTION, agent_id=await tenant.assistant("extractive"), conversation_id="conversa-1"
    )
    first = await tenant.house.assistants.ChatWithAgent(request, metadata=tenant.person())
    assert "10 de março" in first.response
    assert (first.conversation_id, first.agent_id, first.model_used) == ("conversa-1", request.agent_id, "extractive")
    assert [each.number for each in first.citations] == [1]
    again = await tenant.house.assistants.ChatWithAgent(request, metadata=tenant.person())
    assert await tenant.kinds("conversa-1") == ["USER", "ASSISTANT"] * 2
    assert await tenant.counters() == (first.tokens_used + again.tokens_used, 0)


def _verification(told: Told) -> pb.Verification:
    return next((each.verification for each in told.events if each.HasField("verification")), pb.Verification())
