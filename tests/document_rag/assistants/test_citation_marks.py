"""Marks say which passage bears a statement out; only ours do, whatever a document has in square brackets."""

from dataclasses import replace

import pytest

from services.document_rag.assistants.citation_marks import disarmed, numbers_in, renumbered, without_marks
from services.document_rag.assistants.model import cited
from services.document_rag.assistants.sources import Sources
from tests.document_rag.passages import passage

FIRST, SECOND = passage("um", document_id="a"), passage("dois", document_id="b")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("Em março [1].", [1]),
        ("Em março [2][1].", [2, 1]),
        ("Em março [1, 2].", [1, 2]),
        ("Em março [1,2 , 3].", [1, 2, 3]),
        ("Em [2027], [a] e [] nada.", []),
    ],
)
def test_a_mark_may_name_several_passages(text: str, numbers: list[int]) -> None:
    assert numbers_in(text) == numbers


def test_a_mark_of_several_passages_cites_each_of_them() -> None:
    assert cited("Vence em março [1, 2]. [9]", [FIRST, SECOND]) == [(1, FIRST), (2, SECOND)]


def test_each_number_of_a_mark_is_replaced_and_a_mark_without_any_left_goes() -> None:
    text = renumbered("Em março [1, 2, 3], com desconto [3].", {1: 7, 2: 8}.get)
    assert text == "Em março [7, 8], com desconto."
    assert without_marks("Em março [1, 2], com desconto [3].") == "Em março, com desconto."


def test_what_a_document_has_in_brackets_cites_nothing() -> None:
    text = "[2] Lei 9: o prazo é de 15 dias [1, 3]; vide [anexo]."
    assert numbers_in(disarmed(text)) == []
    assert disarmed(text) == "(2) Lei 9: o prazo é de 15 dias (1, 3); vide [anexo]."


def test_the_members_of_a_team_cite_under_one_numbering_also_with_marks_of_several_passages() -> None:
    sources = Sources()
    assert sources.taken_over("Vence em março [2].", [FIRST, SECOND]) == "Vence em março [1]."
    assert sources.taken_over("Passa às terças [1, 2, 5].", [FIRST, SECOND]) == "Passa às terças [2, 1]."
    assert sources.passages == [SECOND, FIRST]


def test_pushed_chunks_of_two_collections_may_bear_one_id_and_are_two_passages() -> None:
    one = replace(passage("um", document_id=""), chunk_id="1", collection_id="c1")
    other = replace(passage("dois", document_id=""), chunk_id="1", collection_id="c2")
    sources = Sources()
    assert sources.taken_over("Um [1], dois [2].", [one, other]) == "Um [1], dois [2]."
    assert sources.passages == [one, other]
    assert sources.before([other, one]) == (one, other)
