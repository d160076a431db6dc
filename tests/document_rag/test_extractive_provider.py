"""The embedded default quotes what supports the question, or says that nothing does."""

import pytest

from services.document_rag.assistants.extractive_provider import ExtractiveProvider
from services.document_rag.assistants.model import Budget, FinishReason, Utterance, cited
from services.document_rag.assistants.prompt import Brief, Prompt, build_prompt
from services.document_rag.assistants.providers import Delta, Finish, Sampling
from services.document_rag.assistants.wording import NOT_IN_DOCUMENTS
from services.document_rag.model import Passage
from services.document_rag.tokens import count_tokens
from tests.document_rag.passages import found, passage

IPTU = passage(
    "# IPTU\nA cota única do IPTU vence em 10 de março e tem desconto de 12%. O parcelamento pode ser feito em até dez "
    "parcelas mensais. O contribuinte recebe o carnê em casa.",
    document_id="iptu",
)
LIXO = passage(
    "A coleta seletiva passa às terças e quintas-feiras no Centro. O caminhão sai às 7 horas da garagem municipal.",
    title="Coleta de lixo",
    document_id="lixo",
)


def prompt_of(question: str, passages: list[Passage], history: list[Utterance] | None = None) -> Prompt:
    return build_prompt(Brief(), question, history or [], found(*passages), Budget(passages=3000, history=1000))


async def answered(prompt: Prompt, max_output_tokens: int = 500) -> tuple[str, Finish]:
    pieces = [
        piece async for piece in ExtractiveProvider().answer(prompt, Sampling("extractive", None, max_output_tokens))
    ]
    finish = pieces.pop()
    assert isinstance(finish, Finish)
    return "".join(piece.text for piece in pieces if isinstance(piece, Delta)), finish


async def test_the_answer_is_verbatim_and_cites_the_passage_it_comes_from() -> None:
    text, finish = await answered(prompt_of("Quando vence a cota única do IPTU?", [IPTU, LIXO]))
    assert "A cota única do IPTU vence em 10 de março e tem desconto de 12%. [1]" in text
    assert [each.document_id for _, each in cited(text, [IPTU, LIXO])] == ["iptu"]
    assert finish.reason is FinishReason.STOP
    assert finish.model == "extractive"


async def test_a_line_end_inside_a_paragraph_ends_no_sentence() -> None:
    wrapped = passage(
        "## Prazos\nQuem perde a data ainda pode pagar a taxa de alvará em\ncota única até 10 de março.\n- taxa: R$ 50"
    )
    text, _ = await answered(prompt_of("Até quando posso pagar a taxa de alvará?", [wrapped]))
    assert "pode pagar a taxa de alvará em cota única até 10 de março. [1]" in text
    assert "Prazos" not in text


async def test_the_passage_that_answers_wins_over_the_one_that_ranks_first() -> None:
    text, _ = await answered(prompt_of("Em que dias passa a coleta seletiva no Centro?", [IPTU, LIXO]))
    assert text.startswith("A coleta seletiva passa às terças e quintas-feiras no Centro. [2]")


async def test_a_sentence_about_the_subject_wins_over_those_that_mention_it() -> None:
    mentions = " ".join(f"O setor {number} recebe pedidos de nota fiscal." for number in range(5))
    told = passage(f"{mentions} A nota fiscal é emitida no portal do contribuinte.")
    text, _ = await answered(prompt_of("Para que serve a nota fiscal?", [told]))
    assert "A nota fiscal é emitida no portal do contribuinte." in text


async def test_a_bare_word_is_answered_in_the_language_of_the_question_before() -> None:
    asked = [Utterance(by_user=True, text="What is the deadline for the property tax?")]
    text, _ = await answered(prompt_of("Helicopters?", [LIXO], asked))
    assert text == NOT_IN_DOCUMENTS["en"]


@pytest.mark.parametrize(
    ("question", "language"),
    [("Como faço para adotar um cachorro?", "pt"), ("How can I adopt a dog in the city?", "en")],
)
async def test_what_the_documents_do_not_hold_is_said_in_the_language_of_the_question(
    question: str, language: str
) -> None:
    text, _ = await answered(prompt_of(question, [IPTU, LIXO]))
    assert text == NOT_IN_DOCUMENTS[language]


async def test_words_that_only_begin_alike_bear_nothing_out() -> None:
    bus = passage("A passagem de ônibus custa R$ 5,20. Quem perde o cartão renova na garagem.", title="Transporte")
    text, _ = await answered(prompt_of("Quem emite passaportes?", [bus]))
    assert text == NOT_IN_DOCUMENTS["pt"]


async def test_a_follow_up_takes_its_subject_from_the_question_before() -> None:
    history = [Utterance(by_user=True, text="Como pago o IPTU?"), Utterance(by_user=False, text="Em cota única.")]
    text, _ = await answered(prompt_of("E em quantas parcelas?", [LIXO, IPTU], history))
    assert "até dez parcelas mensais. [2]" in text


async def test_it_stays_within_its_limit_and_charges_what_it_said() -> None:
    prompt = prompt_of("Quando vence a cota única do IPTU e em quantas parcelas?", [IPTU])
    whole, _ = await answered(prompt)
    text, finish = await answered(prompt, max_output_tokens=count_tokens(whole) - 1)
    assert finish.reason is FinishReason.LENGTH
    assert finish.tokens is not None
    assert finish.tokens.output == count_tokens(text) < count_tokens(whole)
    assert finish.tokens.input == prompt.tokens
