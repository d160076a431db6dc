"""One file's way into the library: recognised if it is there, sent if it is not, followed until search finds it."""

import asyncio
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from services.document_rag.commands.chosen_files import ChosenFile
from services.document_rag.commands.gateway_client import GatewayClient, GatewayError, Json, Sent

READY, FAILED, SKIPPED = "READY", "FAILED", "SKIPPED"
PENDING, UNDECIDED = "PENDING", "UNDECIDED"
NEW, DUPLICATE_OF = "NEW", "DUPLICATE_OF"

_ENDS = frozenset({READY, FAILED, SKIPPED})
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
            "filename": file.path.name,
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
        return await _known(client, file, sha256, options, watcher) or await _sent(
            client, file, sha256, options, watcher
        )
    except OSError as error:
        return Outcome(file, FAILED, message=error.strerror or str(error))
    except GatewayError as error:
        if error.concerns_every_call:
            raise
        return Outcome(file, FAILED, error_reason=error.reason, message=error.message)


async def _known(
    client: GatewayClient, file: ChosenFile, sha256: str, options: UploadOptions, watcher: Watcher
) -> Outcome | None:
    """What is there already is not sent again; what had failed there is tried again."""
    if options.policy == "keep_both":
        return None
    asked = {"sha256": sha256, "scope": f"SCOPE_{options.scope.upper()}"}
    document = (await client.post("/v1/documents:checkDuplicate", asked)).get("document", {})
    if document.get("sha256") != sha256:
        return None
    if _state(document) == FAILED:
        document = await client.post(f"/v1/documents/{document['documentId']}:retry", {})
    return await _followed(
        client, Outcome(file, _state(document), DUPLICATE_OF, document["documentId"]), options, watcher
    )


async def _sent(
    client: GatewayClient, file: ChosenFile, sha256: str, options: UploadOptions, watcher: Watcher
) -> Outcome:
    said = options.query(file)
    said |= {"returnEarly": "true", "requestId": _request_id(sha256, said)}
    answer = await client.upload(file.path, said, _Shown(file, watcher))
    document = answer.get("document", {})
    kept = bool(answer.get("kept"))
    outcome = Outcome(
        file,
        _state(document) if kept else UNDECIDED if options.policy == "ask" else SKIPPED,
        _short(answer.get("verdict", ""), "VERDICT_"),
        document.get("documentId", ""),
        answer.get("relatedDocumentId", ""),
    )
    return await _followed(client, outcome, options, watcher) if kept else outcome


async def _followed(client: GatewayClient, outcome: Outcome, options: UploadOptions, watcher: Watcher) -> Outcome:
    """The outcome once the document has reached an end, or PENDING when nobody waits so long."""
    if outcome.state in _ENDS:
        return outcome
    give_up = time.monotonic() + options.wait_seconds
    document: Json = {}
    while _state(document) not in _ENDS and time.monotonic() < give_up:
        try:
            async with asyncio.timeout(give_up - time.monotonic()):
                await _watch(client, outcome, watcher)
        except TimeoutError:
            pass
        except GatewayError:
            # A watch may break off without harm: the document goes on by itself.
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        document = await client.get(f"/v1/documents/{outcome.document_id}")
    return _ended(outcome, document)


async def _watch(client: GatewayClient, outcome: Outcome, watcher: Watcher) -> None:
    async for _, progress in client.events("GET", f"/v1/documents/{outcome.document_id}:watch"):
        watcher.stage(outcome.file, _state(progress), int(progress.get("done", 0)), int(progress.get("total", 0)))


def _ended(outcome: Outcome, document: Json) -> Outcome:
    state = _state(document)
    error = document.get("stageError", {})
    return Outcome(
        outcome.file,
        state if state in _ENDS else PENDING,
        outcome.verdict if outcome.verdict == DUPLICATE_OF else _short(document.get("verdict", ""), "VERDICT_"),
        outcome.document_id,
        document.get("relatedDocumentId", outcome.related_document_id),
        error.get("reason", ""),
        error.get("message", ""),
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


def _request_id(sha256: str, said: Mapping[str, str]) -> str:
    """The same for the same bytes described in the same way: whoever starts again begins nothing twice."""
    return "ingest-" + hashlib.sha256(json.dumps([sha256, said], sort_keys=True).encode()).hexdigest()[:40]


def _state(message: Json) -> str:
    return _short(message.get("state", ""), "DOCUMENT_STATE_")


def _short(name: str, prefix: str) -> str:
    return name.removeprefix(prefix)
