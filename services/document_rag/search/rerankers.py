"""Putting found passages in a new order by reading them beside the query: without a model, or by one behind HTTP.

Off unless configured or asked for: beside the closeness that every search with words has in it, the embedded one gains
nothing that could be measured (README). A reranker that fails leaves the order as it was: search goes on without it.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from openai import AsyncOpenAI, OpenAIError

from services.document_rag.model import Passage, fuse_by_rank
from services.document_rag.search.closeness import closeness
from services.document_rag.search.postings import Statistics, WordUse
from services.document_rag.search.words import fold, folded_words, language_of, words_of
from shared.telemetry import get_logger

MOST_RERANKED = 50

_log = get_logger()


class Reranker(Protocol):
    """Reads passages beside a query."""

    @property
    def name(self) -> str:
        """What a response calls it."""
        ...

    async def reranked(self, query: str, passages: Sequence[Passage]) -> Sequence[Passage] | None:
        """The same passages, best first; None when no order could be had."""
        ...


class LexicalReranker:
    """How many of the query's words stand in a passage, how closely, and the longest run of them word for word."""

    name = "lexical"

    async def reranked(self, query: str, passages: Sequence[Passage]) -> Sequence[Passage]:
        texts = [passage_text(passage) for passage in passages]
        tokens = [folded_words(text) for text in texts]
        words = list(dict.fromkeys(map(fold, words_of(query, language_of(query)))))
        uses = [WordUse(word, {word: held}, spelt=held) for word in words if (held := _held(word, tokens))]
        statistics = Statistics(len(tokens), sum(map(len, tokens)))
        asked = folded_words(query)
        near = closeness(uses, statistics, texts)
        scores = [
            score * (1 + _longest_run(asked, text) / max(1, len(asked)))
            for score, text in zip(near, tokens, strict=True)
        ]
        order = sorted(range(len(passages)), key=lambda place: -scores[place])
        fused = fuse_by_rank(range(len(passages)), order, words_weigh=1.0)
        return [passages[place] for place in fused]


class HttpReranker:
    """A model behind an endpoint as Cohere, Jina and others have it: POST …/rerank."""

    def __init__(self, client: AsyncOpenAI, *, model: str, deadline_seconds: float) -> None:
        """`client` must not retry by itself: a person waits."""
        self.name = model
        self._client = client
        self._deadline_seconds = deadline_seconds

    async def reranked(self, query: str, passages: Sequence[Passage]) -> Sequence[Passage] | None:
        texts = [passage_text(passage) for passage in passages]
        body = {"model": self.name, "query": query, "documents": texts, "top_n": len(texts)}
        try:
            answer = await self._client.post(
                "/rerank", cast_to=dict[str, Any], body=body, options={"timeout": self._deadline_seconds}
            )
            scores = {int(each["index"]): float(each["relevance_score"]) for each in answer["results"]}
        except (OpenAIError, KeyError, TypeError, ValueError) as error:
            _log.warning("reranker_failed", error=type(error).__name__)
            return None
        if not scores or not scores.keys() <= set(range(len(texts))):
            _log.warning("reranker_failed", error="no passage of ours")
            return None
        # What it left out comes last, in the order it had.
        order = sorted(range(len(texts)), key=lambda place: (-scores.get(place, float("-inf")), place))
        return [passages[place] for place in order]


def passage_text(passage: Passage) -> str:
    """What is read of a passage: its text under its title and section."""
    return "\n".join(part for part in (passage.title, passage.section, passage.text) if part)


def _held(word: str, tokens: Sequence[Sequence[str]]) -> int:
    return sum(word in text for text in tokens)


def _longest_run(asked: Sequence[str], text: Sequence[str]) -> int:
    """Words of the query, function words too, that stand in the text one after another; a single one is no run."""
    places: dict[str, list[int]] = {}
    for place, word in enumerate(asked):
        places.setdefault(word, []).append(place)
    longest, runs = 0, dict[int, int]()  # how long a run is that ends at a place of the query
    for token in text:
        runs = {place: runs.get(place - 1, 0) + 1 for place in places.get(token, ())}
        longest = max(longest, *runs.values(), 0)
    return longest if longest > 1 else 0
