"""What the verifier says of sentences: figures strictly, words by how many of them the passages have."""

import time

import pytest

from services.document_rag.assistants.figures import Figure, figures_of, unknown_figures
from services.document_rag.assistants.verifier import MOST_SENTENCES, Support, sentence_spans, verify
from tests.document_rag.assistants.verified_sentences import NOTHING_STATED, PASSAGES, SENTENCES
from tests.document_rag.passages import passage

HARD_ONES_IT_GETS_WRONG = 2  # of the set; see "Known gaps"


def test_it_judges_as_a_careful_reader_does() -> None:
    wrong = [(sentence, verdict) for sentence, wanted in SENTENCES if (verdict := _verdict(sentence)) is not wanted]
    assert len(wrong) <= HARD_ONES_IT_GETS_WRONG, wrong


def test_no_false_figure_is_ever_supported() -> None:
    false_figures = [sentence for sentence, wanted in SENTENCES[16:28] if wanted is Support.UNSUPPORTED]
    assert len(false_figures) == 12
    assert {_verdict(sentence) for sentence in false_figures} == {Support.UNSUPPORTED}


@pytest.mark.parametrize("sentence", NOTHING_STATED)
def test_what_states_nothing_is_not_judged(sentence: str) -> None:
    assert verify(sentence, PASSAGES) == ()


def test_spans_are_the_sentences_of_the_answer_with_their_citations() -> None:
    answer = "Olá! A cota única vence em 10 de março. [1] O prazo é de 15 dias úteis [3].\n- Até logo!"
    spans = [answer[each.start : each.end] for each in verify(answer, PASSAGES)]
    assert spans == [
        "A cota única vence em 10 de março. [1]",
        "O prazo é de 15 dias úteis [3].",
    ]
    assert [each.citations for each in verify(answer, PASSAGES)] == [(1,), (3,)]


def test_what_cites_nothing_names_the_passage_that_comes_nearest() -> None:
    (verified,) = verify("O lixo comum é recolhido de segunda a sábado.", PASSAGES)
    assert (verified.support, verified.citations) == (Support.PARTLY, (2,))


def test_abbreviations_and_numbers_do_not_end_a_sentence() -> None:
    text = "Conforme o art. 5 da lei, o Sr. A. Silva paga R$ 1.234,50. Depois vem o prazo.\n1. Leve o RG."
    assert [text[start:end] for start, end in sentence_spans(text)] == [
        "Conforme o art. 5 da lei, o Sr. A. Silva paga R$ 1.234,50.",
        "Depois vem o prazo.",
        "1. Leve o RG.",
    ]


def test_a_very_long_answer_is_judged_up_to_a_bound() -> None:
    answer = "O prazo de análise é de 15 dias úteis [3]. " * (MOST_SENTENCES + 50)
    assert len(verify(answer, PASSAGES)) == MOST_SENTENCES


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("R$ 1.234,50", "1234,50 reais"),
        ("12%", "12 por cento"),
        ("10 de março de 2027", "10/03/2027"),
        ("March 10, 2027", "2027-03-10"),
        ("7h30", "7:30"),
        ("2 mil", "2.000"),
        ("R$ 1,5 milhão", "R$ 1.500.000,00"),
        ("1º de janeiro", "1 de enero"),
    ],
)
def test_a_figure_is_the_same_in_every_spelling(one: str, other: str) -> None:
    assert figures_of(one).stated == figures_of(other).stated
    assert len(figures_of(one).stated) == 1


def test_a_figure_of_another_kind_is_another_figure() -> None:
    known = figures_of("São 12 dias, R$ 45,00 e 3% de juros até dez parcelas.")
    assert list(unknown_figures("12%", known)) == [Figure("percent", "12")]
    assert list(unknown_figures("45%, US$ 3", known)) == [Figure("USD", "3"), Figure("percent", "45")]
    assert not list(unknown_figures("12 dias, 3%, 10 parcelas", known))


def test_the_title_and_the_section_bear_out_a_sentence_too() -> None:
    titled = passage("Das 8h às 17h, de segunda a sexta.", title="Horário da Praça de Atendimento")
    (verified,) = verify("A Praça de Atendimento abre de segunda a sexta, das 8h às 17h [1].", [titled])
    assert verified.support is Support.SUPPORTED


def _verdict(sentence: str) -> Support | None:
    verified = verify(sentence, PASSAGES)
    return verified[-1].support if verified else None


@pytest.mark.parametrize("filler", [".", " ", "!", "[1", "1.", "\n"])
def test_no_filler_holds_up_everybody_who_shares_the_process(filler: str) -> None:
    """Once 20 000 dots took ten seconds, growing with their square; 200 000 would take a quarter of an hour."""
    text = f"O prazo é de 15 dias{filler * 200_000}x [1]."
    began = time.process_time()
    verify(text, [passage(text)])
    assert time.process_time() - began < 30
