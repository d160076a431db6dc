"""Vectors of texts: the embedded default, which needs no model, and any OpenAI-compatible endpoint.

Hashed vectors: every word and its character n-grams (3 to 5 letters) are hashed, with a sign, into 1536 dimensions.
Stored vectors carry no corpus statistics and so never age; how rare a word is in the tenant's corpus weighs the query
alone (measured equal to weighing both sides: README).
"""

import asyncio
import math
import random
import time
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt
from openai import (
    APIConnectionError,
    APIError,
    APIStatusError,
    AsyncOpenAI,
    InternalServerError,
    RateLimitError,
    omit,
)

from services.document_rag.model import EmbeddingDimensionsWrong
from services.document_rag.search.words import fold, words_of
from shared.errors import Unavailable

DIMENSIONS = 1536
Vectors = npt.NDArray[np.float32]

_NGRAM_LENGTHS = (3, 4, 5)
_SATURATION = 1.2
_INPUTS_A_CALL = 128
_FIRST_PAUSE_SECONDS = 0.25


class Embedder(Protocol):
    """Turns texts into unit vectors of 1536 dimensions. Vectors of two models are never compared."""

    @property
    def model(self) -> str:
        """Name stored with every vector."""
        ...

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """One row a text. Unavailable if the provider stays away until the deadline."""
        ...

    async def embed_query(self, text: str, words: Mapping[str, float]) -> Vectors:
        """One vector, of the text or of its words: folded, spelt as the tenant's documents do → how much each tells."""
        ...


class HashedEmbedder:
    """The embedded default: no model, no download, no network."""

    model = "hashed-1536-v1"

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        return await asyncio.to_thread(lambda: np.stack([_hashed(_counted(text)) for text in texts]))

    async def embed_query(self, text: str, words: Mapping[str, float]) -> Vectors:  # noqa: ARG002
        return _hashed(words)


class OpenAIEmbedder:
    """text-embedding-3-small, or another model behind an OpenAI-compatible endpoint that gives 1536 dimensions."""

    def __init__(self, client: AsyncOpenAI, *, model: str, deadline_seconds: float) -> None:
        """`client` must not retry by itself: retries are spent here, inside `deadline_seconds` a batch."""
        self.model = model
        self._client = client
        self._deadline_seconds = deadline_seconds

    def with_model(self, model: str) -> "OpenAIEmbedder":
        """The same endpoint's other model."""
        return OpenAIEmbedder(self._client, model=model, deadline_seconds=self._deadline_seconds)

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        batches = [texts[start : start + _INPUTS_A_CALL] for start in range(0, len(texts), _INPUTS_A_CALL)]
        return np.concatenate([await self._embed(batch) for batch in batches])

    async def embed_query(self, text: str, words: Mapping[str, float]) -> Vectors:  # noqa: ARG002
        vectors = await self._embed([text])
        return np.asarray(vectors[0], dtype=np.float32)

    async def _embed(self, texts: Sequence[str]) -> Vectors:
        deadline = time.monotonic() + self._deadline_seconds
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self._call(texts, deadline - time.monotonic())
            except (APIConnectionError, RateLimitError, InternalServerError) as error:
                pause_now = max(pause * random.uniform(0.5, 1.5), _retry_after(error))  # noqa: S311  (jitter, no secret)
                if time.monotonic() + pause_now >= deadline:
                    raise _unavailable(retry_after_seconds=pause_now) from error
                await asyncio.sleep(pause_now)
                pause *= 2
            except APIStatusError as error:
                raise _unavailable() from error

    async def _call(self, texts: Sequence[str], timeout_seconds: float) -> Vectors:
        try:
            answer = await self._client.embeddings.create(
                model=self.model,
                input=list(texts),
                dimensions=DIMENSIONS if self.model.startswith("text-embedding-3") else omit,
                timeout=timeout_seconds,
            )
        except (AttributeError, ValueError) as error:  # no provider's answer: a proxy's page of maintenance
            raise _unavailable() from error
        if len(answer.data) != len(texts):
            raise _unavailable()
        if (given := {len(entry.embedding) for entry in answer.data}) != {DIMENSIONS}:
            lengths = ", ".join(map(str, sorted(given)))
            raise EmbeddingDimensionsWrong(
                f"the model {self.model} gives vectors of {lengths} dimensions, not of {DIMENSIONS}",
                dependency="embeddings",
            )
        return _normalised(np.array([entry.embedding for entry in answer.data], dtype=np.float32))


def _unavailable(retry_after_seconds: float = 1.0) -> Unavailable:
    return Unavailable(
        "the embedding provider gives no vectors", dependency="embeddings", retry_after_seconds=retry_after_seconds
    )


def _retry_after(error: APIError) -> float:
    """Seconds that the provider asks to be left alone; 0 when it does not say."""
    if not isinstance(error, APIStatusError):
        return 0.0
    headers = error.response.headers
    with suppress(KeyError, ValueError):
        return float(headers["retry-after-ms"]) / 1000
    with suppress(KeyError, ValueError):
        return float(headers["retry-after"])
    return 0.0


def _counted(text: str) -> Mapping[str, float]:
    """The words of a stored text; the tenth time a word stands there tells little more than the third."""
    counts = Counter(fold(word) for word in words_of(text))
    return {word: count / (count + _SATURATION) for word, count in counts.items()}


def _hashed(words: Mapping[str, float]) -> Vectors:
    vector = np.zeros(DIMENSIONS, dtype=np.float32)
    for word, weight in words.items():
        positions, values = _features(word)
        vector[positions] += values * np.float32(weight)
    return _normalised(vector)


@lru_cache(maxsize=50_000)
def _features(word: str) -> tuple[npt.NDArray[np.intp], Vectors]:
    """Where a word falls and with which values: itself with weight 1, its n-grams together with weight 1."""
    framed = f"<{word}>"
    grams = [framed[i : i + n] for n in _NGRAM_LENGTHS for i in range(len(framed) - n + 1)]
    vector = np.zeros(DIMENSIONS, dtype=np.float32)
    _add(vector, "=" + word, 1.0)
    for gram in grams:
        _add(vector, gram, 1 / math.sqrt(len(grams)))
    positions = np.flatnonzero(vector)
    return positions, vector[positions]


def _add(vector: Vectors, feature: str, weight: float) -> None:
    digest = (zlib.crc32(feature.encode()) * 0x9E3779B1) & 0xFFFFFFFF
    digest ^= digest >> 15
    vector[digest % DIMENSIONS] += weight if digest >> 20 & 1 else -weight


def _normalised(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-9), dtype=np.float32)
