"""Logs are JSON, lead to their trace, and hold no secret."""

import json
import logging
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from shared.logs import REDACTED, get_logger, redact, setup_logs


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.usefixtures("logs")
def test_a_log_line_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logs("chat_store", "INFO", "json")
    get_logger().info("appended", messages=2, note="linha\nnova")
    get_logger().debug("not shown")
    (line,) = lines(capsys)
    assert line["event"] == "appended"
    assert (line["service"], line["level"], line["messages"]) == ("chat_store", "info", 2)
    assert line["note"] == "linha\nnova"


@pytest.mark.usefixtures("logs")
def test_the_standard_librarys_logs_look_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logs("chat_store", "INFO", "json")
    logging.getLogger("pymongo").warning("cannot reach %s", "mongodb://app:hunter2@db")
    (line,) = lines(capsys)
    assert line["level"] == "warning"
    assert "hunter2" not in line["event"]


@pytest.mark.usefixtures("logs")
def test_a_log_line_leads_to_its_trace(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logs("chat_store", "INFO", "json")
    span = TracerProvider().get_tracer("test").start_span("x")
    with trace.use_span(span):
        get_logger().info("inside")
    (line,) = lines(capsys)
    assert line["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert line["span_id"] == f"{span.get_span_context().span_id:016x}"


@pytest.mark.usefixtures("logs")
def test_a_traceback_is_cleaned_too(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logs("chat_store", "INFO", "json")
    try:
        raise RuntimeError("postgresql://app:hunter2@db/prosa refused")
    except RuntimeError as error:
        get_logger().error("failed", exc_info=error)
    (line,) = lines(capsys)
    assert "RuntimeError" in line["exception"]
    assert "hunter2" not in line["exception"]


@pytest.mark.usefixtures("logs")
def test_people_get_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logs("chat_store", "INFO", "console")
    get_logger().info("appended", api_key="s3cret")
    shown = capsys.readouterr().out
    assert "appended" in shown
    assert "s3cret" not in shown


@pytest.mark.parametrize(
    "name",
    "authorization Authorization api_key key access_token token secret client-secret password credential pepper "
    "Cookie private_pem dsn page_token".split(),
)
def test_fields_named_like_a_secret_are_taken_out(name: str) -> None:
    assert redact(None, "", {name: "s3cret-value"}) == {name: REDACTED}
    assert redact(None, "", {"outer": [{name: "s3cret-value"}]}) == {"outer": [{name: REDACTED}]}


@pytest.mark.parametrize(
    "fields",
    [
        {"key_id": "k1", "input_tokens": 12, "tokens": 3, "tenant_id": "t1"},
        {"event": "key revoked", "url": "https://example.org/a?b=c"},
        {"monkey": "x", "empty": None, "token": ""},
    ],
)
def test_other_fields_stay(fields: dict[str, Any]) -> None:
    assert redact(None, "", dict(fields)) == fields


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("key pk_live_abc123_S3cretS3cretS3cret_crc1 revoked", "S3cretS3cret"),
        ("session ps_live_abc123_S3cretS3cretS3cret_crc1 ended", "S3cretS3cret"),
        ("Authorization: Bearer abcdefgh12345678", "abcdefgh12345678"),
        ("got eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJrMSJ9.c2lnbmF0dXJl", "c2lnbmF0dXJl"),
        ("redis://:hunter2@localhost:6379/0", "hunter2"),
        ("postgresql+asyncpg://app:hunter2@db/prosa", "hunter2"),
        ("sk-abcdefghijklmnop is wrong", "abcdefghijklmnop"),
        ("-----BEGIN PRIVATE KEY-----\nMC4CAQ\n-----END PRIVATE KEY-----", "MC4CAQ"),
    ],
)
def test_texts_that_look_like_a_secret_are_taken_out(text: str, secret: str) -> None:
    for value in (text, text.encode(), [text], {"a": (text,)}, RuntimeError(text)):
        cleaned = str(redact(None, "", {"note": value}))
        assert secret not in cleaned
        assert REDACTED in cleaned


def test_a_structure_without_end_is_not_followed() -> None:
    endless: dict[str, Any] = {}
    endless["again"] = endless
    assert "[too deep]" in json.dumps(redact(None, "", {"note": endless}))
