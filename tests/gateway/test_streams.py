"""Streams as server-sent events: what a browser reads, also when things go wrong."""

import asyncio
import json
from typing import NamedTuple

import httpx
import pytest

from tests.gateway.conftest import KEY, SOON_SECONDS, Gateway, Gateways

LINES = "application/x-ndjson"
ASK = "/v1/assistants/a1:ask"


class Event(NamedTuple):
    """One event as it was read."""

    id: str
    name: str
    data: object


def events_in(text: str) -> list[Event]:
    """The events of a whole body; comments and retry hints left out."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "event" in fields:
            found.append(Event(fields.get("id", ""), fields["event"], json.loads(fields["data"])))
    return found


async def ask(client: httpx.AsyncClient, question: str) -> httpx.Response:
    return await client.post(ASK, headers=KEY, json={"question": question})


async def test_a_stream_is_events_named_after_what_they_carry(client: httpx.AsyncClient) -> None:
    response = await ask(client, "Quando passa a coleta?")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream"
    assert response.text.startswith("retry: 3000\n\n")
    events = events_in(response.text)
    assert [event.name for event in events] == [
        "accepted", "citation", "text_delta", "text_delta", "text_delta", "completed", "end",
    ]  # fmt: skip
    assert [event.id for event in events] == ["1", "2", "3", "4", "5", "6", ""]
    assert events[1].data["citation"]["title"] == "Coleta de lixo\nurbano"  # type: ignore[index]
    assert events[2].data == {"textDelta": {"text": "Às "}}


async def test_a_call_that_fails_before_its_first_message_is_an_ordinary_error(client: httpx.AsyncClient) -> None:
    response = await ask(client, "refuse")
    assert (response.status_code, response.headers["content-type"]) == (429, "application/json")
    assert response.headers["retry-after"] == "3"


async def test_a_failure_in_the_middle_is_an_event_with_the_status(client: httpx.AsyncClient) -> None:
    response = await ask(client, "break")
    events = events_in(response.text)
    assert [event.name for event in events] == ["accepted", "citation", "error"]
    status = events[-1].data
    assert isinstance(status, dict)
    assert status["code"] == 14
    assert status["details"][0]["reason"] == "PROVIDER_FAILED"
    assert any(detail.get("requestId") == response.headers["x-request-id"] for detail in status["details"])


async def test_a_silent_stream_opens_with_heartbeats_and_its_failure_is_an_event(client: httpx.AsyncClient) -> None:
    response = await ask(client, "silent")
    assert response.status_code == 200
    assert response.text.count(": heartbeat\n\n") >= 1
    assert [event.name for event in events_in(response.text)] == ["error"]


async def test_an_empty_stream_is_only_an_end(client: httpx.AsyncClient) -> None:
    assert [event.name for event in events_in((await ask(client, "nothing")).text)] == ["end"]


async def test_a_heartbeat_comes_while_the_stream_is_quiet(gateway: Gateway) -> None:
    reader, writer = await open_stream(gateway.port, "hang")
    await asyncio.wait_for(reader.readuntil(b": heartbeat\n\n"), 20)
    await asyncio.wait_for(reader.readuntil(b": heartbeat\n\n"), 20)
    writer.close()


async def test_a_reader_that_leaves_cancels_the_stream_within_a_second(gateway: Gateway) -> None:
    reader, writer = await open_stream(gateway.port, "hang")
    await asyncio.wait_for(reader.readuntil(b"event: citation"), 20)
    writer.close()
    await asyncio.wait_for(gateway.seen.cancelled.wait(), SOON_SECONDS)


async def test_a_reader_that_stops_reading_is_cut_off(gateways: Gateways) -> None:
    gateway = await gateways.start(slow_reader_seconds=0.5)
    reader, _ = await open_stream(gateway.port, "flood", limit=1024)
    await asyncio.wait_for(reader.readuntil(b"event: citation"), 20)
    await asyncio.wait_for(gateway.seen.cancelled.wait(), 60)  # the buffers are full, nobody reads
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(reader.readexactly(1_000_000_000), 60)


async def test_a_gateway_that_stops_ends_its_streams_with_an_error_event(gateways: Gateways) -> None:
    gateway = await gateways.start()
    asking = asyncio.create_task(ask(gateway.client, "hang"))
    await asyncio.wait_for(gateway.seen.started.wait(), 20)
    await gateways.stop()
    events = events_in((await asking).text)
    assert events[-1].name == "error"
    assert events[-1].data["code"] == 14  # type: ignore[index]


async def test_a_stream_is_lines_of_json_for_who_asks_for_them(client: httpx.AsyncClient) -> None:
    client.headers["accept"] = LINES
    response = await ask(client, "Quando passa a coleta?")
    assert (response.status_code, response.headers["content-type"]) == (200, LINES)
    assert response.headers["content-disposition"] == "attachment"
    told = [json.loads(line) for line in response.text.removesuffix("\n").split("\n")]
    assert [next(iter(each)) for each in told] == ["accepted", "citation", *["textDelta"] * 3, "completed"]
    assert (await ask(client, "nothing")).content == b""


async def test_lines_that_break_off_are_an_error_or_are_cut(client: httpx.AsyncClient) -> None:
    client.headers["accept"] = LINES
    refused = await ask(client, "refuse")
    assert (refused.status_code, refused.headers["content-type"]) == (429, "application/json")
    with pytest.raises(httpx.TransportError):
        await ask(client, "break")


async def test_the_feed_names_its_events_too(gateway: Gateway) -> None:
    # The stand-ins do not serve the feed: the route exists, the refusal is an ordinary answer.
    response = await gateway.client.get("/v1/events:watch", headers=KEY)
    assert response.status_code == 501


async def open_stream(
    port: int, question: str, limit: int = 2**16
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=limit)
    body = json.dumps({"question": question}).encode()
    writer.write(
        b"POST %s HTTP/1.1\r\nhost: x\r\nauthorization: Bearer pk_test_ana\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (ASK.encode(), len(body), body)
    )
    return reader, writer
