"""Models whose vectors are still there while those of a new one are being made: queries are put to both until then."""

from collections.abc import Iterable, Mapping
from contextlib import suppress

from services.document_rag.search.embedders import Embedder, HashedEmbedder, OpenAIEmbedder, Vectors
from shared.errors import ServiceError


class EarlierModels:
    """What documents were embedded with before; as upkeep finds them, none at most times."""

    def __init__(self, configured: Embedder) -> None:
        self._configured = configured
        self._embedders: dict[str, Embedder] = {}

    def are(self, models: Iterable[str]) -> None:
        """Says which they are by now. One that cannot be asked any more is left out."""
        embedders = {model: self._embedder_of(model) for model in models if model != self._configured.model}
        self._embedders = {model: embedder for model, embedder in embedders.items() if embedder is not None}

    async def embed_query(self, text: str, words: Mapping[str, float]) -> Mapping[str, Vectors]:
        """The query's vector by model, of those models that answer."""
        vectors: dict[str, Vectors] = {}
        for model, embedder in self._embedders.items():
            with suppress(ServiceError):
                vectors[model] = await embedder.embed_query(text, words)
        return vectors

    def _embedder_of(self, model: str) -> Embedder | None:
        if model == HashedEmbedder.model:
            return HashedEmbedder()
        return self._configured.with_model(model) if isinstance(self._configured, OpenAIEmbedder) else None
