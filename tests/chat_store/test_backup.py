"""A backup holds everything, comes back on any engine, and is not trusted when it is not whole."""

import asyncio
import gzip
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from services.chat_store.acts import AddEntry, Delete, Describe, EditMessage, RemoveEntry, SetFeedback
from services.chat_store.audit_chain import AuditEntry, next_link
from services.chat_store.backup import BackupError, Header, Summary, appearing_whole, restore, verify, write_backup
from services.chat_store.engines import open_store
from services.chat_store.entries import EntryKind
from services.chat_store.limits import INLINE_BYTES
from services.chat_store.model import (
    Draft,
    Feedback,
    MessageType,
    NewConversation,
    Part,
    PartKind,
    Reference,
    Tokens,
)
from services.chat_store.piece_lines import KINDS, conversation_hashes
from services.chat_store.policy import Policy
from services.chat_store.selection import Reach, Selection
from services.chat_store.snapshot import Piece
from services.chat_store.store import ChatStore
from shared.identifiers import new_id
from tests.chat_store.places import fresh_place
from tests.chat_store.workshop import batch_of, everything, pair, said
from tests.house.waiting import until

Opened: TypeAlias = Callable[[str], Awaitable[ChatStore]]

HEADER = Header("some engine", "2026-11-21T08:00:00+00:00")
ACROSS = [("mongo", "mongo"), ("postgres", "postgres"), ("mongo", "postgres"), ("postgres", "mongo")]


def quietly(_: str) -> None:
    """Progress that nobody reads."""


@pytest.fixture
async def opened(mongo_url: str, fresh_database: Callable[[], str]) -> AsyncIterator[Opened]:
    """Opens an empty store of an engine."""
    async with AsyncExitStack() as stack:

        async def opened(engine: str) -> ChatStore:
            place = await stack.enter_async_context(fresh_place(engine, mongo_url, fresh_database))
            return await stack.enter_async_context(open_store(place))

        yield opened


async def filled(store: ChatStore) -> Reach:
    """Something of all that a store keeps; the reach that sees the conversations."""
    reach = Reach(f"t-{new_id()}", None)
    await store.upkeep.set_policy(reach.tenant_id, Policy(retention_days=365))
    link = next_link(reach.tenant_id, None, [AuditEntry(datetime.now(UTC), "ana", "", "Read", "c1", "OK")])
    assert await store.audit.add(link)
    await store.create(reach, NewConversation("c1", "ana", request_id="r1"))
    await _say_everything(store, reach, "c1")
    await store.act(reach, "c1", Describe(actor="ana", title="IPTU — segunda via", request_id="r2"))
    for entry_id in ("e1", "e2"):
        await store.entries.act(reach, "c1", EntryKind.TASK, entry_id, AddEntry(label="pending", text="Ligar"))
    await store.entries.act(reach, "c1", EntryKind.TASK, "e2", RemoveEntry())
    await store.create(reach, NewConversation("deleted", "bia"))
    await store.act(reach, "deleted", Delete(purge_after_days=30))
    await store.create(reach, NewConversation("purged", "bia"))
    await store.append(reach, "purged", pair("gone"))
    await store.upkeep.purge(reach.tenant_id, "purged")
    return reach


async def _say_everything(store: ChatStore, reach: Reach, conversation_id: str) -> None:
    reference = Reference(1, "d1", 2, "Lei 123", "k1", 3, 10, 20, "Art. 5º", 0.1 + 0.2)
    parts = (Part(PartKind.DATA, data='{"a":1}'), Part(PartKind.FILE, uri="s3://b/k", size_bytes=2**40))
    answer = Draft(MessageType.ASSISTANT, "é 'assim' $x \\ \"😀\"", "m2", references=(reference,), parts=parts)
    question = Draft(MessageType.USER, "Qual é o prazo?", "m1", user_id="ana", tokens=Tokens(input=2**39))
    await store.append(reach, conversation_id, batch_of(question, answer, request_id="r3"))
    await store.append(reach, conversation_id, batch_of(said("ç" * INLINE_BYTES, message_id="m3")))
    await store.revise(reach, conversation_id, "m1", EditMessage(actor="ana", text="Qual é o valor?"))
    opinion = Feedback(rating=5, comment="ótimo", user_id="ana")
    await store.revise(reach, conversation_id, "m2", SetFeedback(actor="ana", feedback=opinion))


