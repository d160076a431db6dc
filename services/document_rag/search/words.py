"""Words as both legs of the search see them: lower case, accents folded, the same on every machine.

Splitting and folding happen here and not in PostgreSQL, whose idea of a letter depends on the database's locale.
"""

import html
import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache

MAX_WORD_LENGTH = 40  # longer runs of letters are encodings, not words
DEFAULT_LANGUAGE = "pt"

_WORD = re.compile(r"\w+")
_ACCENTS = re.compile("[\u0300-\u036f]+")

# Words that carry no weight, accents folded, so that "não" and "nao" both carry none. What asks is among them: in a
# question "quais" or "onde" says nothing of the passage that answers it.
STOP_WORDS: Mapping[str, frozenset[str]] = {
    "pt": frozenset(
        """
        a ao aos aquela aquelas aquele aqueles aquilo as ate com como da das de dela delas dele deles depois do dos
        e ela elas ele eles em entre era eram eramos essa essas esse esses esta estamos estao estar estas estava
        estavam estavamos este esteja estejam estejamos estes esteve estive estivemos estiver estivera estiveram
        estiveramos estiverem estivermos estivesse estivessem estivessemos estou eu foi fomos for fora foram foramos
        forem formos fosse fossem fossemos fui ha haja hajam hajamos hao havemos haver hei houve houvemos houver
        houvera houveram houveramos houverao houverei houverem houveremos houveria houveriam houveriamos houvermos
        houvesse houvessem houvessemos isso isto ja lhe lhes mais mas me mesmo meu meus minha minhas muito na nao
        nas nem no nos nossa nossas nosso nossos num numa o onde os ou para pela pelas pelo pelos por porque qual
        quais quando quanta quantas quanto quantos que quem sao se seja sejam sejamos sem ser sera serao serei seremos
        seria seriam seriamos seu seus so somos sou sua suas tambem te tem temos tenha tenham tenhamos tenho tera
        terao terei teremos teria teriam teriamos teu teus teve tinha tinham tinhamos tive tivemos tiver tivera
        tiveram tiveramos tiverem tivermos tivesse tivessem tivessemos tu tua tuas um uma voce voces vos
        """.split()
    ),
    "en": frozenset(
        """
        a about above after again all am an and any are as at be because been before being below between both but by
        can could did do does doing down during each few for from further had has have having he her here hers herself
        him himself his how i if in into is it its itself me more most my myself no nor not of off on once only or
        other our ours ourselves out over own s same she should so some such t than that the their theirs them
        themselves then there these they this those through to too under until up very was we were what when where
        which while who whom whose why will with would you your yours yourself yourselves
        """.split()
    ),
    "es": frozenset(
        """
        a al algo algunas algunos ante antes como con contra cual cuales cuando cuanta cuantas cuanto cuantos de del
        desde donde durante e el ella ellas ellos en entre era eran eres es esa esas ese eso esos esta estaba estaban
        estan estar estas este esto estos fue fueron ha habia han hasta hay la las le les lo los mas me mi mis mucho
        muchos muy nada ni no nos nosotros nuestra nuestras nuestro nuestros o os otra otras otro otros para pero poco
        por porque que quien quienes se sea ser si sin sobre son soy su sus tambien tanto te tiene tienen todo todos tu
        tus un una uno unos y ya yo
        """.split()
    ),
}
LANGUAGES = tuple(STOP_WORDS)


def words_of(text: str, language: str = DEFAULT_LANGUAGE) -> list[str]:
    """The words of a text in order, lower case, accents kept, function words of the language left out.

    Of a language that is not known here nothing is left out. Texts from web pages may still hold "&quot;".
    """
    if "&" in text:
        text = html.unescape(text)
    left_out = STOP_WORDS.get(language, frozenset())
    found = _WORD.findall(unicodedata.normalize("NFC", text).lower())
    return [word for word in found if len(word) <= MAX_WORD_LENGTH and fold(word) not in left_out]


def language_of(question: str) -> str:
    """The language whose function words a question uses most; Portuguese when none leads."""
    folded = folded_words(question)
    counts = {language: sum(word in words for word in folded) for language, words in STOP_WORDS.items()}
    return max(LANGUAGES, key=lambda language: (counts[language], language == DEFAULT_LANGUAGE))


def folded_words(text: str) -> list[str]:
    """Every word of a text in order, accents folded, function words too."""
    if "&" in text:
        text = html.unescape(text)
    return _WORD.findall(_ACCENTS.sub("", unicodedata.normalize("NFKD", text.lower())))


@lru_cache(maxsize=100_000)
def fold(word: str) -> str:
    """The word without its accents: "orçamento" and "orcamento" are one."""
    return "".join(
        letter for letter in unicodedata.normalize("NFKD", word.lower()) if not unicodedata.combining(letter)
    )
