"""The few sentences that the service says itself, and which words of a text carry its meaning. Pure."""

import re
from collections.abc import Sequence

from services.document_rag.assistants.model import Utterance
from services.document_rag.search.words import fold, words_of

PORTUGUESE, ENGLISH, SPANISH = "pt", "en", "es"

NOT_IN_DOCUMENTS = {
    PORTUGUESE: "Não encontrei essa informação nos documentos.",
    ENGLISH: "I did not find that in the documents.",
    SPANISH: "No encontré esa información en los documentos.",
}
COULD_NOT_ANSWER = {
    PORTUGUESE: "Não foi possível responder agora. Tente de novo.",
    ENGLISH: "The question could not be answered now. Try again.",
    SPANISH: "No fue posible responder ahora. Inténtelo de nuevo.",
}
_WHO_SHALL_ANSWER = {
    PORTUGUESE: ("Quem deve responder: {names}?", "ou"),
    ENGLISH: ("Who should answer: {names}?", "or"),
    SPANISH: ("¿Quién debe responder: {names}?", "o"),
}

_STEM_LENGTH = 5  # enough of a Portuguese, Spanish or English word to match its inflections
_WORD = re.compile(r"[^\W\d_]+")

# Words that only one of the three languages has, accents kept.
_TELLING = {
    PORTUGUESE: frozenset(
        """
        a à ao aos as às até com como da das de do dos e é em eu foi há isso já mais me meu minha na não nas no nos o
        os ou para pela pelo por posso preciso qual quais quando quanto quantos que quem são se sem ser seu sua tem
        têm um uma você onde fica faço ter
        """.split()
    ),
    ENGLISH: frozenset(
        """
        a about an and are at be by can did do does for from get have how i in is it many much must my need of on or
        should that the their there they this to until was we what when where which who why will with you your
        """.split()
    ),
    SPANISH: frozenset(
        """
        a al como cómo con cuál cuales cuáles cuándo cuando cuánto cuántos de del dónde donde el ella en es esta está
        están hasta hay la las lo los mi muy más necesito no o para pero por puedo que qué quién se ser si sin son su
        sus tengo tiene un una y ya hacer
        """.split()
    ),
}
_LETTERS = {PORTUGUESE: re.compile("[ãõç]"), SPANISH: re.compile("[ñ¿¡]")}
_FUNCTION_WORDS = frozenset(fold(word) for words in _TELLING.values() for word in words) | frozenset(
    "deve devem feita feito pode podem poder puede pueden debe deben should would could deu sera".split()
)


def language_of(text: str) -> str:
    """ "pt", "en" or "es": the one whose function words the text is made of; "pt" when it does not show."""
    return _leading(text)[0]


def language_of_question(question: str, history: Sequence[Utterance]) -> str:
    """The language of a question; where it does not show ("IPTU?"), that of what the person said last."""
    for text in (question, *(each.text for each in reversed(history) if each.by_user)):
        if len(leading := _leading(text)) == 1:
            return leading[0]
    return language_of(question)


def _leading(text: str) -> list[str]:
    """The languages with most of their function words in the text, "pt" first."""
    lower = text.lower()
    words = _WORD.findall(lower)
    scores = {
        language: sum(1.0 if word in known else 0.0 for word in words)
        + (2.0 if language in _LETTERS and _LETTERS[language].search(lower) else 0.0)
        for language, known in _TELLING.items()
    }
    return [language for language, score in scores.items() if score == max(scores.values())]


def says_not_in_documents(answer: str) -> bool:
    """Whether the answer is, in our own words for it, that the documents do not hold what was asked for."""
    said = _folded(answer)
    return any(_folded(sentence) in said for sentence in NOT_IN_DOCUMENTS.values())


def who_shall_answer(language: str, names: Sequence[str]) -> str:
    """The question back, when nothing shows whose the question is."""
    sentence, either = _WHO_SHALL_ANSWER[language]
    *others, last = names
    listed = f"{', '.join(others)} {either} {last}" if others else last
    return sentence.format(names=listed)


def stem(word: str) -> str:
    """The beginning of a word, accents folded: what its inflections share."""
    return fold(word)[:_STEM_LENGTH]


def content_stems(text: str) -> set[str]:
    """The stems of a text's words, without figures and the function words of the three languages."""
    return {stem(word) for word in words_of(text) if not word[0].isdigit() and fold(word) not in _FUNCTION_WORDS}


def _folded(text: str) -> str:
    return " ".join(map(fold, _WORD.findall(text.lower())))
