"""What is said of an error to people, in their language: error_texts.json, filled from the error's details.

What stands in brackets there is left out when the error does not tell what is in its braces. `{limit:number}` is
written as the language writes numbers, `:size` is of bytes, `:duration` of seconds; any other form is a list of words.
"""

import json
import re
import string
from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any

from google.rpc import error_details_pb2, status_pb2
from google.rpc.error_details_pb2 import LocalizedMessage

from gateway.preferences import preferred_language

TEXTS: Mapping[str, Any] = json.loads((Path(__file__).parent / "error_texts.json").read_text(encoding="utf-8"))
LANGUAGES = ("pt-BR", "en")
DEFAULT_LANGUAGE = LANGUAGES[0]

_NUMBER = re.compile(r"-?\d+")
_OPTIONAL = re.compile(r"\[([^\]]*)\]")
_STEPS_OF_TIME = (("days", 86_400), ("hours", 3_600), ("minutes", 60))
_STEPS_OF_SIZE = (("GB", 2**30), ("MB", 2**20), ("KB", 2**10), ("B", 1))


def language_of(accept_language: str) -> str:
    """The language to answer a request in."""
    return preferred_language(accept_language, LANGUAGES)


def localized(status: status_pb2.Status, language: str) -> status_pb2.Status:
    """The error with a google.rpc.LocalizedMessage behind its other details, and one with each field violation."""
    known = _known_of(status)
    texts = TEXTS["errors"].get(known.get("reason"), TEXTS["of a reason unknown here"])
    told = status_pb2.Status()
    told.CopyFrom(status)
    for detail in told.details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            for violation in bad.field_violations:
                violation.localized_message.CopyFrom(_of_field(violation, language))
            detail.Pack(bad)
    told.details.add().Pack(_message(texts, known, language))
    return told


def _of_field(violation: error_details_pb2.BadRequest.FieldViolation, language: str) -> LocalizedMessage:
    """What is wrong, by the last part of the rule's id; the rule's limits are told in its description only."""
    texts = TEXTS["fields"].get(violation.reason.rpartition(".")[2], TEXTS["of any other rule"])
    limits = _NUMBER.findall(violation.description)
    return _message(texts, dict(zip(("first", "second"), limits, strict=False)), language)


def _message(texts: Mapping[str, str], known: Mapping[str, str], language: str) -> LocalizedMessage:
    return LocalizedMessage(locale=language, message=_filled(texts[language], known, _Writing(language)))


def _known_of(status: status_pb2.Status) -> dict[str, str]:
    """What may be filled in; what is empty is not known."""
    info, retry, resource = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.RetryInfo(),
        error_details_pb2.ResourceInfo(),
    )
    for detail in status.details:
        for kind in (info, retry, resource):
            detail.Unpack(kind)
    known = {**info.metadata, "reason": info.reason, "resource": resource.resource_type}
    if retry.HasField("retry_delay"):
        known["wait"] = str(retry.retry_delay.ToMilliseconds() / 1000)
    return {name: value for name, value in known.items() if value}


def _filled(text: str, known: Mapping[str, str], writing: "_Writing") -> str:
    def piece(found: re.Match[str]) -> str:
        try:
            return writing.vformat(found.group(1), (), known)
        except (KeyError, ValueError):
            return ""

    return _OPTIONAL.sub(piece, text)


class _Writing(string.Formatter):
    """How a language writes what is filled in; KeyError or ValueError for what cannot be written so."""

    def __init__(self, language: str) -> None:
        self._words: Mapping[str, Mapping[str, str]] = TEXTS["words"][language]

    def format_field(self, value: str, format_spec: str) -> str:
        match format_spec:
            case "":
                return value
            case "number":
                return self._number(f"{int(value):,}")
            case "size":
                return self._size(int(value))
            case "duration":
                return self._duration(max(1, ceil(float(value))))
            case _:
                return self._words[format_spec][value.partition(":")[0]]

    def _number(self, english: str) -> str:
        return "".join(self._words["number"].get(sign, sign) for sign in english)

    def _size(self, size: int) -> str:
        unit, length = next(step for step in _STEPS_OF_SIZE if size >= step[1] or step[1] == 1)
        return f"{self._number(f'{size / length:.4g}')} {unit}"

    def _duration(self, seconds: int) -> str:
        """In the largest unit of which it fills two, rounded up."""
        words = self._words["duration"]
        for unit, length in _STEPS_OF_TIME:
            if seconds >= 2 * length:
                return f"{ceil(seconds / length)} {words[unit]}"
        return f"{seconds} {words['second' if seconds == 1 else 'seconds']}"
