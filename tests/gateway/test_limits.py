"""Clients that send too much, too slowly, or no HTTP at all."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.json_body import json_limit
from gateway.routes import registered_routes
from shared.config import MIB
from tests.gateway.conftest import KEY, SOON_SECONDS, Gateway, Gateways

MESSAGES = "/v1/conversations/c/messages"
JSON_KEY = {**KEY, "content-type": "application/json"}
LONGEST_TEXT = 20 * MIB
# Each byte of the longest text may take three in JSON, beside it there may be what every body may have.
LARGE_BODY = 3 * LONGEST_TEXT + MIB
HEAD = b"POST /v1/conversations HTTP/1.1\r\nhost: x\r\nauthorization: Bearer pk_test_ana\r\n"
MESSAGES_HEAD = HEAD.replace(b"/v1/conversations", MESSAGES.encode()) + b"content-type: application/json\r\n"


async def raw(port: int, *pieces: bytes, pause: float = 0.0, patience: float = 30.0) -> bytes:
    """What comes back until the connection ends, after these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        return await asyncio.wait_for(reader.read(), patience)
    finally:
        writer.close()


def reason(answer: bytes) -> str:
    """The reason in a raw answer."""
    return str(json.loads(answer.partition(b"\r\n\r\n")[2])["details"][0]["reason"])


@pytest.mark.parametrize("size", [1024 * 1024 + 1, 20 * 1024 * 1024])
async def test_a_json_body_over_the_limit_is_413(client: httpx.AsyncClient, size: int) -> None:
    headers = {**KEY, "content-type": "application/json"}
    response = await client.post("/v1/conversations", headers=headers, content=b" " * size)
    assert (response.status_code, response.json()["details"][0]["reason"]) == (413, "MESSAGE_TOO_LARGE")
    assert response.json()["details"][0]["metadata"] == {"max_bytes": "1048576"}


async def test_a_json_body_at_the_limit_is_read(client: httpx.AsyncClient) -> None:
    frame = len(b'{"metadata":{"a":""}}')
    body = b'{"metadata":{"a":"' + b"x" * (1024 * 1024 - frame) + b'"}}'
    headers = {**KEY, "content-type": "application/json"}
    response = await client.post("/v1/conversations", headers=headers, content=body)
    assert response.status_code == 200


def test_only_methods_that_take_a_long_text_take_a_large_body() -> None:
    limits = {route.method.name: json_limit(route, MIB) for route in registered_routes()}
    assert {name for name, limit in limits.items() if limit > MIB} == {"AppendMessages", "UpdateMessage"}
    assert limits["AppendMessages"] == LARGE_BODY


