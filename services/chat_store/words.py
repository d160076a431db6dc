"""What a message is found by: its words in Portuguese and English, accents and inflections apart. No input or output.

A text is cut into tokens, a token into terms. A term is a stem with its accents folded and without a language: where
both languages agree on a word, it is one.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from services.chat_store.stems import LONGEST_TERM, SILENT, folded, is_stop_word, stems_of

MAX_INDEXED_CHARACTERS = 65_536  # of a message's text: its beginning
# A search ranks a thousand messages: what each of them costs must be small, however long it is.
MAX_SCORED_CHARACTERS = 2_048
MAX_WORDS = 16  # of a query: its first ones
SNIPPET_CHARACTERS = 240
_ROOM = SNIPPET_CHARACTERS - 2  # of a snippet, between its ellipses

_MOST_PARTS = 8  # of a code that is kept whole; longer chains are only their parts
_WRITTEN_WITHOUT_MARKS = 8  # digits from which on a number may also be written as one: 01310-100, 123.456.789-09
_REMEMBERED = 32_768  # tokens per process, about 12 MB
_REMEMBERED_IN_A_SEARCH = 4_096  # tokens, at most 1 MB

_TYPICAL_LENGTH = 40  # tokens of a message
_SATURATION = 1.2  # BM25's k1
_LENGTH_WEIGHT = 0.5  # BM25's b: messages differ in length more by their author than by their subject

# Python does not count marks as parts of words: without them, decomposed accents would tear words apart.
_MARKS = "".join(chr(code) for code in range(0x300, 0x10000) if unicodedata.category(chr(code)).startswith("M"))
_LETTERS = rf"[\w{_MARKS}{SILENT}]+"
_JOINERS = "-\u2010\u2011./@'’"
_PICTURES = "\u2600-\u27bf\U0001f300-\U0001f3fa\U0001f400-\U0001faff"
# Runs of letters and digits with what joins them to codes, addresses and compounds; flags; pictures. No two branches
# begin alike and no class overlaps what follows it, so a match never goes back: linear in any text.
_TOKEN = re.compile(
    rf"{_LETTERS}(?:(?:[{_JOINERS}]|(?<=\d)[,:](?=\d)){_LETTERS})*"
    rf"|[\U0001f1e6-\U0001f1ff]{{2}}|[{_PICTURES}]"
)
_PART = re.compile(rf"[^{_JOINERS},:_]+")
_CODE = re.compile(r"[\d@]")
# Written without spaces: Thai, kana, Chinese characters.
_UNSPACED_RANGES = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_UNSPACED = re.compile(rf"[{_UNSPACED_RANGES}]")
_SCRIPT_RUN = re.compile(rf"[{_UNSPACED_RANGES}]+|[^{_UNSPACED_RANGES}]+")

# What is said with a word but is not of it: "user's", "we'll"; "enviá-lo", "diga-me".
_APOSTROPHES, _HYPHENS = "'’", "-\u2010\u2011"
_ENGLISH_CLITICS = frozenset("s m d re ve ll".split())
_PORTUGUESE_CLITICS = frozenset("o a os as lo la los las no na nos nas me te se lhe lhes vos".split())


@dataclass(frozen=True, slots=True)
class Word:
    """A word that is asked for: a message has it when it has any of the terms."""

    terms: frozenset[str]


@dataclass(frozen=True, slots=True)
class Snippet:
    """A part of a text; `highlights` are the characters [begin, end) of it that were found, in order and apart."""

    text: str
    highlights: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, order=True)
class _Hit:
    """Characters [begin, end) of a text or a token that are the word of this index."""

    begin: int
    end: int
    word: int


_Part = tuple[int, int, str]  # characters [begin, end) of a token, and what they say


def terms_of(text: str) -> list[str]:
    """The distinct terms of a text's first MAX_INDEXED_CHARACTERS, sorted: what an engine keeps in its index."""
    return sorted({term for token in _tokens(text) for term in _terms(token)})


def words_of(query: str) -> tuple[Word, ...]:
    """The words that must all be in a message: the first MAX_WORDS distinct ones; () if the query has none.

    Function words are left out unless the query has no others.
    """
    asked = {word: is_stop for token in _tokens(query) for word, is_stop in _asked(token)}
    telling = [word for word, is_stop in asked.items() if not is_stop]
    words = (telling or list(asked))[:MAX_WORDS]
    return tuple(word for word in words if not any(other.terms < word.terms for other in words))


