"""Questions with the passage that answers each, from the demo set or from any file in SQuAD's format; and as people
type them: without accents, and with typing errors."""

import html
import json
import random
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

DEMO = Path(__file__).with_name("demo_questions.json")
MOST_QUESTIONS = 1_300
SHORTEST_MISTYPED = 5
TYPING_ERROR_SHARE = 0.35
WRITTEN, PLAIN, SLIPPED, MISTYPED = "as written", "no accents", "one typing error", "many typing errors"


@dataclass(frozen=True)
class Question:
    """What is asked, and what a passage that answers it holds: `held`, verbatim, in the document named.

    Both "" when the documents have no answer. Of a SQuAD file `document` is the number of the paragraph.
    """

    text: str
    document: str = ""
    held: str = ""

    @property
    def has_answer(self) -> bool:
        """Whether the documents answer it."""
        return bool(self.document)


def demo_questions() -> list[Question]:
    """Written for the documents of the demo tenant, in the words of people who have not read them."""
    asked = json.loads(DEMO.read_text(encoding="utf-8"))
    return [Question(each["question"], each.get("document", ""), each.get("passage", "")) for each in asked]


def squad(path: Path) -> tuple[list[str], list[Question]]:
    """The paragraphs of the file, and its questions: each must find its own paragraph."""
    paragraphs: list[str] = []
    questions: list[Question] = []
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            number = str(len(paragraphs))
            questions += [Question(html.unescape(each["question"]), number) for each in paragraph["qas"]]
            paragraphs.append(html.unescape(paragraph["context"]))
    return paragraphs, questions


def sampled(questions: Sequence[Question], most: int = MOST_QUESTIONS) -> list[Question]:
    """At most so many of them, always the same ones."""
    return random.Random(7).sample(questions, min(most, len(questions)))


def variants(questions: Sequence[Question]) -> Mapping[str, list[Question]]:
    """The same questions as they are typed in a hurry; always with the same errors."""
    plain = [replace(each, text=_without_accents(each.text)) for each in questions]
    one, many = random.Random(5), random.Random(11)
    return {
        WRITTEN: list(questions),
        PLAIN: plain,
        SLIPPED: [replace(each, text=_with_one_slip(each.text, one)) for each in plain],
        MISTYPED: mistyped(questions, many),
    }


def mistyped(questions: Sequence[Question], chance: random.Random) -> list[Question]:
    """With an error in a third of the longer words."""

    def word_typed(word: str) -> str:
        is_hit = len(word) >= SHORTEST_MISTYPED and chance.random() <= TYPING_ERROR_SHARE
        return _slip(word, chance) if is_hit else word

    return [replace(each, text=" ".join(map(word_typed, each.text.split()))) for each in questions]


def _with_one_slip(text: str, chance: random.Random) -> str:
    words = text.split()
    long = [place for place, word in enumerate(words) if len(word) >= SHORTEST_MISTYPED]
    if long:
        place = chance.choice(long)
        words[place] = _slip(words[place], chance)
    return " ".join(words)


def _slip(word: str, chance: random.Random) -> str:
    """Two letters swapped, one left out, one doubled, or one wrong; never the first one."""
    at = chance.randrange(1, len(word) - 2)
    before, letter, after = word[:at], word[at], word[at + 1 :]
    slips = [before + after[0] + letter + after[1:], before + after, before + letter * 2 + after, before + "r" + after]
    return chance.choice(slips)


def _without_accents(text: str) -> str:
    return "".join(letter for letter in unicodedata.normalize("NFD", text) if not unicodedata.combining(letter))