async def backed_up(store: ChatStore, path: Path) -> Summary:
    with appearing_whole(path) as sink:
        return await write_backup(store.upkeep, sink, HEADER, quietly)


async def pieces_of(store: ChatStore) -> list[Piece]:
    async with aclosing(store.upkeep.dump()) as pieces:
        return [piece async for piece in pieces]


async def hashes_of(store: ChatStore) -> dict[str, str]:
    return {conversation_id: digest async for _, conversation_id, digest in conversation_hashes(store.upkeep.dump())}


@pytest.mark.parametrize(("source", "target"), ACROSS)
async def test_what_is_restored_is_what_was_kept(opened: Opened, tmp_path: Path, source: str, target: str) -> None:
    before, after = await opened(source), await opened(target)
    reach = await filled(before)
    written = await backed_up(before, tmp_path / "a")
    assert set(written.pieces) == set(KINDS.values())
    assert await restore(after.upkeep, tmp_path / "a", quietly) == (HEADER, written)
    again = await backed_up(after, tmp_path / "b")
    assert (again.content, again.pieces, again.messages) == (written.content, written.pieces, 3)
    assert await everything(after, reach, "c1") == await everything(before, reach, "c1")
    assert await after.select(reach, Selection()) == await before.select(reach, Selection())


@pytest.mark.parametrize(("source", "target"), ACROSS)
async def test_a_conversation_has_the_same_hash_on_every_engine(opened: Opened, source: str, target: str) -> None:
    before, after = await opened(source), await opened(target)
    reach = await filled(before)
    await after.upkeep.load(await pieces_of(before))
    hashes = await hashes_of(before)
    assert set(hashes) == {"c1", "deleted"}
    assert await hashes_of(after) == hashes
    await after.entries.act(reach, "c1", EntryKind.TASK, "e3", AddEntry(label="pending"))
    changed = await hashes_of(after)
    assert [each for each in hashes if changed[each] != hashes[each]] == ["c1"]


@pytest.mark.parametrize("engine", ["mongo", "postgres"])
async def test_a_backup_under_load_holds_all_that_was_acknowledged(opened: Opened, tmp_path: Path, engine: str) -> None:
    before, after, reach = await opened(engine), await opened(engine), Reach(f"t-{new_id()}", "ana")
    names = [f"c{number}" for number in range(4)]
    acknowledged = dict.fromkeys(names, 0)

    async def write(name: str) -> None:
        await before.create(reach, NewConversation(name, "ana"))
        while True:
            acknowledged[name] = (await before.append(reach, name, pair(f"{name} {acknowledged[name]}")))[-1].seq

    writers = [asyncio.create_task(write(name)) for name in names]
    await until(lambda: min(acknowledged.values()) >= 40)
    already = dict(acknowledged)
    await backed_up(before, tmp_path / "a")
    for writer in writers:
        writer.cancel()
    await asyncio.gather(*writers, return_exceptions=True)
    await restore(after.upkeep, tmp_path / "a", quietly)
    for name in names:
        kept = await everything(after, reach, name)
        assert kept == (await everything(before, reach, name))[: len(kept)]
        assert len(kept) == (await after.get(reach, name)).totals.messages >= already[name]


async def test_a_retry_is_known_after_a_restore(opened: Opened, tmp_path: Path) -> None:
    before, after = await opened("mongo"), await opened("postgres")
    reach = Reach(f"t-{new_id()}", "ana")
    await before.create(reach, NewConversation("c1", "ana"))
    batch = pair("a", request_id="r1")
    stored = await before.append(reach, "c1", batch)
    await backed_up(before, tmp_path / "a")
    await restore(after.upkeep, tmp_path / "a", quietly)
    assert await after.append(reach, "c1", batch) == stored


