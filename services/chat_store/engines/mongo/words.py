"""What messages in MongoDB are found by: the terms of all that search looks through."""

from collections.abc import Sequence

from services.chat_store.batch import Bodies, text_searched
from services.chat_store.long_texts import beside_if_long
from services.chat_store.model import Draft
from services.chat_store.words import terms_of


async def terms_in(drafts: Sequence[Draft], bodies: Bodies) -> list[list[str]]:
    """The terms of each; `bodies` are the texts that are kept apart, or as much of them as search looks through."""
    characters = sum(len(draft.words) for draft in drafts) + sum(map(len, bodies.values()))
    return await beside_if_long(characters, _terms_in, drafts, bodies)


def _terms_in(drafts: Sequence[Draft], bodies: Bodies) -> list[list[str]]:
    return [terms_of(text_searched(draft, bodies)) for draft in drafts]
