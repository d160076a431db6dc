"""Portuguese stems, from PostgreSQL's own dictionary, remembered by this process.

The stem of the word as written is taken before its accents are folded: the stemmer knows "licitações" and
"licitação" for one word, but not "licitacoes" and "licitacao".
"""

from collections.abc import Iterable, Mapping

import asyncpg

from services.document_rag.search.words import fold
from shared.postgres import postgres_errors

_REMEMBERED = 200_000


class Stemmer:
    """Maps words to terms: what the keyword index is keyed by."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._known: dict[str, str] = {}

    async def terms(self, words: Iterable[str]) -> Mapping[str, str]:
        """Word → term for every word given. Words come in lower case with their accents."""
        wanted = set(words)
        unknown = [word for word in wanted if word not in self._known]
        if unknown:
            await self._learn(unknown)
        return {word: self._known[word] for word in wanted}

    async def _learn(self, words: list[str]) -> None:
        if len(self._known) + len(words) > _REMEMBERED:
            self._known.clear()
        with postgres_errors():
            rows = await self._pool.fetch(
                "select word, (ts_lexize('pg_catalog.portuguese_stem', word))[1] as stem"
                " from unnest($1::text[]) as word",
                words,
            )
        self._known.update((row["word"], fold(row["stem"] or row["word"])) for row in rows)
