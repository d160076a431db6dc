"""Asking an OpenAI-compatible endpoint in the words that the model takes.

Models that reason refuse `max_tokens`, which is `max_completion_tokens` there, and any temperature but their own; many
endpoints know only the older words. So a model is asked in those first, and what it refuses is remembered.
"""

from collections.abc import Mapping
from typing import Any

import openai

# What a model may refuse, and what says the same to it; None: nothing does.
_REPLACED_BY: Mapping[str, str | None] = {"max_tokens": "max_completion_tokens", "temperature": None}
_REFUSALS = ("unsupported_parameter", "unsupported_value")


class ChatCompletions:
    """The chat completions of one endpoint."""

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self._client = client
        self._refused: dict[str, frozenset[str]] = {}

    async def create(self, *, model: str, **request: Any) -> Any:
        """The client's `chat.completions.create`, with its answers and errors."""
        while True:
            refused = self._refused.get(model, frozenset())
            try:
                return await self._client.chat.completions.create(model=model, **_without(refused, request))
            except openai.BadRequestError as error:
                if error.code not in _REFUSALS or error.param not in request.keys() & _REPLACED_BY.keys() - refused:
                    raise
                self._refused[model] = refused | {error.param}


def _without(refused: frozenset[str], request: Mapping[str, Any]) -> dict[str, Any]:
    said = {_REPLACED_BY[name] if name in refused else name: value for name, value in request.items()}
    return {name: value for name, value in said.items() if name is not None}
