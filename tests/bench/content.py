"""Accuracy of each stage of the cascade on the held-apart set, beside always saying the most frequent label.

Once with the lexicon as it is, once without its words that only the held-apart set has: an upper and a lower bound.
"""

from collections.abc import Sequence

from tests.analytics.content.accuracy import Accuracy, measured
from tests.analytics.content.struck import struck_lexicon
from tests.bench.table import Row, at_least, publish

# What a stage that decides must at least be worth beside saying the same of every conversation.
BAR = 1.5
GUESSING = "most frequent label"
FIRST_STAGE = "rules"


def main() -> list[Row]:
    """Prints all stages, twice; what decides must be worth more than guessing."""
    rows = _table("content", measured())
    with struck_lexicon() as struck:
        return rows + _table(f"content_without_{struck}_words", measured())


def _table(name: str, found: Sequence[Accuracy]) -> list[Row]:
    guessing = {each.field: each.of_all for each in found if each.stage == GUESSING}
    rows = [_row(each, guessing.get(each.field, 50.0)) for each in found if each.stage != GUESSING]
    publish(name, rows)
    return rows


def _row(each: Accuracy, guessing: float) -> Row:
    case = f"{each.field}: {each.stage}; certain of {each.decided:.1f} %, right in {each.of_decided:.1f} % of them"
    if (
        each.stage == FIRST_STAGE and each.decided < 50
    ):  # it leaves most to the next one, and nothing was promised of it
        return Row(case, each.of_all, guessing, "% right", each.of_all / guessing, None, holds=True)
    return at_least(case, each.of_all, guessing, "% right", BAR)
