"""Whose a question is: the member that it names, or the one whose keywords, description and collections fit. Pure."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.document_rag.assistants.model import Assistant
from services.document_rag.assistants.wording import content_stems, stem
from services.document_rag.search.words import fold

# A keyword is what somebody chose to stand for a member; a word of its description may be anybody's.
_OF_A_KEYWORD = 0.6
_OF_A_FURTHER_KEYWORD = 0.15
_OF_THE_DESCRIPTION = 0.6
_OF_THE_COLLECTIONS = 0.6
_CLEAR_LEAD = 0.1  # below it two members fit equally well

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A member, and the names and descriptions of the collections it may read."""

    assistant: Assistant
    collections: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """The member chosen, why, and the question without what only named it."""

    assistant: Assistant
    reason: str
    question: str


def choose(question: str, candidates: Sequence[Candidate], threshold: float) -> Choice | None:
    """The member whose question it is; None when it does not show."""
    named = mentioned(question, [each.assistant for each in candidates])
    if named is not None:
        return named
    ranked = sorted(((score(question, each), each) for each in candidates), key=lambda pair: -pair[0])
    best, leader = ranked[0]
    second = ranked[1][0] if len(ranked) > 1 else 0.0
    if best == 0 or best < threshold or best - second < _CLEAR_LEAD:
        return None
    return Choice(leader.assistant, f"score {best:.2f}", question)


def mentioned(text: str, assistants: Sequence[Assistant]) -> Choice | None:
    """The member that the text names as @name, or whose name is all that it says; the first where there are several."""
    found = min(
        (
            (match.start(), -len(each.display_name), match, each)
            for each in assistants
            for match in _mentions(text, each)
        ),
        key=lambda place: place[:2],
        default=None,
    )
    if found is not None:
        _, _, match, assistant = found
        rest = " ".join((text[: match.start()] + " " + text[match.end() :]).split()).strip(" ,:;")
        return Choice(assistant, "mention", rest or text)
    said = _plain(text)
    alone = next((each for each in assistants if said and _plain(each.display_name) == said), None)
    return Choice(alone, "mention", text) if alone else None


def score(question: str, candidate: Candidate) -> float:
    """How well the member fits the question, from 0 to 1; what speaks for it adds up without ever passing 1."""
    assistant, asked = candidate.assistant, content_stems(question)
    said = [stem(word) for word in _WORD.findall(question)]
    hits = sum(_stands_in(keyword, said) for keyword in assistant.keywords)
    evidence = (
        min(_OF_A_KEYWORD + _OF_A_FURTHER_KEYWORD * (hits - 1), 1.0) if hits else 0.0,
        _OF_THE_DESCRIPTION * _share(asked, f"{assistant.display_name} {assistant.description}"),
        _OF_THE_COLLECTIONS * _share(asked, candidate.collections),
    )
    doubt = 1.0
    for each in evidence:
        doubt *= 1 - each
    return 1 - doubt


def _mentions(text: str, assistant: Assistant) -> Iterator[re.Match[str]]:
    words = [re.escape(word) for word in _WORD.findall(assistant.display_name)]
    if words:
        yield from re.finditer(rf"(?<!\w)@{'[ _.-]*'.join(map(_either_accent, words))}(?!\w)", text, re.IGNORECASE)


def _either_accent(word: str) -> str:
    """The word as written or without its accents."""
    plain = fold(word)
    return word if plain == word.lower() else f"(?:{word}|{plain})"


def _stands_in(keyword: str, said: Sequence[str]) -> bool:
    wanted = [stem(word) for word in _WORD.findall(keyword)]
    places = range(len(said) - len(wanted) + 1)
    return bool(wanted) and any(list(said[place : place + len(wanted)]) == wanted for place in places)


def _share(asked: set[str], text: str) -> float:
    return len(asked & content_stems(text)) / len(asked) if asked else 0.0


def _plain(text: str) -> str:
    return " ".join(map(fold, _WORD.findall(text.lower())))
