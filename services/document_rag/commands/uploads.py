"""One file's way into the library: recognised if it is there, sent if it is not, followed until search finds it."""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, Protocol
from uuid import uuid4

from services.document_rag.commands.chosen_files import ChosenFile
from services.document_rag.commands.gateway_client import GatewayClient, GatewayError, Json, Sent

READY, FAILED, SKIPPED = "READY", "FAILED", "SKIPPED"
PENDING, UNDECIDED = "PENDING", "UNDECIDED"
DUPLICATE_OF = "DUPLICATE_OF"

_ENDS = frozenset({READY, FAILED, SKIPPED, UNDECIDED})
_LOOK_AGAIN_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class UploadOptions:
    """What is said of every file. Empty: nothing is said. `wait_seconds` 0: a file is done when it is sent."""

    policy: str = "skip"
    scope: str = "tenant"
    collection_id: str = ""
    language: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    wait_seconds: float = 1800.0

    def query(self, file: ChosenFile) -> dict[str, str]:
        """What describes an upload in a URL."""
        said = {
            "filename": file.name,
            "source": file.source,
            "policy": f"DUPLICATE_POLICY_{self.policy.upper()}",
            "scope": f"SCOPE_{self.scope.upper()}",
            "collectionId": self.collection_id,
            "language": self.language,
            "metadata": json.dumps(self.metadata) if self.metadata else "",
        }
        return {name: text for name, text in said.items() if text}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a file.

    `state`: READY, FAILED, SKIPPED; PENDING: kept, not searchable yet; UNDECIDED: not kept, and the policy was to ask.
    `verdict`: NEW, DUPLICATE_OF, NEW_VERSION_OF, SUSPECTED, or "" when it failed before there was one.
    `error_reason`: that of ErrorInfo; "" where the file could not be opened here.
    """

    file: ChosenFile
    state: str
    verdict: str = ""
    document_id: str = ""
    related_document_id: str = ""
    error_reason: str = ""
    message: str = ""


class Watcher(Protocol):
    """Whoever shows how far a file is."""

    def stage(self, file: ChosenFile, name: str, done: int = 0, total: int = 0) -> None:
        """The file is in this stage; `done` of `total` parts of it are done, when that is known."""
        ...


async def take_in(client: GatewayClient, file: ChosenFile, options: UploadOptions, watcher: Watcher) -> Outcome:
    """Takes one file in, or finds that it is there. GatewayError only when the next file would meet it as well."""
    try:
        sha256 = await asyncio.to_thread(file.sha256)
        watcher.stage(file, "CHECKING")
        outcome = await _known(client, file, sha256, options) or await _sent(client, file, options, watcher)
        return await _followed(client, outcome, options, watcher)
    except OSError as error:
        return Outcome(file, FAILED, message=error.strerror or str(error))
    except GatewayError as error:
        if error.concerns_every_call:
            raise
        return Outcome(file, FAILED, error_reason=error.reason, message=error.message)


async def _known(client: GatewayClient, file: ChosenFile, sha256: str, options: UploadOptions) -> Outcome | None:
    """What is there already is not sent again; what had failed there is tried again."""
    scope = f"SCOPE_{options.scope.upper()}"
    last = (await client.get("/v1/documents", source=file.source, scope=scope, pageSize=1)).get("documents", [])
    if last and last[0]["sha256"] == sha256 and (outcome := await _as_before(client, file, last[0])):
        return outcome
    if options.policy == "keep_both":
        return None
    asked = {"sha256": sha256, "source": file.source, "scope": scope}
    document = (await client.post("/v1/documents:checkDuplicate", asked)).get("document", {})
    return _there(file, document) if document.get("sha256") == sha256 else None


async def _as_before(client: GatewayClient, file: ChosenFile, document: Json) -> Outcome | None:
    """What the file, whose bytes and source the document has, is by now; None if it must be sent after all."""
    match _state(document):
        case "FAILED" if document.get("stageError", {}).get("reason") == "ORIGINAL_MISSING":
            return None
        case "FAILED":
            document = await client.post(f"/v1/documents/{document['documentId']}:retry", {})
            return _told(Outcome(file, FAILED, document_id=document["documentId"]), document)
        case "SKIPPED":
            is_there = await _is_there(client, document["relatedDocumentId"])
            return _told(Outcome(file, SKIPPED, document_id=document["documentId"]), document) if is_there else None
        case "READY" if not document.get("isCurrent"):
            return None
        case _:
            return _there(file, document)


def _there(file: ChosenFile, document: Json) -> Outcome:
    return Outcome(file, _state(document), DUPLICATE_OF, document["documentId"])


async def _is_there(client: GatewayClient, document_id: str) -> bool:
    try:
        await client.get(f"/v1/documents/{document_id}")
    except GatewayError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return False
        raise
    return True


async def _sent(client: GatewayClient, file: ChosenFile, options: UploadOptions, watcher: Watcher) -> Outcome:
    said = options.query(file) | {"returnEarly": "true", "requestId": str(uuid4())}
    answer = await client.upload(file.path, said, _Shown(file, watcher))
    document = answer.get("document", {})
    not_kept = UNDECIDED if options.policy == "ask" else SKIPPED
    return Outcome(
        file,
        _state(document) if answer.get("kept") else not_kept,
        _verdict(answer),
        document.get("documentId", ""),
        answer.get("relatedDocumentId", ""),
    )


async def _followed(client: GatewayClient, outcome: Outcome, options: UploadOptions, watcher: Watcher) -> Outcome:
    """The outcome once the document has reached an end, or PENDING when nobody waits so long."""
    give_up = time.monotonic() + options.wait_seconds
    while outcome.state not in _ENDS and time.monotonic() < give_up:
        try:
            async with asyncio.timeout(give_up - time.monotonic()):
                await _watch(client, outcome, watcher)
        except TimeoutError:
            pass
        except GatewayError:
            # A watch may break off without harm: the document goes on by itself.
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        outcome = _told(outcome, await client.get(f"/v1/documents/{outcome.document_id}"))
    return outcome if outcome.state in _ENDS else replace(outcome, state=PENDING)


async def _watch(client: GatewayClient, outcome: Outcome, watcher: Watcher) -> None:
    async for _, progress in client.events("GET", f"/v1/documents/{outcome.document_id}:watch"):
        watcher.stage(outcome.file, _state(progress), int(progress.get("done", 0)), int(progress.get("total", 0)))


def _told(outcome: Outcome, document: Json) -> Outcome:
    """The outcome with what the document says of itself by now."""
    error = document.get("stageError", {})
    return replace(
        outcome,
        state=_state(document),
        verdict=outcome.verdict if outcome.verdict == DUPLICATE_OF else _verdict(document),
        related_document_id=document.get("relatedDocumentId", outcome.related_document_id),
        error_reason=error.get("reason", ""),
        message=error.get("message", ""),
    )


class _Shown(Sent):
    """Bytes that have left, shown as they go."""

    def __init__(self, file: ChosenFile, watcher: Watcher) -> None:
        super().__init__()
        self._file = file
        self._watcher = watcher

    def more(self, count: int) -> None:
        super().more(count)
        self._watcher.stage(self._file, "SENDING", self.done, self._file.size_bytes)


def _state(message: Json) -> str:
    return str(message.get("state", "")).removeprefix("DOCUMENT_STATE_")


def _verdict(message: Json) -> str:
    return str(message.get("verdict", "")).removeprefix("VERDICT_")