@pytest.mark.parametrize("text", ["x" * LONGEST_TEXT, "ã" * (LONGEST_TEXT // 2)])
async def test_the_longest_text_of_a_message_is_taken_however_it_is_escaped(
    client: httpx.AsyncClient, text: str
) -> None:
    body = json.dumps({"messages": [{"type": "MESSAGE_TYPE_USER", "text": text}]})
    response = await client.post(MESSAGES, headers=JSON_KEY, content=body, timeout=60)
    assert (response.status_code, response.json()["messages"][0]["text"] == text) == (200, True)


@pytest.mark.parametrize(
    ("texts", "status", "reason"),
    [
        (["x" * (LONGEST_TEXT + 1)], 400, "VALIDATION_FAILED"),
        (["x" * (LONGEST_TEXT - 1)] * 2, 413, "MESSAGE_TOO_LARGE"),  # fits into a body, not into a message of gRPC
    ],
)
async def test_more_text_than_a_service_takes_is_refused_by_it(
    client: httpx.AsyncClient, texts: list[str], status: int, reason: str
) -> None:
    body = json.dumps({"messages": [{"type": "MESSAGE_TYPE_USER", "text": text} for text in texts]})
    response = await client.post(MESSAGES, headers=JSON_KEY, content=body, timeout=60)
    assert (response.status_code, response.json()["details"][0]["reason"]) == (status, reason)


async def test_a_body_larger_than_any_text_is_refused_before_it_is_sent(gateway: Gateway) -> None:
    head = MESSAGES_HEAD + b"content-length: %d\r\n\r\n" % (LARGE_BODY + 1)
    answer = await raw(gateway.port, head)
    assert (answer.split(b" ")[1], reason(answer)) == (b"413", "MESSAGE_TOO_LARGE")


async def test_a_large_body_need_not_be_announced(client: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"messages":[{"type":"MESSAGE_TYPE_USER","text":"'
        for _ in range(3):
            yield b"x" * MIB
        yield b'"}]}'

    response = await client.post(MESSAGES, headers=JSON_KEY, content=pieces())
    assert (response.status_code, len(response.json()["messages"][0]["text"])) == (200, 3 * MIB)


async def test_large_bodies_that_cannot_be_held_together_are_503_and_room_comes_back(gateways: Gateways) -> None:
    client = (await gateways.start(large_bodies_bytes=2 * MIB)).client

    async def answer(size: int) -> httpx.Response:
        body = json.dumps({"messages": [{"type": "MESSAGE_TYPE_USER", "text": "x" * size}]})
        return await client.post(MESSAGES, headers=JSON_KEY, content=body)

    for _ in range(3):
        assert (await answer(2 * MIB)).status_code == 200
        refused = await answer(4 * MIB)
        assert (refused.status_code, refused.json()["details"][0]["metadata"]) == (503, {"dependency": "gateway"})
        assert "retry-after" in refused.headers


async def test_an_announced_small_body_gets_no_more_time_than_elsewhere(hasty: Gateway) -> None:
    start = MESSAGES_HEAD + b"content-length: 1000\r\n\r\n{"
    answer = await raw(hasty.port, start, *[b" "] * 8, pause=0.2)
    assert (answer.split(b" ")[1], reason(answer)) == (b"408", "BODY_TIMEOUT")


async def test_a_body_that_dawdles_is_408(hasty: Gateway) -> None:
    start = HEAD + b"content-type: application/json\r\ncontent-length: 1000\r\n\r\n{"
    assert b"408" in (await raw(hasty.port, start)).split(b"\r\n")[0]
    drops = [b" "] * 8
    answer = await raw(hasty.port, start, *drops, pause=0.2)
    assert b"408" in answer.split(b"\r\n")[0]
    assert reason(answer) == "BODY_TIMEOUT"


async def test_headers_that_dawdle_end_the_connection(hasty: Gateway) -> None:
    assert await raw(hasty.port, HEAD) == b""
    assert await raw(hasty.port) == b""


async def test_a_kept_connection_may_idle_but_not_dawdle(hasty: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", hasty.port)
    for _ in range(2):
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b'{"status":"ok"}'), 20)
        await asyncio.sleep(0.8)  # longer than headers may take
    writer.write(b"GET /heal")
    assert await asyncio.wait_for(reader.read(), 20) == b""
    writer.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\nx-big: " + b"a" * 40_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nx-big: " + b"a" * 40_000,
        b"GET / HTTP/1.1\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(5000)),
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
)
async def test_headers_over_the_limit_are_431(gateway: Gateway, request_bytes: bytes) -> None:
    answer = await raw(gateway.port, request_bytes)
    assert b"431" in answer.split(b"\r\n")[0]
    assert reason(answer) == "HEADERS_TOO_LARGE"


@pytest.mark.parametrize(
    "request_bytes",
    [b"\x16\x03\x01\x02\x00\r\n\r\n", b"NONSENSE\r\n\r\n", b"GET / HTTP/1.1\r\ncontent-length: x\r\n\r\n"],
)
async def test_what_is_no_http_is_400_in_json(gateway: Gateway, request_bytes: bytes) -> None:
    answer = await raw(gateway.port, request_bytes)
    assert b"400" in answer.split(b"\r\n")[0]
    assert reason(answer) == "MALFORMED_MESSAGE"


@pytest.mark.parametrize("target", [b"*", b"http://evil/", b"//evil/x", b"/v1/conversations/%ff", b"/%00"])
async def test_odd_targets_are_refused_quietly(gateway: Gateway, target: bytes) -> None:
    request = b"GET " + target + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    answer = await raw(gateway.port, request)
    status = answer.split(b" ")[1]
    assert status in (b"400", b"404", b"307")


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"metadata":' + b'{"a":' * 2000 + b"1" + b"}" * 2000 + b"}",
        b'{"metadata":' + b'{"a":' * 150 + b"1" + b"}" * 150 + b"}",
        b'{"metadata":{"a":NaN}}',
        b'{"title":"a","title":"b"}',
        b'{"conversationId":"a","conversation_id":"b"}',
        b'{"title":"\xff"}',
        b'{"title":"\\ud800"}',
        b'{"\\ud800":1}',
        b'{"metadata":{"\\ud800":1}}',
        b'{"metadata":{"a":["\\ud800"]}}',
        b'{"' + b"x" * 100_000 + b'":1}',
        b'{"title":' + b"9" * 5000 + b"}",
        b"\xef\xbb\xbf{}",
        b"[]",
        b'"x"',
        b"null",
        b"{",
    ],
)
async def test_hostile_json_is_400(client: httpx.AsyncClient, body: bytes) -> None:
    headers = {**KEY, "content-type": "application/json"}
    response = await client.post("/v1/conversations", headers=headers, content=body)
    assert (response.status_code, response.json()["code"]) == (400, 3)


async def test_a_refusal_before_the_body_reaches_a_client_that_is_still_sending(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/nowhere", content=b"x" * 5_000_000)
    assert response.status_code == 404
    assert response.headers["connection"] == "close"


async def test_a_client_that_asks_first_is_told_to_go_on_or_not(gateway: Gateway) -> None:
    lengths = b"content-type: application/json\r\ncontent-length: 2\r\nexpect: 100-continue\r\n"
    refused = await raw(gateway.port, b"POST /v1/conversations HTTP/1.1\r\nhost: x\r\n" + lengths + b"\r\n")
    assert refused.startswith(b"HTTP/1.1 401")
    assert b"100 Continue" not in refused
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(HEAD + lengths + b"connection: close\r\n\r\n")
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"{}")
    assert (await asyncio.wait_for(reader.read(), 20)).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_two_lengths_are_no_request(gateway: Gateway) -> None:
    smuggled = HEAD + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    assert b"400" in (await raw(gateway.port, smuggled)).split(b"\r\n")[0]


async def test_headers_behind_a_request_in_flight_are_bounded_too(gateway: Gateway) -> None:
    waiting = HEAD.replace(b"POST /v1/conversations ", b"GET /v1/conversations/slow ") + b"\r\n"
    endless = b"GET / HTTP/1.1\r\nhost: x\r\nx-big: " + b"a" * 40_000
    answer = await raw(gateway.port, waiting, endless, b"a" * 40_000, pause=0.1)
    assert (answer.split(b" ")[1], reason(answer)) == (b"431", "HEADERS_TOO_LARGE")
    await asyncio.wait_for(gateway.seen.cancelled.wait(), SOON_SECONDS)


async def test_trailers_behind_a_body_are_bounded_too(gateway: Gateway) -> None:
    chunked = b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx-big: "
    answer = await raw(gateway.port, HEAD + chunked, *[b"a" * 20_000] * 2, pause=0.1)
    assert (answer.split(b" ")[1], reason(answer)) == (b"431", "HEADERS_TOO_LARGE")


async def test_what_is_no_http_behind_a_stream_puts_no_words_into_it(gateway: Gateway) -> None:
    question = b'{"question":"hang"}'
    head = HEAD.replace(b"conversations", b"assistants/a:ask") + b"content-length: %d\r\n\r\n" % len(question)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(head + question)
    answer = await asyncio.wait_for(reader.readuntil(b"event: accepted"), 20)
    writer.write(b"NONSENSE\r\n\r\n")
    answer += await asyncio.wait_for(reader.read(), 20)
    assert answer.count(b"HTTP/1.1") == 1
    writer.close()
    await asyncio.wait_for(gateway.seen.cancelled.wait(), SOON_SECONDS)
