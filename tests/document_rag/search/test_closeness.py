"""Candidates are read again: the very spelling, alike beginnings, and words that stand together count."""

from services.document_rag.search.closeness import closeness
from services.document_rag.search.postings import Statistics, WordUse
from services.document_rag.search.words import folded_words, language_of, words_of

STATISTICS = Statistics(chunks=100, terms=6_000)


def use(word: str, chunks: int = 5) -> WordUse:
    return WordUse(word, {word[:5]: chunks}, spelt=chunks)


def test_the_very_spelling_counts_more_than_an_inflection_and_that_more_than_nothing() -> None:
    texts = ["As licitações abertas do ano", "A licitação aberta do ano", "O portal aberto do ano"]
    spelt, inflected, absent = closeness([use("licitacoes")], STATISTICS, texts)
    assert spelt > inflected > absent == 0


def test_words_asked_together_count_more_where_they_stand_together() -> None:
    between = "que " * 10
    apart, together = closeness(
        [use("coleta"), use("seletiva")],
        STATISTICS,
        [f"A coleta {between} é seletiva no centro", f"A coleta seletiva {between} é no centro"],
    )
    assert together > apart > 0


def test_an_uncertain_word_counts_less() -> None:
    sure = closeness([use("coleta")], STATISTICS, ["a coleta"])
    doubtful = closeness([WordUse("coleta", {"colet": 5}, 0.5, 5)], STATISTICS, ["a coleta"])
    assert doubtful[0] < sure[0]
    assert closeness([], STATISTICS, ["a coleta"]) == [0]
    assert closeness([use("coleta")], STATISTICS, []) == []


def test_words_of_three_languages_lose_their_function_words_and_entities_of_the_web() -> None:
    assert words_of("Quais são os horários da coleta?") == ["horários", "coleta"]
    assert words_of("What are the opening hours?", "en") == ["opening", "hours"]
    assert words_of("¿Cuáles son los horarios?", "es") == ["horarios"]
    assert words_of("O &quot;cofre&quot; &#39;azul&#39;") == ["cofre", "azul"]
    assert folded_words("Ação &amp; reação") == ["acao", "reacao"]
    asked = {"Em que dias passa o caminhão?": "pt", "When does the truck come?": "en", "¿Cuándo es la feria?": "es"}
    assert {question: language_of(question) for question in asked} == asked
    assert language_of("IPTU 2027") == "pt"
