"""What no provider should send, by the name of the fake model that sends it: after its words, before its end."""

from typing import Any


def _says(delta: Any, finish_reason: Any = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


NO_CHUNKS: dict[str, Any] = {
    "fake-odd-list": [1],
    "fake-odd-null": None,
    "fake-odd-text": "olá",
    "fake-odd-choices": {"choices": {"0": {}}},
    "fake-odd-choice": {"choices": [None]},
    "fake-odd-delta": _says("olá"),
    "fake-odd-content": _says({"content": ["olá"]}),
    "fake-odd-reason": _says({}, ["stop"]),
}

USAGES: dict[str, Any] = {
    "fake-odd-usage": "much",
    "fake-odd-figures": {"prompt_tokens": "12", "completion_tokens": 3},
    "fake-odd-debt": {"prompt_tokens": -5, "completion_tokens": 3},
    "fake-odd-fortune": {"prompt_tokens": 10**30, "completion_tokens": 3},
    "fake-odd-details": {"prompt_tokens": 12, "completion_tokens": 3, "prompt_tokens_details": "none"},
}

NAMES: dict[str, Any] = {"fake-odd-number": 5, "fake-odd-name": "n" * 300, "fake-odd-nul": "m\0"}

# 😀 cut in two, half of another letter, and a NUL.
TORN_LETTERS = [_says({"content": each}) for each in ("\ud83d", "\ude00 fim", "\ud83d", " \0.")]
HUGE_PIECE = "palavra " * 300_000


def odd_events(model: str) -> list[Any]:
    """The events that the model has beside those of a well-behaved one."""
    if model == "fake-odd-torn":
        return TORN_LETTERS
    if model == "fake-odd-huge":
        return [_says({"content": HUGE_PIECE})]
    return [NO_CHUNKS[model]] if model in NO_CHUNKS else []
