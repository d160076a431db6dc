"""What a single word is filed under: its stems in Portuguese and English, without accents.

All spellings of a word share a stem, because the Portuguese one is made of the *folded* word: the endings that the
stemmer knows by their accents are put back first, so that "informacoes" and "informações" take the same way.
"""

import re
import threading
import unicodedata

import Stemmer

LONGEST_TERM = 64  # characters: a hash in hexadecimal; of anything longer its beginning
SILENT = "\u00ad\u200c\u200d\u2060\ufeff"  # within words, and not seen

# Function words, accents folded: they are indexed, but asked for only by a query that holds nothing else.
_PORTUGUESE_STOP_WORDS = tuple(
    """
    a ao aos aquela aquele aquilo as ate com como da das de dela dele deles do dos e ela elas ele eles em entre
    era essa essas esse esses esta estao estas estava este estes estou eu foi for foram ha isso isto ja la lhe
    lhes mais mas me mesmo meu meus minha minhas muito na nao nas nem no nos nossa nosso num numa o os ou para
    pela pelas pelo pelos por porque qual quais quando que quem sao se sem ser sera seu seus so sobre sua suas
    tambem te tem ter teu tinha tua um uma umas uns vai voce voces
    """.split()
)
_ENGLISH_STOP_WORDS = tuple(
    """
    about after am an and any are at be been but by can cant could did didnt does doesnt doing dont had has have
    he her him his how i if in into is isnt it its just my not of on or our she should so some than that the
    their them then there these they this those to us was we were what when where which who why will with wont
    would you your
    """.split()
)
_STOP_WORDS = frozenset(_PORTUGUESE_STOP_WORDS + _ENGLISH_STOP_WORDS)

_WITHOUT_SILENT = str.maketrans("", "", SILENT)
_WITHOUT_STROKES = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "æ": "ae", "œ": "oe", "ı": "i"})

_LATIN_WORD = re.compile(r"[a-z]{3,}")
# Letters, doubled letters and endings that no Portuguese word has, and such that no English one has.
_ENGLISH_ONLY = re.compile(r"[wyk]|[tsp]h|([bdfglmnptz])\1|(?:[bcdfghjpqtv]s?|ings?|tions?)$")
_PORTUGUESE_ONLY = re.compile(r"(?:[cs]oes|[ao]s?|ou|[aei]ram|[aei]ntes?|dades?|age(?:m|ns)|[aeou]is)$")
# Endings that the stemmer tells by their accents, and plurals that it takes for other words (it leaves "reuniã" of
# "reunião" but "reuniõ" of "reuniões", "municipal" but "municip" of "municipais"). The first that fits is put right.
_PORTUGUESE_ENDINGS = tuple(
    (re.compile(pattern), ending)
    for pattern, ending in (
        (r"(ech|her|mosquit|potat|tomat|torped|vet|volcan|zer)oes$", r"\1o"),  # English
        (r"c(?:ao|oes)$", "ção"),
        (r"(?:aos?|oes|(?<=..)aes|(?<=^[cp])aes)$", "ão"),
        (r"ave(?:l|is)$", "ável"),
        (r"ive(?:l|is)$", "ível"),
        (r"ancias?$", "ância"),
        (r"(?<=..)ais$", "al"),
        (r"(?<=..[^r])ois$", "ol"),
        (r"(?<=..)uis$", "ul"),
        (r"(?:(?<=..)eis|(?<=.[^aeiou])i[sl])$", "el"),
        (r"(?<=[^i])([aeiou])ns$", r"\1m"),
    )
)
_PLURAL_LEFT = re.compile(r"(?<=[aeio])s$")


class _Stemmers(threading.local):
    """One of each language per thread: a stemmer must not be used by two at once."""

    def __init__(self) -> None:
        self.portuguese = Stemmer.Stemmer("portuguese", 0)
        self.english = Stemmer.Stemmer("english", 0)


_stemmers = _Stemmers()


def is_stop_word(word: str) -> bool:
    """Whether it is a function word of either language."""
    return folded(word) in _STOP_WORDS


def stems_of(word: str) -> tuple[str, ...]:
    """The stems of a word in the languages that it can be of; the word itself if it is of neither; () of nothing."""
    word = word[:LONGEST_TERM].translate(_WITHOUT_SILENT)
    plain = folded(word)
    if plain in _STOP_WORDS or not _LATIN_WORD.fullmatch(plain):
        return (plain,) if plain else ()
    if _ENGLISH_ONLY.search(plain):
        return (_english_stem(plain),)
    if _PORTUGUESE_ONLY.search(plain) or not word.isascii():
        return (_portuguese_stem(plain),)
    return tuple(dict.fromkeys((_portuguese_stem(plain), _english_stem(plain))))


def folded(word: str) -> str:
    """The word without case, accents, ligatures and what is not seen; at most LONGEST_TERM characters."""
    word = word[:LONGEST_TERM]
    if word.isascii():
        return word.lower()
    letters = unicodedata.normalize("NFKD", word.translate(_WITHOUT_SILENT)).casefold()
    bare = "".join(letter for letter in letters if not _is_accent(letter)).translate(_WITHOUT_STROKES)
    return unicodedata.normalize("NFC", bare)[:LONGEST_TERM]


def _is_accent(letter: str) -> bool:
    """Whether it is an accent or a vowel point; vowel signs, viramas and kana's voicing make other words."""
    order = unicodedata.combining(letter)
    return order == 1 or 10 <= order <= 35 or order >= 200 or "\ufe00" <= letter <= "\ufe0f"


def _portuguese_stem(plain: str) -> str:
    restored = plain
    for pattern, ending in _PORTUGUESE_ENDINGS:
        restored, found = pattern.subn(ending, plain)
        if found:
            break
    return _PLURAL_LEFT.sub("", folded(_stemmers.portuguese.stemWord(restored)))


def _english_stem(plain: str) -> str:
    stem: str = _stemmers.english.stemWord(plain)
    return stem
