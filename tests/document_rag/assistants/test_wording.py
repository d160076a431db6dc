"""The language of a question, and what the service says in it."""

import pytest

from services.document_rag.assistants.wording import (
    NOT_IN_DOCUMENTS,
    language_of,
    says_not_in_documents,
    who_shall_answer,
)


@pytest.mark.parametrize(
    ("question", "language"),
    [
        ("Qual é o prazo do IPTU?", "pt"),
        ("quanto custa alvara", "pt"),
        ("IPTU", "pt"),
        ("E quanto custa?", "pt"),
        ("What is the deadline for the property tax?", "en"),
        ("opening hours of city hall", "en"),
        ("where do I pay", "en"),
        ("¿Cuál es el plazo del impuesto?", "es"),
        ("como saco la licencia", "es"),
        ("horario de atencion de la oficina", "es"),
    ],
)
def test_a_short_question_shows_its_language(question: str, language: str) -> None:
    assert language_of(question) == language


def test_that_the_documents_do_not_hold_it_is_recognised_in_every_language() -> None:
    for sentence in NOT_IN_DOCUMENTS.values():
        assert says_not_in_documents(f"{sentence.rstrip('.')}!")
    assert not says_not_in_documents("A informação está nos documentos.")


def test_the_question_back_names_who_may_answer() -> None:
    assert who_shall_answer("Qual é o prazo?", ["A", "B", "C"]) == "Quem deve responder: A, B ou C?"
    assert who_shall_answer("What is it for?", ["A", "B"]) == "Who should answer: A or B?"
