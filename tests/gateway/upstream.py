# mypy: disable-error-code="abstract, no-untyped-def"
"""Stand-ins for the services behind the gateway, on the real server and wire: each id asks for a behaviour."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import ModuleType

import grpc
from google.api import httpbody_pb2
from google.protobuf import empty_pb2

from prosa.analytics.v1 import report_service_pb2 as reports
from prosa.analytics.v1 import report_service_pb2_grpc as reports_grpc
from prosa.chat_store.v1 import conversation_service_pb2 as chat
from prosa.chat_store.v1 import conversation_service_pb2_grpc as chat_grpc
from prosa.document_rag.v1 import assistant_service_pb2 as rag
from prosa.document_rag.v1 import assistant_service_pb2_grpc as rag_grpc
from prosa.document_rag.v1 import document_service_pb2 as documents
from prosa.document_rag.v1 import document_service_pb2_grpc as documents_grpc
from prosa.tenant_quota.v1 import quota_service_pb2 as quota
from prosa.tenant_quota.v1 import quota_service_pb2_grpc as quota_grpc
from prosa.tenant_quota.v1 import tenant_service_pb2 as tenants
from prosa.tenant_quota.v1 import tenant_service_pb2_grpc as tenants_grpc
from shared import errors
from shared.caller import TokenSigner, current_caller
from shared.server import Endpoint

SCOPES = frozenset(
    """assistants.ask assistants.read assistants.write conversations.list conversations.read conversations.write
    documents.read documents.write quota.read reports.read tenants.admin tenant.manage feed.read""".split()
)


@dataclass
class Seen:
    """What arrived behind the gateway."""

    requests: list[object] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    authentications: int = 0
    pieces: list[int] = field(default_factory=list)
    pause: float = 0.0

    def note(self, request: object, context: grpc.aio.ServicerContext) -> None:  # type: ignore[type-arg]
        """Keeps a request and what came with it."""
        self.requests.append(request)
        self.metadata.append({str(key): str(value) for key, value in context.invocation_metadata() or ()})

    async def wait_for_the_end(self) -> None:
        """Stays in the call until the call is cancelled."""
        self.started.set()
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


class Tenants(tenants_grpc.TenantServiceServicer):
    """Knows keys of the form pk_test_<user>; "pk_test_revoked" is refused, "pk_test_down" makes it unavailable."""

    def __init__(self, seen: Seen, signer: TokenSigner) -> None:
        self._seen = seen
        self._signer = signer

    async def Authenticate(self, request, context):
        self._seen.authentications += 1
        await asyncio.sleep(self._seen.pause)
        user = request.credential.removeprefix("pk_test_")
        if user == request.credential or user == "revoked":
            raise errors.Unauthenticated
        if user == "down":
            raise errors.Unavailable(dependency="postgresql")
        if user == "slow":
            await asyncio.sleep(20)
        token, expires = self._signer.sign(key_id="k", tenant_id="t", user_id=user, scopes=SCOPES)
        response = tenants.AuthenticateResponse(access_token=token)
        response.expire_time.FromSeconds(int(expires))
        return response

    async def UpdateTenant(self, request, context):
        self._seen.note(request, context)
        return request.tenant


class Quotas(quota_grpc.QuotaServiceServicer):
    """Echoes."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    async def SetQuota(self, request, context):
        self._seen.note(request, context)
        return request.quota

    async def ListLedger(self, request, context):
        self._seen.note(request, context)
        return quota.ListLedgerResponse()


class Conversations(chat_grpc.ConversationServiceServicer):
    """The conversation's id says what happens."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    async def GetConversation(self, request, context):
        self._seen.note(request, context)
        match request.conversation_id:
            case "missing":
                raise errors.NotFound("conversation", request.conversation_id)
            case "bug":
                raise RuntimeError("postgresql://user:secret@db")
            case "busy":
                raise errors.RequestInProgress
            case "over":
                raise errors.QuotaExceeded(retry_after_seconds=41.2)
            case "down":
                raise errors.Unavailable(dependency="mongodb")
            case "denied":
                raise errors.PermissionDenied("no", metadata={"permission": "x"})
            case "slow":
                await self._seen.wait_for_the_end()
            case _:
                pass
        return chat.Conversation(
            conversation_id=request.conversation_id,
            user_id=current_caller().user_id,
            message_count=9_007_199_254_740_993,
        )

    async def CreateConversation(self, request, context):
        self._seen.note(request, context)
        if request.title == "down":
            raise errors.Unavailable(dependency="mongodb")
        return chat.Conversation(
            conversation_id=request.conversation_id, title=request.title, metadata=request.metadata
        )

    async def AppendMessages(self, request, context):
        self._seen.note(request, context)
        return chat.AppendMessagesResponse(messages=request.messages)

    async def ListMessages(self, request, context):
        self._seen.note(request, context)
        return chat.ListMessagesResponse()


class Assistants(rag_grpc.AssistantServiceServicer):
    """The question says what happens."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    async def Ask(self, request, context) -> AsyncIterator[rag.AskEvent]:
        self._seen.note(request, context)
        if request.question == "refuse":
            raise errors.QuotaExceeded(retry_after_seconds=3)
        if request.question == "silent":
            await asyncio.sleep(1.2)
            raise errors.Unavailable(dependency="provider", reason="PROVIDER_FAILED")
        if request.question == "nothing":
            return
        yield rag.AskEvent(accepted=rag.Accepted(conversation_id="c", user_message_id="m", request_id="r"))
        yield rag.AskEvent(citation=rag.Citation(number=1, title="Coleta de lixo\nurbano"))
        if request.question == "break":
            raise errors.Unavailable(dependency="provider", reason="PROVIDER_FAILED")
        if request.question == "flood":
            try:
                for _ in range(100_000):
                    yield rag.AskEvent(text_delta=rag.TextDelta(text="x" * 8192))
            finally:
                self._seen.cancelled.set()
        if request.question == "hang":
            await self._seen.wait_for_the_end()
        for word in ("Às ", "7 ", "horas."):
            yield rag.AskEvent(text_delta=rag.TextDelta(text=word))
        yield rag.AskEvent(completed=rag.Completed(message_id="a", seq=2, model="extractive"))

    async def DeleteAssistant(self, request, context):
        self._seen.note(request, context)
        return empty_pb2.Empty()

    async def UpdateAssistant(self, request, context):
        self._seen.note(request, context)
        return request.assistant


