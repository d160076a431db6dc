"""A stored file over HTTP: its bytes, what a browser does with them, and that a part is never taken for the whole."""

import asyncio
from urllib.parse import quote

import httpx
import pytest

from gateway.downloads import content_disposition
from shared.config import MIB
from tests.gateway.conftest import KEY, Gateway, Gateways
from tests.gateway.test_streams import events_in
from tests.gateway.upstream import FILE, FILE_SHA256, PIECE_BYTES, Seen

ATA = "Ata%20n%C2%BA%207%20%E2%80%93%20ma%C3%A7%C3%A3.pdf"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


async def download(client: httpx.AsyncClient, name: str, **headers: str) -> httpx.Response:
    path = f"/v1/documents/{quote(name, safe='')}:download"
    return await client.get(path, headers={**KEY, **{key.replace("_", "-"): value for key, value in headers.items()}})


@pytest.mark.parametrize("accept", ["*/*", BROWSER, "application/pdf", "application/json", "not a media type", ""])
async def test_a_download_is_the_bytes_of_the_file(client: httpx.AsyncClient, accept: str) -> None:
    response = await download(client, "lei.pdf", accept=accept)
    assert response.status_code == 200
    assert response.content == FILE
    assert response.headers["content-type"] == "application/pdf"
    assert response.headers["content-length"] == str(len(FILE))
    assert response.headers["content-disposition"] == 'attachment; filename="lei.pdf"'
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-security-policy"] == "sandbox"
    assert response.headers["cache-control"] == "private, no-cache"
    assert response.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize(
    "accept", ["text/event-stream", "text/html;q=0.1, text/event-stream;q=0.5", BROWSER + ", text/event-stream"]
)
async def test_who_asks_for_events_gets_them_as_before(client: httpx.AsyncClient, accept: str) -> None:
    response = await download(client, "lei.pdf", accept=accept)
    assert response.headers["content-type"] == "text/event-stream"
    events = events_in(response.text)
    assert events[0].data["filename"] == "lei.pdf"  # type: ignore[index]
    assert [event.name for event in events] == ["message"] * 5 + ["end"]


async def test_a_file_that_the_client_has_is_not_sent_again(client: httpx.AsyncClient, seen: Seen) -> None:
    first = await download(client, "lei.pdf")
    assert first.headers["etag"] == f'"{FILE_SHA256}"'
    for held in (first.headers["etag"], f'"other", W/{first.headers["etag"]}', "*"):
        again = await download(client, "lei.pdf", if_none_match=held)
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
        assert "content-type" not in again.headers
    assert (await download(client, "lei.pdf", if_none_match='"other"')).content == FILE
    assert len(seen.requests) == 5  # the service is asked every time whether the caller may read it


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [("missing", 404, "RESOURCE_NOT_FOUND"), ("lost", 400, "ORIGINAL_MISSING"), ("nothing", 500, "INTERNAL")],
)
async def test_what_fails_before_the_first_byte_is_an_ordinary_error(
    client: httpx.AsyncClient, name: str, status: int, reason: str
) -> None:
    response = await download(client, name)
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json")
    assert response.json()["details"][0]["reason"] == reason
    assert "content-disposition" not in response.headers
    assert "etag" not in response.headers


@pytest.mark.parametrize("name", ["break", "break-unsized", "short", "long"])
async def test_a_part_of_a_file_never_looks_like_the_whole(client: httpx.AsyncClient, name: str) -> None:
    with pytest.raises(httpx.TransportError):
        await download(client, name)
    assert (await download(client, "lei.pdf")).content == FILE  # and nobody else is harmed


async def test_a_file_of_unknown_size_comes_in_chunks(client: httpx.AsyncClient) -> None:
    response = await download(client, "unsized")
    assert response.content == FILE
    assert response.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in response.headers
    assert response.headers["accept-ranges"] == "none"
    assert (await download(client, "unsized", range="bytes=1-2")).content == FILE


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-0", range(1)),
        ("bytes=100-", range(100, len(FILE))),
        (f"bytes={PIECE_BYTES - 3}-{PIECE_BYTES + 2}", range(PIECE_BYTES - 3, PIECE_BYTES + 3)),
        (f"Bytes=5-{10 * len(FILE)}", range(5, len(FILE))),
        ("bytes=-7", range(len(FILE) - 7, len(FILE))),
        (f"bytes=-{10 * len(FILE)}", range(len(FILE))),
    ],
)
async def test_a_range_of_bytes_is_answered_with_these_bytes(
    client: httpx.AsyncClient, asked: str, part: range
) -> None:
    response = await download(client, "lei.pdf", range=asked, if_range=f'"{FILE_SHA256}"')
    assert (response.status_code, response.content) == (206, FILE[part.start : part.stop])
    assert response.headers["content-range"] == f"bytes {part.start}-{part.stop - 1}/{len(FILE)}"
    assert response.headers["content-length"] == str(len(part))
    assert response.headers["etag"] == f'"{FILE_SHA256}"'
    assert response.headers["content-type"] == "application/pdf"


