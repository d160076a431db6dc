"""Files that go up as streams: whole or as a form, in pieces, within a limit."""

import asyncio
from collections.abc import AsyncIterator

import httpx

from tests.gateway.conftest import KEY, SOON_SECONDS, Gateway, Gateways
from tests.gateway.upstream import Seen
from tests.house.waiting import until

UPLOAD = "/v1/documents:upload"


async def test_a_raw_body_is_the_file_and_the_query_describes_it(client: httpx.AsyncClient, seen: Seen) -> None:
    content = b"%PDF" + b"x" * 200_000
    response = await client.post(
        f"{UPLOAD}?title=C%C3%B3digo&filename=c.pdf",
        headers={**KEY, "content-type": "application/pdf"},
        content=content,
    )
    assert response.status_code == 200
    document = response.json()["document"]
    assert (document["title"], document["filename"], document["mimeType"]) == ("Código", "c.pdf", "application/pdf")
    assert document["sizeBytes"] == str(len(content))
    assert max(seen.pieces) <= 64 * 1024


async def test_what_curl_calls_a_body_by_default_is_no_media_type(client: httpx.AsyncClient) -> None:
    headers = {**KEY, "content-type": "application/x-www-form-urlencoded"}
    response = await client.post(UPLOAD, headers=headers, content=b"text")
    assert response.json()["document"]["mimeType"] == ""
    told = await client.post(f"{UPLOAD}?mimeType=text/plain", headers=headers, content=b"text")
    assert told.json()["document"]["mimeType"] == "text/plain"


async def test_a_form_with_one_file_is_an_upload(client: httpx.AsyncClient) -> None:
    content = b"a\r\n--b\r\n" * 30_000
    response = await client.post(
        UPLOAD, headers=KEY, data={"title": "Olá"}, files={"file": ("código.txt", content, "text/plain")}
    )
    assert response.status_code == 200, response.text
    document = response.json()["document"]
    assert (document["title"], document["filename"], document["mimeType"]) == ("Olá", "código.txt", "text/plain")
    assert document["sizeBytes"] == str(len(content))


async def test_forms_that_are_no_upload_are_refused(client: httpx.AsyncClient) -> None:
    boundary = {**KEY, "content-type": "multipart/form-data; boundary=b"}
    file = b'--b\r\ncontent-disposition: form-data; name="f"; filename="a"\r\n\r\nx\r\n'
    for body in (
        b"nonsense",
        b'--b\r\ncontent-disposition: form-data; name="title"\r\n\r\nx\r\n--b--\r\n',  # no file
        file + file + b"--b--\r\n",  # two files
        file + b'--b\r\ncontent-disposition: form-data; name="title"\r\n\r\nx\r\n--b--\r\n',  # a field too late
        b'--b\r\ncontent-disposition: form-data; name="colour"\r\n\r\nx\r\n' + file + b"--b--\r\n",  # unknown field
        file.removesuffix(b"\r\n"),  # cut off
        b'--b\r\ncontent-disposition: form-data; name="title"\r\n\r\nx\r\n' * 1000 + file + b"--b--\r\n",  # no end
    ):
        response = await client.post(UPLOAD, headers=boundary, content=body)
        assert (response.status_code, response.json()["details"][0]["reason"]) == (400, "MALFORMED_MESSAGE"), body
    bare = await client.post(UPLOAD, headers={**KEY, "content-type": "multipart/form-data"}, content=file)
    assert bare.status_code == 415


async def test_an_empty_body_is_an_empty_file(client: httpx.AsyncClient) -> None:
    response = await client.post(UPLOAD, headers=KEY)
    assert response.json()["document"]["sizeBytes"] == "0"


async def test_an_unknown_parameter_is_refused_before_anybody_is_called(client: httpx.AsyncClient, seen: Seen) -> None:
    response = await client.post(f"{UPLOAD}?colour=red", headers=KEY, content=b"x")
    assert (response.status_code, seen.requests) == (400, [])
    response = await client.post(f"{UPLOAD}?chunk=eA==", headers=KEY, content=b"x")
    assert response.status_code == 400


