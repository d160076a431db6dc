"""What document_rag weighs above idle while it takes in a PDF of 100 MB, one of 500 pages, and both at once.

The service runs as in production, in a process of its own behind gRPC. Measured is the resident memory of its whole
process tree, the extraction process included and shared pages counted twice, every 20 ms; the service alone is shown
too. Idle is the service just started, before any document: whatever loads later counts as growth. The peer is the
promise: 300 MB.
"""

import asyncio
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

import grpc
import psutil
from pydantic import SecretStr

from deploy.local.engine import running_engine
from deploy.local.engines import Postgres
from deploy.local.ports import free_port
from prosa.document_rag.v1 import document_service_pb2 as pb
from prosa.document_rag.v1.document_service_pb2_grpc import DocumentServiceStub
from services.document_rag.__main__ import MIGRATIONS, SCHEMA
from shared.postgres import migrate
from shared.server import run
from tests.bench.table import Row, at_most, publish
from tests.house.in_process import as_caller, token
from tests.house.processes import REPOSITORY
from tests.house.signing import SigningKeys, new_signing_keys

ALLOWED_MB = 300.0
MB = 1_000_000
SAMPLE_SECONDS = 0.02
SETTLE_SECONDS = 3.0
UPLOAD_SECONDS = 600.0
PIECE_BYTES = 256 * 1024
WORDS = """
    prefeitura município secretaria edital licitação pregão contrato imposto taxa isenção alvará coleta lixo escola
    matrícula saúde vacina consulta horário prazo documento endereço bairro rua praça obra orçamento despesa receita
    servidor concurso férias salário lei decreto artigo parágrafo inciso multa recurso protocolo certidão
""".split()


@dataclass
class Weighed:
    """Resident bytes of a process and of its tree: the most seen so far."""

    process: psutil.Process
    alone: int = 0
    tree: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            alone = self.process.memory_info().rss
            below = sum(_rss(child) for child in self.process.children(recursive=True))
            self.alone, self.tree = max(self.alone, alone), max(self.tree, alone + below)


def main() -> list[Row]:
    """Measures, prints, writes .prosa/bench/ingest_memory.json."""
    rows: list[Row] = []
    keys = new_signing_keys()
    with tempfile.TemporaryDirectory(prefix="prosa-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        write_pdf(directory / "large.pdf", pages=200, characters=1_500, picture_bytes=524_288)
        write_pdf(directory / "long.pdf", pages=500, characters=3_000)
        engine = Postgres(directory / "postgres", free_port())
        with running_engine(engine):

            async def migrated() -> None:
                await migrate(SecretStr(engine.url()), schema=SCHEMA, directory=MIGRATIONS)

            run(migrated)
            large, long = directory / "large.pdf", directory / "long.pdf"
            for tenant, paths in (("large", [large]), ("long", [long]), ("both", [large, long])):
                with _service(engine.url(), directory, keys) as (process, port):
                    rows += _measured(tenant, paths, process, port, keys)
    publish("ingest_memory", rows)
    return rows


def write_pdf(path: Path, *, pages: int, characters: int, picture_bytes: int = 0) -> None:
    """A PDF of Portuguese words, and on each page, if wanted, a picture that does not compress."""
    chance = random.Random(pages)
    with path.open("wb") as file:
        places = [file.write(b"%PDF-1.4\n")]
        kids = " ".join(f"{4 + 3 * page} 0 R" for page in range(pages))
        _object(file, places, b"<< /Type /Catalog /Pages 2 0 R >>")
        _object(file, places, f"<< /Type /Pages /Kids [{kids}] /Count {pages} >>".encode())
        _object(file, places, b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>")
        for _ in range(pages):
            number = len(places)
            resources = f"/Font << /F1 3 0 R >> /XObject << /I {number + 2} 0 R >>"
            head = f"/Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents {number + 1} 0 R"
            _object(file, places, f"<< {head} /Resources << {resources} >> >>".encode())
            _stream(file, places, "/Filter /FlateDecode", zlib.compress(_drawing(chance, characters)))
            side = f"/Type /XObject /Subtype /Image /Width {max(1, picture_bytes)} /Height 1"
            picture = chance.randbytes(max(1, picture_bytes))
            _stream(file, places, f"{side} /ColorSpace /DeviceGray /BitsPerComponent 8", picture)
        table = file.tell()
        file.write(b"xref\n0 %d\n0000000000 65535 f \n" % len(places))
        file.write(b"".join(b"%010d 00000 n \n" % place for place in places[:-1]))
        file.write(b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(places), table))


def _drawing(chance: random.Random, characters: int) -> bytes:
    lines, length = [], 0
    while length < characters:
        line = " ".join(chance.choices(WORDS, k=11)).capitalize() + f" {chance.randrange(10_000)}."
        lines.append(f"({line}) Tj T*")
        length += len(line)
    return f"BT /F1 9 Tf 11 TL 40 810 Td {' '.join(lines)} ET".encode("cp1252")


def _object(file: BinaryIO, places: list[int], content: bytes) -> None:
    number = len(places)
    file.write(b"%d 0 obj\n%s\nendobj\n" % (number, content))
    places.append(file.tell())


def _stream(file: BinaryIO, places: list[int], head: str, content: bytes) -> None:
    _object(file, places, b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(content), head.encode(), content))


