"""Whose a question is."""

from datetime import UTC, datetime

import pytest

from services.document_rag.assistants.model import Assistant
from services.document_rag.assistants.routing import Candidate, choose, mentioned, score
from services.document_rag.model import SearchMode

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def member(name: str, description: str = "", *keywords: str) -> Assistant:
    return Assistant(
        assistant_id=name,
        display_name=name,
        instructions="",
        model="",
        top_k=0,
        temperature=None,
        max_output_tokens=0,
        document_ids=(),
        collection_ids=(),
        description=description,
        keywords=keywords,
        search_mode=SearchMode.HYBRID,
        history_tokens=None,
        verify_answers=True,
        created_at=NOW,
        updated_at=NOW,
    )


TAXES = Candidate(member("Tributos", "Impostos municipais, taxas e certidões.", "IPTU", "dívida ativa"))
WASTE = Candidate(member("Limpeza Urbana", "Coleta de lixo e reciclagem nos bairros.", "lixo", "entulho"))
HEALTH = Candidate(member("Saúde", "Postos de saúde e vacinas."), "Vacinação Campanhas e calendário de vacinas")
TEAM = (TAXES, WASTE, HEALTH)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Quando vence o IPTU?", "Tributos"),
        ("tenho divida ativa, e agora?", "Tributos"),
        ("Como descarto entulho da obra?", "Limpeza Urbana"),
        ("Onde tiro certidões de impostos?", "Tributos"),
        ("Qual é o calendário de vacinas?", "Saúde"),
        ("@saude quando abre?", "Saúde"),
        ("O IPTU, @Limpeza_Urbana, vence quando?", "Limpeza Urbana"),
        ("limpeza urbana", "Limpeza Urbana"),
        ("Bom dia!", None),
        ("Qual é o horário?", None),
        ("IPTU e entulho", None),
    ],
)
def test_a_question_goes_to_whom_it_fits(question: str, expected: str | None) -> None:
    choice = choose(question, TEAM, 0.3)
    assert (choice.assistant.display_name if choice else None) == expected


def test_what_only_names_the_member_is_no_part_of_the_question() -> None:
    choice = mentioned("@Tributos, quando vence a cota única?", [each.assistant for each in TEAM])
    assert choice is not None
    assert choice.question == "quando vence a cota única?"


def test_the_longer_of_two_names_is_meant_and_an_address_is_no_mention() -> None:
    people = [member("Obras"), member("Obras Públicas")]
    named = mentioned("@obras publicas: e a rua?", people)
    assert named is not None
    assert named.assistant.display_name == "Obras Públicas"
    assert mentioned("escreva para ana@obras.gov.br", people) is None


def test_scores_lie_between_nothing_and_one_and_more_evidence_is_more() -> None:
    assert score("Bom dia", TAXES) == 0
    once, twice = score("o IPTU", TAXES), score("o IPTU na dívida ativa, impostos e taxas", TAXES)
    assert 0 < once < twice <= 1


def test_a_higher_threshold_leaves_more_to_the_leader() -> None:
    assert choose("Onde tiro certidões?", TEAM, 0.3) is not None
    assert choose("Onde tiro certidões?", TEAM, 0.9) is None
