"""The fold from facts into rollups. No input or output."""

from collections.abc import Iterable

from services.analytics.model import Fact, Figures, RollupKey, hour_of

NOTHING = Figures()


def folded(facts: Iterable[Fact]) -> dict[RollupKey, Figures]:
    """What the facts add to which rollup; the order of the facts does not matter."""
    sums: dict[RollupKey, Figures] = {}
    for fact in facts:
        for message in fact.messages:
            figures = message.figures()
            if figures == NOTHING:
                continue
            key = RollupKey(
                fact.tenant_id,
                hour_of(message.create_time),
                message.model,
                message.user_id,
                message.assistant_id,
            )
            before = sums.get(key)
            sums[key] = figures if before is None else before.plus(figures)
    return sums
