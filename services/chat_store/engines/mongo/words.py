"""What messages in MongoDB are found by: the terms of all that search looks through."""

import asyncio
from collections.abc import Sequence

from services.chat_store.batch import Bodies, text_searched
from services.chat_store.model import Draft
from services.chat_store.words import terms_of

# From so many characters on they are cut into terms beside the event loop: the longest of texts takes 30 ms.
SHORT_CHARACTERS = 10_000


async def terms_in(drafts: Sequence[Draft], bodies: Bodies) -> list[list[str]]:
    """The terms of each; `bodies` are the texts that are kept apart, or as much of them as search looks through."""
    if bodies or sum(len(draft.words) for draft in drafts) > SHORT_CHARACTERS:
        return await asyncio.to_thread(_terms_in, drafts, bodies)
    return _terms_in(drafts, bodies)


def _terms_in(drafts: Sequence[Draft], bodies: Bodies) -> list[list[str]]:
    return [terms_of(text_searched(draft, bodies)) for draft in drafts]
