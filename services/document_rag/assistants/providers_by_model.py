"""Which provider answers for which model: the one place where that is chosen."""

import openai

from services.document_rag.assistants.extractive_provider import ExtractiveProvider
from services.document_rag.assistants.model import EXTRACTIVE, ModelUnavailable
from services.document_rag.assistants.openai_provider import OpenAIProvider
from services.document_rag.assistants.providers import AnswerProvider


class Providers:
    """ "extractive" needs nothing; every other model is asked of the OpenAI-compatible endpoint, if there is one."""

    def __init__(self, client: openai.AsyncOpenAI | None, silence_seconds: float) -> None:
        self._extractive = ExtractiveProvider()
        self._openai = OpenAIProvider(client, silence_seconds) if client else None

    def __call__(self, model: str) -> AnswerProvider:
        """The provider; ModelUnavailable when this deployment has none for the model."""
        if model == EXTRACTIVE:
            return self._extractive
        if self._openai is None:
            raise ModelUnavailable(model)
        return self._openai