def rarity_of(matches: int, messages: int) -> float:
    """What a word says that `matches` of `messages` messages have (BM25's idf): above 0, the more the rarer."""
    matches = min(matches, messages)
    return math.log1p((messages - matches + 0.5) / (matches + 0.5))


def scorer_of(rarity: Mapping[Word, float]) -> Callable[[str], float]:
    """Says how well texts fit these words (BM25 against a typical length): one for all that a search has found.

    A word that the first MAX_SCORED_CHARACTERS of a text lack adds nothing.
    """
    finder, rarities = _finder(tuple(rarity)), tuple(rarity.values())

    def score(text: str) -> float:
        tokens = _tokens(text[:MAX_SCORED_CHARACTERS])
        times = [0] * len(rarities)
        for found in filter(None, map(finder.__getitem__, tokens)):
            for index in {hit.word for hit in found}:
                times[index] += 1
        damping = _SATURATION * (1 - _LENGTH_WEIGHT + _LENGTH_WEIGHT * len(tokens) / _TYPICAL_LENGTH)
        said = zip(rarities, times, strict=True)
        return math.fsum([each * count * (_SATURATION + 1) / (count + damping) for each, count in said])

    return score


def snippet_of(text: str, words: Sequence[Word]) -> Snippet:
    """At most SNIPPET_CHARACTERS of the text where most of the words are closest together; its beginning without any.

    It is cut at the borders of words, with "…" where it is cut.
    """
    hits = sorted(_hits(text, _finder(tuple(words))))
    begin, end = (0, len(text)) if len(text) <= SNIPPET_CHARACTERS else _cut(text, *_densest(hits))
    before, after = "…" if begin else "", "…" if end < len(text) else ""
    shift = len(before) - begin
    shown = [(max(hit.begin, begin), min(hit.end, end)) for hit in hits if hit.begin < end and hit.end > begin]
    return Snippet(before + text[begin:end] + after, tuple((b + shift, e + shift) for b, e in _merged(shown)))


# From a text to terms


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text[:MAX_INDEXED_CHARACTERS])


def _terms(token: str) -> tuple[str, ...]:
    """The distinct terms of a token; those of a monstrous one are not remembered."""
    return _remembered_terms(token) if len(token) <= LONGEST_TERM else _distinct_terms(token)


def _distinct_terms(token: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(term for _, _, terms in _places(token) for term in terms))


_remembered_terms = lru_cache(maxsize=_REMEMBERED)(_distinct_terms)


def _places(token: str) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    """The terms of a token's parts and of what the parts make together, each with where it stands."""
    parts = _parts(token)
    for begin, end, part in parts:
        yield begin, end, stems_of(part)
    if _is_compound(token, parts):
        yield parts[0][0], parts[-1][1], _whole(token, parts)
        if _is_code(token) and len(parts) > 2:
            yield from ((left[0], right[1], (_code([left, right]),)) for left, right in pairwise(parts))


def _asked(token: str) -> Iterator[tuple[Word, bool]]:
    """The words that a token of a query asks for, and whether they are function words.

    A code is asked for as its parts in their order or as one, so that neither a longer code nor other marks hide it;
    a compound as its parts anywhere or as one: "guarda-chuva", "guarda chuva", "guardachuva".
    """
    parts = _parts(token)
    whole = frozenset(_whole(token, parts) if _is_compound(token, parts) else ())
    short = len(parts) == 2 and any(is_stop_word(part) for _, _, part in parts)
    if whole and _is_code(token):
        yield from ((Word(whole | {_code([left, right])}), False) for left, right in pairwise(parts))
    elif whole and short:  # "e-mail", "check-in": the other part alone is another word
        yield Word(whole), False
    else:
        asked = ((frozenset(stems_of(part)), is_stop_word(part)) for _, _, part in parts)
        yield from ((Word(terms | whole), is_stop) for terms, is_stop in asked if terms)


def _parts(token: str) -> list[_Part]:
    """What joiners separate; of scripts without spaces, each pair of neighbours."""
    parts = [(part.start(), part.end(), part.group()) for part in _PART.finditer(token)]
    parts = _without_clitic(token, parts)
    return parts if not _UNSPACED.search(token) else [pair for part in parts for pair in _pairs(part)]


def _without_clitic(token: str, parts: list[_Part]) -> list[_Part]:
    if len(parts) < 2:
        return parts
    (left_begin, _, left), (begin, end, right) = parts[-2:]
    joiner, tail, word = token[begin - 1], folded(right), folded(left)
    if joiner in _APOSTROPHES and tail == "t" and word.endswith("n"):  # "don't" is also written "dont"
        return [*parts[:-2], (left_begin, end, left + right)]
    is_english = joiner in _APOSTROPHES and tail in _ENGLISH_CLITICS
    is_portuguese = joiner in _HYPHENS and tail in _PORTUGUESE_CLITICS and len(word) > 2 and word.isalpha()
    return parts[:-1] if is_english or is_portuguese else parts