@pytest.mark.parametrize(
    "headers",
    [
        {"range": "bytes=0-1,4-5"},
        {"range": "bytes=9-8"},
        {"range": "bytes=-"},
        {"range": "pages=1-2"},
        {"range": "bytes=1-2", "if_range": '"other"'},
        {"range": "bytes=1-2", "if_range": f'W/"{FILE_SHA256}"'},
        {"range": "bytes=1-2", "if_range": "Sat, 29 Oct 2022 19:43:31 GMT"},
    ],
)
async def test_what_is_no_single_range_of_these_bytes_is_answered_with_the_whole(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    response = await download(client, "lei.pdf", **headers)
    assert (response.status_code, response.content) == (200, FILE)
    assert "content-range" not in response.headers


@pytest.mark.parametrize("asked", [f"bytes={len(FILE)}-", "bytes=-0"])
async def test_a_range_behind_the_end_is_refused_with_the_size(client: httpx.AsyncClient, asked: str) -> None:
    response = await download(client, "lei.pdf", range=asked)
    assert response.status_code == 416
    assert response.headers["content-range"] == f"bytes */{len(FILE)}"
    assert response.json()["details"][0]["reason"] == "RANGE_NOT_SATISFIABLE"
    held = await download(client, "lei.pdf", range=asked, if_none_match=f'"{FILE_SHA256}"')
    assert held.status_code == 304


async def test_a_range_ends_the_call_with_its_last_byte(gateway: Gateway) -> None:
    response = await download(gateway.client, "hang", range="bytes=1-2")
    assert response.content == FILE[1:3]
    await asyncio.wait_for(gateway.seen.cancelled.wait(), 20)


async def test_a_client_that_leaves_a_download_cancels_it(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET /v1/documents/hang:download HTTP/1.1\r\nhost: x\r\nx-api-key: pk_test_ana\r\n\r\n")
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    writer.close()
    await asyncio.wait_for(gateway.seen.cancelled.wait(), 20)


async def test_a_client_that_does_not_read_fills_no_memory_and_is_cut_off(gateways: Gateways) -> None:
    gateway = await gateways.start(slow_reader_seconds=0.5)
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1024)
    writer.write(b"GET /v1/documents/endless:download HTTP/1.1\r\nhost: x\r\nx-api-key: pk_test_ana\r\n\r\n")
    await asyncio.wait_for(gateway.seen.cancelled.wait(), 60)
    assert 0 < sum(gateway.seen.pieces) < 64 * MIB  # what buffers of sockets and of HTTP/2 take, not what there is
    writer.close()


async def test_a_gateway_that_stops_cuts_a_download_short(gateways: Gateways) -> None:
    gateway = await gateways.start()
    loading = asyncio.create_task(download(gateway.client, "hang"))
    await asyncio.wait_for(gateway.seen.started.wait(), 20)
    await gateways.stop()
    with pytest.raises(httpx.TransportError):
        await loading


async def test_pages_of_other_origins_may_read_the_name(gateways: Gateways) -> None:
    gateway = await gateways.start(cors_origins="https://app.example.org")
    response = await download(gateway.client, "lei.pdf", origin="https://app.example.org")
    exposed = response.headers["access-control-expose-headers"].split(", ")
    assert {"content-disposition", "content-range", "etag"} <= set(exposed)


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("", "attachment"),
        ("lei.pdf", 'attachment; filename="lei.pdf"'),
        ("Ata nº 7 – maçã.pdf", "attachment; filename=\"Ata no 7 _ maca.pdf\"; filename*=UTF-8''" + ATA),
        ('a"b\\c.pdf', "attachment; filename=\"a_b_c.pdf\"; filename*=UTF-8''a%22b_c.pdf"),
        ("100%.txt", "attachment; filename=\"100_.txt\"; filename*=UTF-8''100%25.txt"),
        ("../../etc/passwd", 'attachment; filename=".._.._etc_passwd"'),
        ("a\r\nset-cookie: x=1.pdf", 'attachment; filename="aset-cookie: x=1.pdf"'),
        ("conta\u202efdp.exe", 'attachment; filename="contafdp.exe"'),
        ("\u0000\r\n", "attachment"),
        ("日本.pdf", "attachment; filename=\"__.pdf\"; filename*=UTF-8''%E6%97%A5%E6%9C%AC.pdf"),
    ],
)
def test_a_name_is_quoted_so_that_it_is_only_a_name(name: str, header: str) -> None:
    assert content_disposition(name) == header


def test_a_name_is_as_long_as_file_systems_take_and_keeps_its_ending() -> None:
    header = content_disposition("ata " * 200 + ".pdf")
    assert len(header) < 250
    assert header.endswith('.pdf"')
