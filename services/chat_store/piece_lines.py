"""Pieces of a store as lines of JSON, the same from every engine, and the hash of what they hold."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter

from services.chat_store.audit_chain import AuditLink
from services.chat_store.snapshot import (
    KeptAppend,
    KeptBody,
    KeptChange,
    KeptConversation,
    KeptEntry,
    KeptPolicy,
    KeptPurge,
    Piece,
)

KINDS: dict[type, str] = {
    KeptConversation: "conversation",
    KeptAppend: "append",
    KeptChange: "change",
    KeptEntry: "entry",
    KeptBody: "body",
    KeptPurge: "purge",
    KeptPolicy: "policy",
    AuditLink: "audit",
}
_CONFIG = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
_LINES: dict[str, TypeAdapter[Any]] = {
    kind: TypeAdapter(tuple[Literal[kind], piece], config=_CONFIG)  # type: ignore[valid-type]
    for piece, kind in KINDS.items()
}
_HASH_MASK = 2**512 - 1


def line_of(piece: Piece) -> bytes:
    """The piece as `["kind",{…}]`, without a line end."""
    kind = KINDS[type(piece)]
    return _LINES[kind].dump_json((kind, piece), exclude_defaults=True)


def piece_of(line: bytes) -> Piece:
    """The piece of a line; ValueError when it is none."""
    kind = line[2:20].partition(b'"')[0].decode(errors="replace")
    if kind not in _LINES:
        raise ValueError(f"no piece is of the kind {kind!r}")
    piece: Piece = _LINES[kind].validate_json(line)[1]
    return piece


class ContentHash:
    """A hash of pieces that does not depend on their order, for engines give them in their own.

    It is the hash of a sum: it tells whether two stores hold the same, not whether somebody wants it to look so.
    """

    def __init__(self) -> None:
        self._sum = 0

    def add(self, line: bytes) -> None:
        """Counts the piece of that line in."""
        self._sum = (self._sum + int.from_bytes(hashlib.sha512(line).digest(), "big")) & _HASH_MASK

    def hexdigest(self) -> str:
        """64 hex digits."""
        return hashlib.sha256(self._sum.to_bytes(64, "big")).hexdigest()


async def conversation_hashes(pieces: AsyncIterator[Piece]) -> AsyncIterator[tuple[str, str, str]]:
    """Tenant, id and hash of each conversation: itself, messages, changes, entries and bodies; other pieces pass by."""
    place, content = ("", ""), ContentHash()
    async for piece in pieces:
        here = _conversation_of(piece)
        if here is None:
            continue
        if here != place and place[1]:
            yield *place, content.hexdigest()
        if here != place:
            place, content = here, ContentHash()
        content.add(line_of(piece))
    if place[1]:
        yield *place, content.hexdigest()


def _conversation_of(piece: Piece) -> tuple[str, str] | None:
    """Tenant and id of the conversation that it is a piece of."""
    if isinstance(piece, KeptConversation):
        return piece.conversation.tenant_id, piece.conversation.conversation_id
    if isinstance(piece, KeptAppend | KeptChange | KeptEntry | KeptBody):
        return piece.tenant_id, piece.conversation_id
    return None