async def test_a_refusal_in_the_middle_of_an_upload_reaches_the_client(client: httpx.AsyncClient) -> None:
    response = await client.post(f"{UPLOAD}?title=refuse", headers=KEY, content=b"x" * 3_000_000)
    assert (response.status_code, response.json()["details"][0]["reason"]) == (400, "DOCUMENT_UNREADABLE")


async def test_bytes_are_counted_whatever_the_headers_say(gateways: Gateways) -> None:
    gateway = await gateways.start(upload_bytes=100_000)

    async def chunked() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"x" * 10_000

    for content in (b"x" * 100_001, chunked()):
        response = await gateway.client.post(UPLOAD, headers=KEY, content=content)
        assert (response.status_code, response.json()["details"][0]["reason"]) == (413, "MESSAGE_TOO_LARGE")
    assert (await gateway.client.post(UPLOAD, headers=KEY, content=b"x" * 100_000)).status_code == 200


async def test_the_gateway_takes_no_more_than_the_service_takes(gateway: Gateway) -> None:
    gateway.seen.pause = 0.2  # the service reads slowly
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 65536
            yield b"x" * 65536

    uploading = asyncio.create_task(gateway.client.post(UPLOAD, headers=KEY, content=endless()))
    await until(lambda: gateway.seen.pieces)
    await asyncio.sleep(1.0)
    uploading.cancel()
    gateway.seen.pause = 0.0
    # What lies in the sockets and windows between is some megabytes; without backpressure it is all that was sent.
    assert sum(gateway.seen.pieces) < sent < 32_000_000


async def begun(gateway: Gateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """An upload of which the service has a part, and the client says no more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(
        b"POST /v1/documents:upload HTTP/1.1\r\nhost: x\r\nauthorization: Bearer pk_test_ana\r\n"
        b"content-length: 1000000\r\n\r\n" + b"x" * 200_000
    )
    await asyncio.wait_for(gateway.seen.started.wait(), 20)
    return reader, writer


async def test_an_upload_that_outlasts_the_grace_is_told_so(gateways: Gateways) -> None:
    gateway = await gateways.start()
    reader, writer = await begun(gateway)
    await gateways.stop()
    answer = await asyncio.wait_for(reader.read(), 20)
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"DEPENDENCY_UNAVAILABLE" in answer
    writer.close()


async def test_a_client_that_leaves_in_the_middle_cancels_its_upload(gateway: Gateway) -> None:
    _, writer = await begun(gateway)
    writer.close()
    await asyncio.wait_for(gateway.seen.cancelled.wait(), SOON_SECONDS)


async def test_a_file_name_that_a_form_spells_with_its_charset_is_read(client: httpx.AsyncClient) -> None:
    boundary = {**KEY, "content-type": "multipart/form-data; boundary=b"}
    disposition = b"form-data; name=\"file\"; filename*=utf-8''relat%C3%B3rio.txt"
    body = b"--b\r\ncontent-disposition: " + disposition + b"\r\n\r\nx\r\n--b--\r\n"
    response = await client.post(UPLOAD, headers=boundary, content=body)
    assert response.status_code == 200, response.text
    assert response.json()["document"]["filename"] == "relatório.txt"


async def test_a_file_name_that_is_not_in_its_charset_is_400(client: httpx.AsyncClient) -> None:
    boundary = {**KEY, "content-type": "multipart/form-data; boundary=b"}
    disposition = b"form-data; name=\"file\"; filename*=utf-8''%E9.txt"
    body = b"--b\r\ncontent-disposition: " + disposition + b"\r\n\r\nx\r\n--b--\r\n"
    response = await client.post(UPLOAD, headers=boundary, content=body)
    assert (response.status_code, response.json()["details"][0]["reason"]) == (400, "MALFORMED_MESSAGE")