FILE = bytes(range(256)) * 1024
FILE_SHA256 = hashlib.sha256(FILE).hexdigest()
PIECE_BYTES = 64 * 1024


class Documents(documents_grpc.DocumentServiceServicer):
    """Counts what is uploaded; the document's id says how its download goes, and else what it is called."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    async def UploadDocument(self, request_iterator, context):
        first: documents.UploadDocumentRequest | None = None
        size = 0
        self._seen.started.set()
        try:
            async for message in request_iterator:
                if first is None:
                    first = message
                    self._seen.note(message, context)
                    if message.title == "refuse":
                        raise errors.InvalidArgument("not a document", reason="DOCUMENT_UNREADABLE")
                await asyncio.sleep(self._seen.pause)
                self._seen.pieces.append(len(message.chunk))
                size += len(message.chunk)
        except asyncio.CancelledError:
            self._seen.cancelled.set()
            raise
        assert first is not None
        document = documents.Document(
            filename=first.filename, title=first.title, mime_type=first.mime_type, size_bytes=size
        )
        return documents.UploadDocumentResponse(document=document, verdict=documents.VERDICT_NEW)

    async def DownloadOriginal(self, request, context):
        self._seen.note(request, context)
        if request.document_id == "missing":
            raise errors.NotFound("document", request.document_id)
        if request.document_id == "nothing":
            return
        sizes = {"endless": 0, "unsized": 0, "break-unsized": 0, "short": len(FILE) + 1, "long": len(FILE) - 1}
        size = sizes.get(request.document_id, len(FILE))
        yield documents.DownloadOriginalResponse(
            filename=request.document_id, mime_type="application/pdf", size_bytes=size, sha256=FILE_SHA256
        )
        if request.document_id == "lost":
            raise errors.FailedPrecondition("the original is gone", reason="ORIGINAL_MISSING")
        if request.document_id == "endless":
            try:
                while True:
                    yield documents.DownloadOriginalResponse(chunk=FILE)
                    self._seen.pieces.append(len(FILE))
            finally:
                self._seen.cancelled.set()
        for start in range(0, len(FILE), PIECE_BYTES):
            yield documents.DownloadOriginalResponse(chunk=FILE[start : start + PIECE_BYTES])
            if request.document_id in ("break", "break-unsized"):
                raise errors.Unavailable(dependency="object_store")
            if request.document_id == "hang":
                await self._seen.wait_for_the_end()


class Reports(reports_grpc.ReportServiceServicer):
    """Answers with a file."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    async def ExportReport(self, request, context):
        self._seen.note(request, context)
        return httpbody_pb2.HttpBody(content_type="text/csv; charset=utf-8", data="dia;conversões\r\n".encode())


def endpoints(seen: Seen, signer: TokenSigner) -> list[Endpoint]:
    """All of them, to be served on one port."""

    return [
        Endpoint(
            tenants_grpc.add_TenantServiceServicer_to_server, Tenants(seen, signer), _name(tenants, "TenantService")
        ),
        Endpoint(quota_grpc.add_QuotaServiceServicer_to_server, Quotas(seen), _name(quota, "QuotaService")),
        Endpoint(
            chat_grpc.add_ConversationServiceServicer_to_server, Conversations(seen), _name(chat, "ConversationService")
        ),
        Endpoint(rag_grpc.add_AssistantServiceServicer_to_server, Assistants(seen), _name(rag, "AssistantService")),
        Endpoint(
            documents_grpc.add_DocumentServiceServicer_to_server, Documents(seen), _name(documents, "DocumentService")
        ),
        Endpoint(reports_grpc.add_ReportServiceServicer_to_server, Reports(seen), _name(reports, "ReportService")),
    ]


def _name(module: ModuleType, service: str) -> str:
    return str(module.DESCRIPTOR.services_by_name[service].full_name)
