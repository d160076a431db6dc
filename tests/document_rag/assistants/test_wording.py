"""The language of a question, and what the service says in it."""

import pytest

from services.document_rag.assistants.model import Utterance
from services.document_rag.assistants.wording import (
    NOT_IN_DOCUMENTS,
    language_of,
    language_of_question,
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


@pytest.mark.parametrize(
    ("before", "question", "language"),
    [
        (["What is the deadline for the property tax?"], "IPTU?", "en"),
        (["¿Cuál es el plazo del impuesto?", "2027?"], "IPTU?", "es"),
        (["What is the deadline for the property tax?"], "E quanto custa?", "pt"),
        ([], "IPTU?", "pt"),
    ],
)
def test_a_question_that_does_not_show_its_language_has_that_of_the_one_before(
    before: list[str], question: str, language: str
) -> None:
    history = [Utterance(by_user=True, text=each) for each in before]
    history.append(Utterance(by_user=False, text="Não encontrei essa informação nos documentos."))
    assert language_of_question(question, history) == language


def test_that_the_documents_do_not_hold_it_is_recognised_in_every_language() -> None:
    for sentence in NOT_IN_DOCUMENTS.values():
        assert says_not_in_documents(f"{sentence.rstrip('.')}!")
    assert not says_not_in_documents("A informação está nos documentos.")


def test_the_question_back_names_who_may_answer() -> None:
    assert who_shall_answer("pt", ["A", "B", "C"]) == "Quem deve responder: A, B ou C?"
    assert who_shall_answer("en", ["A", "B"]) == "Who should answer: A or B?"
