"""Logs: one JSON object a line, with the trace it belongs to, and without a secret in it.

Libraries that log through the standard module (grpc, pymongo) come out in the same form.
"""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal

import structlog
from opentelemetry import trace

REDACTED = "[redacted]"

# The last word of a name tells: api_key and access_token are secrets, key_id and input_tokens are not.
_SECRET_NAMES = re.compile(
    r"(?i)(^|[_.-])(authorization|token|key|secret|password|passwd|credential|credentials|pepper|cookie|pem|dsn)$"
)
_SECRET_TEXTS = (
    (re.compile(r"\bp[ks]_[A-Za-z0-9]+_[A-Za-z0-9_-]{8,}"), REDACTED),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), REDACTED),
    (re.compile(r"(?i)\bbearer\s+[A-Za-z0-9._~+/=-]{8,}"), f"Bearer {REDACTED}"),
    (re.compile(r"\bsk-[A-Za-z0-9_-]{8,}"), REDACTED),
    (re.compile(r"([a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s/@]+@"), rf"\1:{REDACTED}@"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL), REDACTED),
)
_MAX_DEPTH = 8


def get_logger() -> structlog.stdlib.BoundLogger:
    """A logger: `log.info("event_name", field=value)`. The event is a name, what varies goes into fields."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger()
    return logger


def setup_logs(service_name: str, level: str, form: Literal["json", "console"]) -> None:
    """Sends all logs of the process to standard output, from `level` on."""

    def add_service(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["service"] = service_name
        return event

    before: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_service,
        add_trace,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *before,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=before, processors=_rendering(form)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def _rendering(form: Literal["json", "console"]) -> list[Any]:
    strip = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    trace_back = structlog.processors.format_exc_info
    if form == "json":
        return [strip, trace_back, redact, structlog.processors.JSONRenderer(ensure_ascii=False)]
    plain = structlog.dev.plain_traceback
    return [strip, trace_back, redact, structlog.dev.ConsoleRenderer(colors=False, exception_formatter=plain)]


def add_trace(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Adds the ids of the span in progress, so that a log line leads to its trace."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = f"{context.trace_id:032x}"
        event["span_id"] = f"{context.span_id:016x}"
    return event


def redact(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Takes secrets out: fields named like one, and texts that look like a key, a token or a URL with a password."""
    for name in list(event):
        event[name] = _clean(name, event[name], 0)
    return event


def _clean(name: str, value: Any, depth: int) -> Any:
    if _SECRET_NAMES.search(name) and value not in (None, ""):
        return REDACTED
    if isinstance(value, str):
        return _clean_text(value)
    if isinstance(value, bytes):
        return _clean_text(value.decode(errors="replace"))
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth >= _MAX_DEPTH:
        return "[too deep]"
    if isinstance(value, Mapping):
        return {str(key): _clean(str(key), each, depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean("", each, depth + 1) for each in value]
    return _clean_text(str(value))


def _clean_text(text: str) -> str:
    for pattern, replacement in _SECRET_TEXTS:
        text = pattern.sub(replacement, text)
    return text
