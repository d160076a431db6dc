"""The language of a text, by a vote of its function words and telling word endings.

Six languages, no model: such words are every second to third word of running text, so a paragraph is enough.
A word that several of the languages have gives each of them its share.
"""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field

_LEAST_VOTES = 3.0
_LEAST_LEAD = 1.25
_SAMPLE_CHARACTERS = 200_000
_WORD = re.compile(r"[^\W\d_]+")
_WORDS = {
    "pt": """
        a o as os e é um uma de do da dos das em no na nos nas ao aos à às por pelo pela pelos pelas com para sem sob
        sobre entre até que quem qual quais quando como onde porque se não nem ou mas mais muito também já só seu sua
        seus suas isso isto este esta estes estas esse essa ele ela eles elas você nós são foi ser era está ter tem têm
        há após cada outro outra mesmo quanto quantos
    """,
    "en": """
        the a an and or of to in on at by for from with without is are was were be been this that these those which who
        what when where how why it its not no as if than then there all any each more most such has have had do does did
        will would shall should can could may must they their he she you we our his her into about after
    """,
    "es": """
        el la los las un una unos unas y e o u de del al a en por con para sin sobre entre hasta desde según que quien
        quién qué cuál cómo cuándo dónde cuando como donde porque si se no ni pero más muy también ya su sus lo le
        les este esta estos estas ese esa eso él ella ellos ellas usted son fue ser era está es hay tiene tienen ha
        cada otro otra mismo cuánto
    """,
    "fr": """
        le la les un une des du de d l à au aux en dans par pour avec sans sur et ou mais que qui ce cette ces ne pas
        plus il elle ils elles nous vous on se son sa ses leur leurs est sont était être a ont été où quand comme
        comment quel quelle y
    """,
    "it": """
        il lo la i gli le un uno una di del della dei delle dello degli da dal dalla in nel nella nei nelle a al alla ai
        alle con per su sul sulla tra fra e è o ma che chi cui non più anche si sono era essere ha hanno stato come dove
        quando questo questa suo sua suoi
    """,
    "de": """
        der die das den dem des ein eine einen einem einer und oder aber ist sind war waren wird werden in im an am auf
        aus bei mit nach von vom zu zum zur für durch über unter nicht auch als wie wenn dass sich er sie es wir ihr hat
        haben was wer wo welche
    """,
}
_ENDINGS = {
    "ção": "pt",
    "ções": "pt",
    "ão": "pt",
    "ões": "pt",
    "ción": "es",
    "ciones": "es",
    "zione": "it",
    "zioni": "it",
}
_SPEAKERS: dict[str, list[str]] = {}
for _code, _spoken in _WORDS.items():
    for _word in set(_spoken.split()):
        _SPEAKERS.setdefault(_word, []).append(_code)


@dataclass(slots=True)
class LanguageVote:
    """Counts the words of a document that is read page by page; its beginning decides."""

    votes: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    characters: int = 0

    def hear(self, text: str) -> None:
        """Lets the words of the next page vote."""
        heard = text[: max(0, _SAMPLE_CHARACTERS - self.characters)]
        self.characters += len(heard)
        for word, times in Counter(_WORD.findall(heard.lower())).items():
            for code in _SPEAKERS.get(word, ()):
                self.votes[code] += times / len(_SPEAKERS[word])
            for ending, code in _ENDINGS.items():
                self.votes[code] += times * word.endswith(ending)

    @property
    def language(self) -> str:
        """ISO 639-1 code: pt, en, es, fr, it or de; "" when too few words tell, or two languages are as likely."""
        first, second = (*sorted(self.votes.items(), key=lambda vote: -vote[1]), ("", 0.0), ("", 0.0))[:2]
        return first[0] if first[1] >= max(_LEAST_VOTES, _LEAST_LEAD * second[1]) else ""
