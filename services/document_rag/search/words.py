"""Words as both legs of the search see them: lower case, accents folded, the same on every machine.

Splitting and folding happen here and not in PostgreSQL, whose idea of a letter depends on the database's locale.
"""

import re
import unicodedata
from functools import lru_cache

MAX_WORD_LENGTH = 40  # longer runs of letters are encodings, not words

_WORD = re.compile(r"\w+")

# Portuguese function words, accents folded, so that "não" and "nao" both carry no weight.
STOP_WORDS = frozenset(
    """
    a ao aos aquela aquelas aquele aqueles aquilo as ate com como da das de dela delas dele deles depois do dos
    e ela elas ele eles em entre era eram eramos essa essas esse esses esta estamos estao estar estas estava
    estavam estavamos este esteja estejam estejamos estes esteve estive estivemos estiver estivera estiveram
    estiveramos estiverem estivermos estivesse estivessem estivessemos estou eu foi fomos for fora foram foramos
    forem formos fosse fossem fossemos fui ha haja hajam hajamos hao havemos haver hei houve houvemos houver
    houvera houveram houveramos houverao houverei houverem houveremos houveria houveriam houveriamos houvermos
    houvesse houvessem houvessemos isso isto ja lhe lhes mais mas me mesmo meu meus minha minhas muito na nao
    nas nem no nos nossa nossas nosso nossos num numa o os ou para pela pelas pelo pelos por qual quando que
    quem sao se seja sejam sejamos sem ser sera serao serei seremos seria seriam seriamos seu seus so somos sou
    sua suas tambem te tem temos tenha tenham tenhamos tenho tera terao terei teremos teria teriam teriamos teu
    teus teve tinha tinham tinhamos tive tivemos tiver tivera tiveram tiveramos tiverem tivermos tivesse
    tivessem tivessemos tu tua tuas um uma voce voces vos
    """.split()
)


def words_of(text: str) -> list[str]:
    """The words of a text in order, lower case, accents kept, function words left out."""
    found = _WORD.findall(unicodedata.normalize("NFC", text).lower())
    return [word for word in found if len(word) <= MAX_WORD_LENGTH and fold(word) not in STOP_WORDS]


@lru_cache(maxsize=100_000)
def fold(word: str) -> str:
    """The word without its accents: "orçamento" and "orcamento" are one."""
    return "".join(
        letter for letter in unicodedata.normalize("NFKD", word.lower()) if not unicodedata.combining(letter)
    )
