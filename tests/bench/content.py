"""Accuracy of each stage of the cascade on the held-apart set, beside always saying the most frequent label."""

from tests.analytics.content.accuracy import Accuracy, measured
from tests.bench.table import Row, at_least, publish

# What a stage that decides must at least be worth beside saying the same of every conversation.
BAR = 1.5
GUESSING = "most frequent label"


def main() -> list[Row]:
    """Prints all stages; the bar is on those that have the last word where there is no language model."""
    found = measured()
    guessing = {each.field: each.of_all for each in found if each.stage == GUESSING}
    rows = [_row(each, guessing.get(each.field, 50.0)) for each in found if each.stage != GUESSING]
    publish("content", rows)
    return rows


def _row(each: Accuracy, guessing: float) -> Row:
    case = f"{each.field}: {each.stage}; certain of {each.decided:.1f} %, right in {each.of_decided:.1f} % of them"
    return at_least(case, each.of_all, guessing, "% right", BAR)
