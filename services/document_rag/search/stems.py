"""Stems of a language, from PostgreSQL's own dictionaries, remembered by this process.

The stem of the word as written is taken before its accents are folded: the stemmer knows "licitações" and
"licitação" for one word, but not "licitacoes" and "licitacao".
"""

from collections.abc import Iterable, Mapping

import asyncpg

from services.document_rag.search.words import DEFAULT_LANGUAGE, fold
from shared.postgres import postgres_errors

_REMEMBERED = 200_000
_DICTIONARIES = {"pt": "portuguese_stem", "en": "english_stem", "es": "spanish_stem"}
_PLAIN = "simple"  # of a language without a stemmer words are their own stems


class Stemmer:
    """Maps words to terms: what the keyword index is keyed by."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._known: dict[str, dict[str, str]] = {name: {} for name in (*_DICTIONARIES.values(), _PLAIN)}

    async def terms(
        self, words: Iterable[str], language: str = DEFAULT_LANGUAGE, connection: asyncpg.Connection | None = None
    ) -> Mapping[str, str]:
        """Word → term in the language for every word given. Words come in lower case with their accents.

        Who holds a connection hands it over: to wait for a second one is to wait for ever when all do.
        """
        dictionary = _DICTIONARIES.get(language, _PLAIN)
        known, wanted = self._known[dictionary], set(words)
        unknown = [word for word in wanted if word not in known]
        if unknown:
            await self._learn(unknown, dictionary, connection or self._pool)
            known = self._known[dictionary]
        return {word: known[word] for word in wanted}

    async def _learn(self, words: list[str], dictionary: str, asked: asyncpg.Connection | asyncpg.Pool) -> None:
        if len(self._known[dictionary]) + len(words) > _REMEMBERED:
            self._known[dictionary] = {}
        with postgres_errors():
            rows = await asked.fetch(
                f"select word, (ts_lexize('pg_catalog.{dictionary}', word))[1] as stem"  # noqa: S608  (names of ours)
                " from unnest($1::text[]) as word",
                words,
            )
        self._known[dictionary].update((row["word"], fold(row["stem"] or row["word"])) for row in rows)
