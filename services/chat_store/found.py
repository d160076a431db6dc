"""What a search found, with the words in sight: also those of a text of which pages show only the beginning."""

import codecs
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from services.chat_store.long_texts import beside_if_long
from services.chat_store.selection import Found, Hit, Reach
from services.chat_store.store import ChatStore
from services.chat_store.words import MAX_INDEXED_CHARACTERS, Snippet, Word, snippet_of
from shared.errors import NotFound


@dataclass(frozen=True, slots=True)
class Result:
    """A hit and the part of its text that shows why it is one."""

    hit: Hit
    snippet: Snippet


async def results_of(store: ChatStore, reach: Reach, found: Found, words: Sequence[Word]) -> list[Result]:
    """The hits in their order, each with its snippet."""
    return [Result(hit, await _snippet(store, reach, hit, words)) for hit in found.hits]


async def _snippet(store: ChatStore, reach: Reach, hit: Hit, words: Sequence[Word]) -> Snippet:
    draft = hit.message.draft
    snippet = await _shown(draft.words, words)
    if draft.body is None or snippet.highlights:
        return snippet
    return await _shown(await _beginning(store, reach, hit), words)


async def _shown(text: str, words: Sequence[Word]) -> Snippet:
    return await beside_if_long(len(text), snippet_of, text, words)


async def _beginning(store: ChatStore, reach: Reach, hit: Hit) -> str:
    """As much of the whole text as is looked through; what is shown of it when it has gone meanwhile."""
    text, decoder = "", codecs.getincrementaldecoder("utf-8")()
    try:
        async with aclosing(store.text(reach, hit.conversation_id, hit.message.message_id)) as pieces:
            async for piece in pieces:
                text += decoder.decode(piece)
                if len(text) >= MAX_INDEXED_CHARACTERS:
                    break
    except NotFound:
        return hit.message.draft.text
    return text
