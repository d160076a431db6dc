"""Accuracy of each stage of the cascade on the held-apart set, beside always saying the most frequent label.

Once with the lexicon as it is, once without its words that only the held-apart set has: an upper and a lower bound.
Where the settings name a language model (ANALYTICS_CLASSIFICATION_MODEL, OPENAI_BASE_URL, OPENAI_API_KEY) it is asked
about every conversation of the set, some 250 calls: alone, and as the last stage.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from services.analytics.analyses.opening import open_language_model
from services.analytics.config import Config
from tests.analytics.content.accuracy import Accuracy, guessing, held_apart_set, measured
from tests.analytics.content.language_accuracy import Asked, asked
from tests.analytics.content.struck import struck_lexicon
from tests.bench.table import Row, at_least, publish

# What a stage that decides must at least be worth beside saying the same of every conversation.
BAR = 1.5
FIRST_STAGE = "rules"


def main() -> list[Row]:
    """Prints all stages, twice, and the language model's; what decides must be worth more than guessing."""
    rows = _published("content", [_row(each) for each in measured()])
    rows += _published("content_language_model", language_rows(Config(), held_apart_set()))
    with struck_lexicon() as struck:
        return rows + _published(f"content_without_{struck}_words", [_row(each) for each in measured()])


def language_rows(config: Config, examples: Sequence[dict[str, Any]]) -> list[Row]:
    """What the language model of the settings is worth on these conversations; nothing without one."""
    found = asyncio.run(_asked(config, examples))
    if found is None:
        return []
    print(
        f"{config.classification_model}: needed for {found.needed:.1f} %, no answer {found.failed:.1f} %, "
        f"junk {found.junk:.1f} %, {found.tokens:.0f} tokens a conversation"
    )
    return [_unpromised(each) for each in found.accuracies]


async def _asked(config: Config, examples: Sequence[dict[str, Any]]) -> Asked | None:
    async with open_language_model(config) as model:
        return await asked(model, examples) if model else None


def _published(name: str, rows: list[Row]) -> list[Row]:
    if rows:
        publish(name, rows)
    return rows


def _row(each: Accuracy) -> Row:
    # Nothing is promised of rules that leave most to the next stage, nor of what few conversations are labelled with.
    if each.stage == FIRST_STAGE and (each.decided < 50 or each.field == "resolution"):
        return _unpromised(each)
    return at_least(_case(each), each.of_all, guessing(each.field), "% right", BAR)


def _unpromised(each: Accuracy) -> Row:
    peer = guessing(each.field)
    return Row(_case(each), each.of_all, peer, "% right", each.of_all / peer, None, holds=True)


def _case(each: Accuracy) -> str:
    return f"{each.field}: {each.stage}; certain of {each.decided:.1f} %, right in {each.of_decided:.1f} % of them"
