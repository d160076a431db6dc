"""The language of a text, by a vote of its function words.

Six languages, no model: these words are every third to fourth word of running text, so a paragraph is enough.
Words that two of the languages share do not vote.
"""

import re
from collections import Counter
from dataclasses import dataclass, field

_LEAST_VOTES = 3
_LEAST_LEAD = 1.5
_SAMPLE_CHARACTERS = 200_000
_WORD = re.compile(r"[^\W\d_]+")
_WORDS = {
    "pt": """
        não são uma um dos das ao aos à às pela pelo pelas pelos é está foi também até mais seu sua seus suas isso isto
        você nós ele ela eles elas em no na nos nas do da os as ou com sem muito quando como já há ser ter tem têm
        municipal município deve serão será
    """,
    "en": """
        the and of to is are was were be been by for from with without this that these those which it its not or on at
        an as has have had will would shall should can could may must their they he she you we our his her who what when
        where how if than then there all any each other more most such only
    """,
    "es": """
        el los las una unas unos y del al es son fue está también hasta más su sus eso esto usted nosotros él ella ellos
        ellas en no lo le les se por con sin muy cuando como ya hay ser tener tiene tienen pero donde qué cómo cuál
        según desde sobre entre durante este esta estos estas
    """,
    "fr": """
        le la les des du un une et est sont était dans pour par avec sans sur ce cette ces qui que ne pas plus au aux il
        elle ils elles nous vous leur leurs mais où comme être avoir été
    """,
    "it": """
        il lo gli le di del della dei delle degli nel nella un una uno e è sono era per con senza su questo questa che
        non più al alla ai alle anche ma dove come essere avere stato ha hanno
    """,
    "de": """
        der die das den dem des ein eine einen einem einer und ist sind war waren in im für von mit ohne auf zu zum zur
        nicht auch oder aber wenn als wie er sie es wir ihr werden wird hat haben durch bei nach
    """,
}
_SPEAKERS = Counter(word for words in _WORDS.values() for word in set(words.split()))
_VOTES = {word: code for code, words in _WORDS.items() for word in words.split() if _SPEAKERS[word] == 1}


@dataclass(slots=True)
class LanguageVote:
    """Counts the words of a document that is read page by page; its beginning decides."""

    votes: Counter[str] = field(default_factory=Counter)
    characters: int = 0

    def hear(self, text: str) -> None:
        """Lets the words of the next page vote."""
        heard = text[: max(0, _SAMPLE_CHARACTERS - self.characters)]
        self.characters += len(heard)
        words = (word for word in _WORD.findall(heard.lower()))
        self.votes.update(_VOTES[word] for word in words if word in _VOTES)

    @property
    def language(self) -> str:
        """ISO 639-1 code: pt, en, es, fr, it or de; "" when too few words tell, or two languages are as likely."""
        first, second = (*self.votes.most_common(2), ("", 0), ("", 0))[:2]
        return first[0] if first[1] >= max(_LEAST_VOTES, _LEAST_LEAD * second[1]) else ""