async def test_a_restore_that_broke_off_goes_on(opened: Opened, tmp_path: Path) -> None:
    before, after = await opened("mongo"), await opened("mongo")
    await filled(before)
    written = await backed_up(before, tmp_path / "a")
    pieces = await pieces_of(before)
    await after.upkeep.load(pieces[: len(pieces) // 2])
    with pytest.raises(BackupError, match="--into-existing"):
        await restore(after.upkeep, tmp_path / "a", quietly)
    await restore(after.upkeep, tmp_path / "a", quietly, into_existing=True)
    assert (await backed_up(after, tmp_path / "b")).content == written.content


@pytest.fixture
async def damaged(opened: Opened, tmp_path: Path) -> Callable[[Callable[[bytes], bytes]], Path]:
    """A backup to which something was done, on what is in the file or on its lines."""
    store = await opened("mongo")
    await filled(store)
    await backed_up(store, tmp_path / "whole")

    def damaged(change: Callable[[bytes], bytes]) -> Path:
        (tmp_path / "damaged").write_bytes(change((tmp_path / "whole").read_bytes()))
        return tmp_path / "damaged"

    return damaged


def on_lines(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[bytes], bytes]:
    return lambda file: gzip.compress(b"".join(change(gzip.decompress(file).splitlines(keepends=True))))


def header_with(**facts: Any) -> Callable[[bytes], bytes]:
    return on_lines(lambda lines: [json.dumps({**json.loads(lines[0]), **facts}).encode() + b"\n", *lines[1:]])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda file: file[: len(file) // 2], "has no end"),
        (lambda file: file[:-4], "has no end"),
        (lambda file: file[:200] + bytes([file[200] ^ 1]) + file[201:], "damaged"),
        (lambda _: b"no gzip at all", "damaged"),
        (on_lines(lambda lines: lines[:-1]), "has no end"),
        (on_lines(lambda lines: [*lines[:2], *lines[3:]]), "not as it was written"),
        (on_lines(lambda lines: [*lines[:3], *lines[2:]]), "not as it was written"),
        (
            on_lines(lambda lines: [line.replace("Qual é".encode(), b"Qual e") for line in lines]),
            "not as it was",
        ),
        (on_lines(lambda lines: [*lines, lines[1]]), "goes on after its end"),
        (on_lines(lambda lines: [lines[0], b'["conversation",{}]\n', *lines[1:]]), "cannot be read"),
        (on_lines(lambda lines: [lines[0], b'["secret",{}]\n', *lines[1:]]), "cannot be read"),
        (on_lines(lambda lines: lines[1:]), "no backup of chat_store"),
        (header_with(version=2), "version 2; this release reads version 1"),
        (header_with(time="2020-01-01"), "not as it was written"),
    ],
)
async def test_what_is_not_whole_is_refused_before_anything_is_written(
    opened: Opened,
    damaged: Callable[[Callable[[bytes], bytes]], Path],
    change: Callable[[bytes], bytes],
    words: str,
) -> None:
    path, after = damaged(change), await opened("mongo")
    with pytest.raises(BackupError, match=words) as refused:
        await restore(after.upkeep, path, quietly)
    with pytest.raises(BackupError, match=words):
        verify(path, quietly)
    assert "Qual" not in str(refused.value)
    assert await pieces_of(after) == []


class BrokenOffError(Exception):
    """The engine went away."""


def break_off(path: Path) -> None:
    with appearing_whole(path) as sink:
        sink.write(b"half")
        raise BrokenOffError


def test_a_backup_that_breaks_off_leaves_the_former_one(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with appearing_whole(path) as sink:
        sink.write(b"whole")
    with pytest.raises(BrokenOffError):
        break_off(path)
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_had_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="cannot read"):
        verify(tmp_path / "absent", quietly)
    with pytest.raises(BackupError, match="cannot write"), appearing_whole(tmp_path / "absent" / "a"):
        pass


async def test_a_backup_can_be_piped_and_its_file_verified(
    mongo_url: str, fresh_database: Callable[[], str], tmp_path: Path
) -> None:
    async with fresh_place("mongo", mongo_url, fresh_database) as place:
        async with open_store(place) as store:
            await filled(store)
        # As much noise as there can be: none of it may come between.
        settings = {
            "MONGODB_URL": mongo_url,
            "MONGODB_DATABASE": place.mongodb_database,
            "CHAT_STORE_LOG_LEVEL": "DEBUG",
        }
        content, told = await run(settings, "backup", "-")
        path = tmp_path / "piped"
        path.write_bytes(content)
        assert str(verify(path, quietly)[1]) in told
        assert str(verify(path, quietly)[1]) in (await run(settings, "verify", str(path)))[1]


async def run(settings: Mapping[str, str], *arguments: str) -> tuple[bytes, str]:
    """What the command wrote to standard output and to standard error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.chat_store", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **settings},
    )
    output, told = await process.communicate()
    assert process.returncode == 0, told.decode()
    return output, told.decode()
