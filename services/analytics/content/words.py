"""Words as people type them in chats, made comparable: case, accents, letters drawn out, short forms, inflection.

Portuguese and English. Stems are Snowball's (PyStemmer); a word's stem is taken of the word without accents, because
half of all people leave them out.
"""

import re
import unicodedata
from functools import lru_cache

import Stemmer

MAX_WORD_LENGTH = 40  # longer runs of letters are encodings, not words
MAX_CHARACTERS = 20_000  # of one text; what comes after is not looked at

_WORD = re.compile(r"[^\W_]+")
_DRAWN_OUT = re.compile(r"(.)\1{2,}")
_BLOTTED = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]+\.[\w.]+|\d(?:[\d.\-/ ]{3,}\d)")
_PORTUGUESE = Stemmer.Stemmer("portuguese")
_ENGLISH = Stemmer.Stemmer("english")

SHORT_FORMS = {
    "vc": "voce", "vcs": "voces", "ces": "voces", "ce": "voce", "tbm": "tambem", "tb": "tambem", "mt": "muito",
    "mto": "muito", "mta": "muita", "mtos": "muitos", "n": "nao", "num": "nao", "nd": "nada", "ngm": "ninguem",
    "td": "tudo", "tds": "todos", "hj": "hoje", "agr": "agora", "dnv": "de novo", "pq": "porque", "q": "que",
    "qto": "quanto", "qtas": "quantas", "qdo": "quando", "cmg": "comigo", "blz": "beleza", "vlw": "valeu",
    "obg": "obrigado", "obgd": "obrigado", "brigado": "obrigado", "pfv": "por favor", "pf": "por favor",
    "pls": "por favor", "msm": "mesmo", "smp": "sempre", "fds": "fim de semana", "ta": "esta", "to": "estou",
    "tava": "estava", "pra": "para", "pro": "para", "net": "internet", "zap": "whatsapp", "cel": "celular",
    "busao": "onibus", "bus": "onibus", "doc": "documento", "docs": "documentos", "app": "aplicativo",
    "msg": "mensagem", "end": "endereco", "prof": "professor", "min": "minuto", "vz": "vez", "plmdds": "por favor",
}  # fmt: skip

STOP_WORDS = frozenset(
    """
    a as o os um uma uns umas de do da dos das em no na nos nas por pelo pela pelos pelas para com sem sob sobre ate
    e ou mas nem que se como quando onde qual quais quem quanto quanta quantos quantas porque pois entao assim tambem
    eu tu ele ela nos vos eles elas voce voces me te lhe lhes mim ti si meu minha meus minhas teu tua seu sua seus suas
    nosso nossa nossos nossas este esta estes estas esse essa esses essas aquele aquela aqueles aquelas isto isso aquilo
    ser sou e somos sao era eram foi foram fui sera seria seja sejam estar estou estamos estao estava estavam esteja
    ter tenho tem temos tinha tinham teve tiveram ter tera teria haver ha havia houve vou vai vamos vao ir ia indo
    faz fazer faco fazem feito fez pode podem posso poderia poderiam podia deve devem quer quero queria querem gostaria
    preciso precisa precisamos favor por aqui ali la ai ja ainda so mais menos muito muita muitos muitas bem mal agora
    hoje ontem amanha depois antes sempre nunca nao sim nada tudo todo toda todos todas algum alguma ninguem alguem
    cada outro outra outros outras mesmo mesma cade ne ok oi ola bom boa dia tarde noite obrigado obrigada beleza cara
    gente voce senhor senhora vez vezes dias semana mes meses ano anos hora horas minuto minutos coisa coisas la ca
    mano mds aff pqp kkk kkkk rs viu ate desde entre apos contra durante fica ficou ficar consigo consegui conseguir
    dar da dao dei deu der pedir peco pedi saber sabe sabem ver vejo veio vem vir quase novo nova de novo estive
    solicito solicitar gostaria informar informacao solicitacao duvida ajuda ajudar por gentileza tipo vcs ta to
    the a an of to in on at for from with and or not no is are was were be been am i you he she it we they my your his
    her its our their this that these those what when where who how which do does did can could will would should have
    has had me us them there here please thanks thank hello hi
    """.split()
)


@lru_cache(maxsize=50_000)
def folded(word: str) -> str:
    """The word in lower case without accents: "Orçamento" and "orcamento" are one."""
    return "".join(
        letter for letter in unicodedata.normalize("NFKD", word.lower()) if not unicodedata.combining(letter)
    )


@lru_cache(maxsize=50_000)
def stem(word: str) -> str:
    """The stem of a folded word: Portuguese, and English where that takes more of it off ("charges", "charging")."""
    portuguese, english = str(_PORTUGUESE.stemWord(word)), str(_ENGLISH.stemWord(word))
    return english if len(english) < len(portuguese) - 1 else portuguese


def words_of(text: str) -> list[str]:
    """The words of a text in order, folded, short forms written out, letters drawn out ("muuuito") drawn in."""
    words: list[str] = []
    for found in _WORD.findall(unicodedata.normalize("NFC", text[:MAX_CHARACTERS])):
        word = _DRAWN_OUT.sub(r"\1", folded(found))
        if len(word) <= MAX_WORD_LENGTH:
            words.extend(SHORT_FORMS.get(word, word).split())
    return words


def stems_of(text: str) -> list[str]:
    """The stems of all words, function words included: what rules and the model look at."""
    return [stem(word) for word in words_of(text)]


def telling(word: str) -> bool:
    """Whether a folded word says what a text is about."""
    return len(word) > 2 and word not in STOP_WORDS and not word[0].isdigit()


def blotted(text: str) -> str:
    """The text with e-mail addresses and long numbers (documents, telephones, cards) blotted out."""
    return _BLOTTED.sub("…", text)