def _measured(tenant: str, paths: Sequence[Path], process: psutil.Process, port: int, keys: SigningKeys) -> list[Row]:
    time.sleep(SETTLE_SECONDS)
    idle = process.memory_info().rss
    answered: list[pb.UploadDocumentResponse] = []

    async def upload() -> None:
        answered.extend(await asyncio.gather(*(_upload(tenant, path, port, keys) for path in paths)))

    started = time.monotonic()
    with Weighed(process) as weighed:
        run(upload)
    seconds = time.monotonic() - started
    documents = [answer.document for answer in answered]
    if not all(document.chunk_count for document in documents):
        raise RuntimeError(f"not taken in: {documents}")
    size = sum(path.stat().st_size for path in paths) / MB
    kind = "a PDF" if len(paths) == 1 else f"{len(paths)} PDFs at once"
    pages, chunks = (sum(getattr(each, name) for each in documents) for name in ("page_count", "chunk_count"))
    case = f"{kind} of {size:,.0f} MB, {pages} pages, {chunks:,} chunks"
    return [
        at_most(f"{case}: process tree above idle", (weighed.tree - idle) / MB, ALLOWED_MB, "MB", 1.0),
        at_most(f"{case}: service alone above idle", (weighed.alone - idle) / MB, ALLOWED_MB, "MB", 1.0),
        Row(f"{case}: upload until searchable", seconds, size, "s, MB", seconds / size, None, holds=True),
    ]


async def _upload(tenant: str, path: Path, port: int, keys: SigningKeys) -> pb.UploadDocumentResponse:
    caller = as_caller(token(keys, tenant_id=tenant, scopes={"documents.write"}, lifetime_seconds=UPLOAD_SECONDS))

    async def pieces() -> AsyncIterator[pb.UploadDocumentRequest]:
        with path.open("rb") as file:
            while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                yield pb.UploadDocumentRequest(filename=path.name, chunk=piece)

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        return await DocumentServiceStub(channel).UploadDocument(pieces(), metadata=caller, timeout=UPLOAD_SECONDS)


@contextmanager
def _service(url: str, directory: Path, keys: SigningKeys) -> Iterator[tuple[psutil.Process, int]]:
    port = free_port()
    settings = {
        "DATABASE_URL": url,
        "DOCUMENT_RAG_PORT": str(port),
        "DOCUMENT_RAG_ORIGINALS_URL": str(directory / "originals"),
        "PROSA_TOKEN_PUBLIC_KEY": keys.public_pem,
    }
    command = [sys.executable, "-m", "services.document_rag"]
    with (
        (directory / "service.log").open("ab") as log,
        subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ, **settings}, stdout=log, stderr=log) as started,
    ):
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                grpc.channel_ready_future(channel).result(timeout=60)
            yield psutil.Process(started.pid), port
        finally:
            started.terminate()
            started.wait(60)


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


if __name__ == "__main__":
    main()