def _pairs(part: _Part) -> Iterator[_Part]:
    begin, _, said = part
    for run in _SCRIPT_RUN.finditer(said):
        is_unspaced = _UNSPACED.match(run.group()) is not None
        size = min(2, len(run.group())) if is_unspaced else len(run.group())
        for start in range(run.start(), run.end() - size + 1):
            yield begin + start, begin + start + size, said[start : start + size]


def _is_compound(token: str, parts: Sequence[_Part]) -> bool:
    return 2 <= len(parts) <= _MOST_PARTS and not _UNSPACED.search(token)


def _is_code(token: str) -> bool:
    return _CODE.search(token) is not None


def _whole(token: str, parts: Sequence[_Part]) -> tuple[str, ...]:
    return (_code(parts),) if _is_code(token) else stems_of("".join(part for _, _, part in parts))


def _code(parts: Sequence[_Part]) -> str:
    """One term of several parts. Short numbers keep a mark between them: 3.50 is not 350."""
    said = [folded(part) for _, _, part in parts]
    letters = "".join(said)
    is_plain = len(letters) >= _WRITTEN_WITHOUT_MARKS or not letters.isdecimal()
    return (letters if is_plain else "-".join(said))[:LONGEST_TERM]


# From words to places


class _Finder(dict[str, tuple[_Hit, ...]]):
    """Where in a token which of the words are; it remembers what it has met, save what is monstrous."""

    def __init__(self, words: Sequence[Word]) -> None:
        super().__init__()
        self._wanted: dict[str, tuple[int, ...]] = {}
        for index, word in enumerate(words):
            for term in word.terms:
                self._wanted[term] = (*self._wanted.get(term, ()), index)

    def __missing__(self, token: str) -> tuple[_Hit, ...]:
        found = () if self._wanted.keys().isdisjoint(_terms(token)) else tuple(self._hits(token))
        if len(token) <= LONGEST_TERM and len(self) < _REMEMBERED_IN_A_SEARCH:
            self[token] = found
        return found

    def _hits(self, token: str) -> Iterator[_Hit]:
        for begin, end, terms in _places(token):
            for index in {index for term in terms for index in self._wanted.get(term, ())}:
                yield _Hit(begin, end, index)


# The snippets of what was found are made right after it was ranked.
_finder = lru_cache(maxsize=8)(_Finder)


def _hits(text: str, finder: _Finder) -> Iterator[_Hit]:
    for token in _TOKEN.finditer(text, 0, MAX_INDEXED_CHARACTERS):
        for hit in finder[token.group()]:
            yield _Hit(token.start() + hit.begin, token.start() + hit.end, hit.word)


def _densest(hits: Sequence[_Hit]) -> tuple[int, int]:
    """From where to where the most different words, then the most words, fit into a snippet."""
    best, place, left = (0, 0), (0, 0), 0
    inside: Counter[int] = Counter()
    for right, hit in enumerate(hits):
        inside[hit.word] += 1
        while hit.end - hits[left].begin > _ROOM and left < right:
            inside[hits[left].word] -= 1
            if not inside[hits[left].word]:
                del inside[hits[left].word]
            left += 1
        if (len(inside), right - left) > best:
            best, place = (len(inside), right - left), (hits[left].begin, hit.end)
    return place


def _cut(text: str, first: int, last: int) -> tuple[int, int]:
    """The characters of a snippet around those from `first` to `last`, as much before them as after."""
    last = min(last, first + _ROOM)
    begin = max(0, min(first - (_ROOM - last + first) // 2, len(text) - _ROOM))
    end = min(len(text), begin + _ROOM)
    if begin:
        begin = next((at for at in range(begin, first) if _begins_word(text, at)), first)
    if end < len(text):
        end = next((at for at in range(end, last, -1) if _ends_word(text, at)), last or end)
    return begin, end


def _begins_word(text: str, at: int) -> bool:
    return (text[at - 1].isspace() and not text[at].isspace()) or _UNSPACED.match(text, at) is not None


def _ends_word(text: str, at: int) -> bool:
    return (text[at].isspace() and not text[at - 1].isspace()) or _UNSPACED.match(text, at) is not None


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in their order, those that overlap or touch made one."""
    merged: list[tuple[int, int]] = []
    for begin, end in spans:
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((begin, end))
    return merged
