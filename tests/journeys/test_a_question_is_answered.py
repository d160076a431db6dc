"""The main job: a question, an answer with citations, and numbers that agree."""

from tests.house.processes import System
from tests.journeys.tenant import Client, Json, Tenant, eventually, new_tenant

IPTU = """# Guia do IPTU

## Cota única
A cota única do IPTU vence em 10 de março e tem desconto de 12%.

## Parcelamento
O IPTU pode ser parcelado em até dez parcelas mensais, sem juros, com vencimento no dia 10 de cada mês.
"""
LIXO = """# Coleta de lixo

A coleta seletiva passa às terças e quintas-feiras no bairro Centro, a partir das 7 horas.
"""


def test_a_newcomer_gets_a_cited_answer_from_the_demo(system: System) -> None:
    demo = system.demo
    told = Client(demo["gateway"], demo["api_key"]).ask(demo["assistant_id"], "Quando vence a cota única do IPTU?")
    kinds = [kind for kind, _ in told.events]
    assert kinds[0] == "accepted"
    assert kinds[-1] == "completed"
    assert "IPTU" in told.of("citation")[0]["title"]
    assert told.text
    assert int(told.completed["usage"]["outputTokens"]) > 0


def test_a_follow_up_sees_the_history_and_the_numbers_agree(system: System) -> None:
    tenant = new_tenant(system)
    for name, text in (("iptu.md", IPTU), ("lixo.md", LIXO)):
        assert tenant.admin.upload(name, text.encode())["verdict"] == "VERDICT_NEW"

    first = tenant.admin.ask(tenant.assistant_id, "Quando vence a cota única do IPTU?")
    assert "A cota única do IPTU vence em 10 de março" in first.text
    follow_up = tenant.admin.ask(tenant.assistant_id, "E em quantas parcelas?", conversationId=first.conversation_id)
    assert "até dez parcelas mensais" in follow_up.text

    messages = tenant.admin.messages(first.conversation_id)
    assert [message["seq"] for message in messages] == ["1", "2", "3", "4"]
    assert [message["type"] for message in messages] == ["MESSAGE_TYPE_USER", "MESSAGE_TYPE_ASSISTANT"] * 2
    answers = messages[1::2]
    for told, answer in zip((first, follow_up), answers, strict=True):
        assert answer["text"] == told.text
        assert answer["usage"] == told.completed["usage"]
        assert answer["rag"] is True
        assert answer["references"][0]["title"] == "Guia do IPTU"
        assert answer["references"][0]["quote"]
    _the_numbers_agree(tenant, answers)


def test_reasking_with_the_same_request_id_tells_the_stored_answer_without_charge(system: System) -> None:
    tenant = new_tenant(system)
    tenant.admin.upload("iptu.md", IPTU.encode())
    first = tenant.admin.ask(tenant.assistant_id, "Quando vence a cota única?", requestId="pergunta-1")
    again = tenant.admin.ask(tenant.assistant_id, "Quando vence a cota única?", requestId="pergunta-1")
    assert again.text == first.text
    assert again.completed == first.completed
    assert len(tenant.admin.messages(first.conversation_id)) == 2
    assert tenant.used_tokens() == _total(first.completed["usage"])
    other = tenant.admin.ask(tenant.assistant_id, "Outra pergunta?", requestId="pergunta-1")
    assert other.status == 400
    assert other.error is not None
    assert other.error["details"][0]["reason"] == "REQUEST_ID_REUSED"


def test_a_member_cannot_go_on_with_anothers_conversation(system: System) -> None:
    tenant = new_tenant(system)
    tenant.admin.upload("iptu.md", IPTU.encode())
    ana, bruno = tenant.member("ana"), tenant.member("bruno")
    anas = ana.ask(tenant.assistant_id, "Quando vence a cota única?")
    intruding = bruno.ask(tenant.assistant_id, "O que ela perguntou?", conversationId=anas.conversation_id)
    assert intruding.status == 404
    assert bruno.http.get(f"/v1/conversations/{anas.conversation_id}/messages").status_code == 404
    assert len(ana.messages(anas.conversation_id)) == 2


def test_anonymous_end_users_are_served(system: System) -> None:
    tenant = new_tenant(system)
    tenant.admin.upload("iptu.md", IPTU.encode())
    anyone = tenant.key("ROLE_END_USER")
    told = anyone.ask(tenant.assistant_id, "Quando vence a cota única do IPTU?")
    assert "10 de março" in told.text
    assert len(anyone.messages(told.conversation_id)) == 2
    assert anyone.http.get("/v1/conversations").status_code == 403
    assert anyone.http.get("/v1/documents").status_code == 403


def _the_numbers_agree(tenant: Tenant, answers: list[Json]) -> None:
    """Usage report = ledger = counters = sum over the messages."""
    of_messages = sum(_total(answer["usage"]) for answer in answers)
    settled = [entry for entry in tenant.ledger() if entry["kind"] == "LEDGER_ENTRY_KIND_SETTLED"]
    assert sum(int(entry["usedDelta"]) for entry in settled) == of_messages
    assert tenant.used_tokens() == of_messages
    assert tenant.held_tokens() == 0

    def reported() -> bool:
        total = tenant.admin.get("/v1/reports/usage")["total"]
        return int(total["turns"]) == len(answers) and _total(total["usage"]) == of_messages

    eventually(reported)


def _total(usage: Json) -> int:
    return sum(int(tokens) for tokens in usage.values())
