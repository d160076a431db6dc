"""What the words of a question are in the documents: known spellings, their terms, how rare they are, what was meant.

Several libraries (the tenant's own, the global one) are one: how rare a word is, is counted over all of them.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from services.document_rag.search.postings import Statistics, WordUse
from services.document_rag.search.spelling import MIN_SIMILARITY, Spelling, corrected, is_correctable
from services.document_rag.search.stems import Stemmer
from services.document_rag.search.words import DEFAULT_LANGUAGE, fold, language_of, words_of

_MOST_CORRECTED = 32  # words; a question of random letters must not cost a thousand look-ups
_MOST_ALIKE = 12

_KNOWN_WORDS = """
    select 'total' as kind, tenant_id, '' as word, '' as term, 0 as term_chunks, 0 as word_chunks, chunks, terms
    from totals where tenant_id = any($1::text[])
    union all
    select 'word', tenant_id, word, term, terms.chunks, words.chunks, 0, 0
    from words join terms using (tenant_id, term) where tenant_id = any($1) and word = any($2::text[])
    union all
    select 'term', tenant_id, '', term, chunks, 0, 0, 0 from terms where tenant_id = any($1) and term = any($3::text[])
"""

_WORDS_ALIKE = f"""
    with asked as materialized (
        select number, word, show_trgm(word) as trigrams from unnest($2::text[]) with ordinality as each(word, number)
    ), shared_trigrams as (
        select number, known.word as near, known.size, count(*) as common
        from asked
        cross join unnest(asked.trigrams) as part(trigram)
        cross join lateral (
            select * from word_trigrams where tenant_id = any($1::text[]) and word_trigrams.trigram = part.trigram
            offset 0  -- by key, also when nobody has counted the rows yet
        ) as known
        group by number, known.tenant_id, near, known.size
    ), compared as (
        select asked.word, near, common::float8 / (cardinality(trigrams) + size - common) as similarity
        from shared_trigrams join asked using (number)
    ), alike as (
        select distinct word, near, similarity,
               dense_rank() over (partition by word order by similarity desc, near) as place
        from compared where similarity >= {MIN_SIMILARITY}
    )
    select alike.word, near, similarity, spelt.tenant_id, spelt.term, spelt.term_chunks, spelt.word_chunks
    from alike
    cross join lateral (
        select tenant_id, term, terms.chunks as term_chunks, words.chunks as word_chunks
        from words join terms using (tenant_id, term)
        where tenant_id = any($1) and word = alike.near
        offset 0  -- by key, not by a scan of all words
    ) as spelt
    where place <= {_MOST_ALIKE}
"""  # noqa: S608  (constants of ours)


@dataclass(frozen=True, slots=True)
class Understood:
    """A question as the index understands it, in the libraries (tenants) of those asked that hold anything."""

    libraries: tuple[str, ...]
    uses: tuple[WordUse, ...]
    statistics: Statistics


async def understood(
    connection: asyncpg.Connection, stemmer: Stemmer, libraries: Sequence[str], question: str
) -> Understood:
    """Looks the question's words up, and what was meant by those that the documents do not have."""
    language = language_of(question)
    words = list(dict.fromkeys(words_of(question, language)))
    stems = await _stems(connection, stemmer, words, language)
    known = set().union(*stems.values())
    rows = await connection.fetch(_KNOWN_WORDS, libraries, [fold(word) for word in words], list(known))
    holding = tuple(row["tenant_id"] for row in rows if row["kind"] == "total")
    statistics, uses = _uses(words, stems, rows)
    unknown = [use.word for use in uses if not use.terms and is_correctable(use.word)]
    if unknown and holding:
        alike = await connection.fetch(_WORDS_ALIKE, holding, unknown[:_MOST_CORRECTED])
        uses = [_corrected(use, [row for row in alike if row["word"] == use.word]) for use in uses]
    return Understood(holding, tuple(uses), statistics)


async def _stems(
    connection: asyncpg.Connection, stemmer: Stemmer, words: Sequence[str], language: str
) -> Mapping[str, set[str]]:
    """By word, and by folded word: its stems in the question's language and in the default one."""
    wanted = {*words, *map(fold, words)}
    languages = dict.fromkeys((language, DEFAULT_LANGUAGE))
    by_language = [await stemmer.terms(wanted, each, connection) for each in languages]
    return {word: {stems[word] for stems in by_language} for word in wanted}


def _uses(
    words: Sequence[str], stems: Mapping[str, set[str]], rows: Sequence[asyncpg.Record]
) -> tuple[Statistics, list[WordUse]]:
    totals = [row for row in rows if row["kind"] == "total"]
    statistics = Statistics(sum(row["chunks"] for row in totals), sum(row["terms"] for row in totals))
    spellings = [row for row in rows if row["kind"] == "word"]
    counts = _counts([row for row in rows if row["kind"] != "total"])
    return statistics, [_use(fold(word), stems[word], stems[fold(word)], spellings, counts) for word in words]


def _use(
    word: str,
    stems: set[str],
    folded_stems: set[str],
    spellings: Sequence[asyncpg.Record],
    counts: Mapping[str, int],
) -> WordUse:
    """A word means the terms of its spelling in the documents; of one they do not have, its own stems."""
    own = [row for row in spellings if row["word"] == word]
    terms = {row["term"] for row in own} | stems
    if counts.keys().isdisjoint(terms):
        terms = folded_stems
    known = {term: counts[term] for term in terms if term in counts}
    return WordUse(word, known, spelt=sum(row["word_chunks"] for row in own))


def _corrected(use: WordUse, alike: Sequence[asyncpg.Record]) -> WordUse:
    spellings: dict[str, list[asyncpg.Record]] = defaultdict(list)
    for row in alike:
        spellings[row["near"]].append(row)
    near = [
        Spelling(word, rows[0]["similarity"], sum(row["word_chunks"] for row in rows))
        for word, rows in spellings.items()
    ]
    meant = corrected(use.word, near)
    if meant is None:
        return use
    rows = spellings[meant.word]
    return WordUse(meant.word, _counts(rows), meant.certainty, sum(row["word_chunks"] for row in rows))


def _counts(rows: Sequence[asyncpg.Record]) -> Mapping[str, int]:
    """In how many chunks each term stands, over all libraries."""
    by_library: dict[str, dict[str, int]] = defaultdict(dict)
    for row in rows:
        by_library[row["term"]][row["tenant_id"]] = row["term_chunks"]
    return {term: sum(counts.values()) for term, counts in by_library.items()}
