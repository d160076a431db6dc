"""Any method of any service, called straight over gRPC by its descriptor."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from prosa.analytics.v1 import admin_service_pb2 as analytics_admin_pb2
from prosa.analytics.v1 import agreement_service_pb2, analysis_service_pb2, metrics_service_pb2, report_service_pb2
from prosa.chat_store.v1 import (
    admin_service_pb2,
    conversation_service_pb2,
    event_service_pb2,
    feed_service_pb2,
    task_service_pb2,
)
from prosa.common.v1 import access_pb2
from prosa.document_rag.v1 import (
    assistant_service_pb2,
    chunk_service_pb2,
    collection_service_pb2,
    document_service_pb2,
    search_service_pb2,
    team_service_pb2,
)
from prosa.tenant_quota.v1 import (
    plan_service_pb2,
    quota_service_pb2,
    session_service_pb2,
    signal_service_pb2,
    tenant_service_pb2,
    usage_service_pb2,
)
from tests.house.processes import REPOSITORY

CONTRACTS = (
    tenant_service_pb2,
    quota_service_pb2,
    plan_service_pb2,
    signal_service_pb2,
    usage_service_pb2,
    session_service_pb2,
    conversation_service_pb2,
    task_service_pb2,
    event_service_pb2,
    feed_service_pb2,
    admin_service_pb2,
    document_service_pb2,
    chunk_service_pb2,
    collection_service_pb2,
    search_service_pb2,
    assistant_service_pb2,
    team_service_pb2,
    report_service_pb2,
    agreement_service_pb2,
    analysis_service_pb2,
    metrics_service_pb2,
    analytics_admin_pb2,
)
Headers = tuple[tuple[str, str], ...]
STREAM_SECONDS = 3.0
UNARY_SECONDS = 20.0


def all_methods() -> list[MethodDescriptor]:
    """Every RPC of every contract."""
    return [
        method
        for contract in CONTRACTS
        for service in contract.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]


def contract_files() -> set[str]:
    """Every contract with a service that lies in protos/, whether or not it is listed above."""
    protos = REPOSITORY / "protos"
    return {
        path.relative_to(protos).as_posix()
        for path in (protos / "prosa").rglob("*.proto")
        if "\nservice " in path.read_text()
    }


def service_of(method: MethodDescriptor) -> str:
    """The process that serves it: "chat_store", …"""
    return str(method.full_name.split(".")[1])


def is_public(method: MethodDescriptor) -> bool:
    """Whether it needs no caller."""
    return bool(method.GetOptions().Extensions[access_pb2.access].public)


def request_of(method: MethodDescriptor, fields: dict[str, Any]) -> Message:
    """A request of the method."""
    return message_factory.GetMessageClass(method.input_type)(**fields)


@dataclass(frozen=True)
class Outcome:
    """What a call came to: its code, its status details, and every byte that came back."""

    code: grpc.StatusCode
    status: status_pb2.Status | None
    received: bytes

    @property
    def reason(self) -> str:
        """ErrorInfo.reason, or ""."""
        info = error_details_pb2.ErrorInfo()
        return info.reason if self.status and any(detail.Unpack(info) for detail in self.status.details) else ""

    def without(self, *names: str) -> bytes:
        """The status's bytes without the ids asked for and the trace of the call: to compare two refusals."""
        assert self.status is not None
        kept = status_pb2.Status(code=self.status.code, message=self.status.message)
        for detail in self.status.details:
            if not detail.Is(error_details_pb2.RequestInfo.DESCRIPTOR):
                kept.details.add().CopyFrom(detail)
        raw: bytes = kept.SerializeToString(deterministic=True)
        for name in names:
            raw = raw.replace(name.encode(), b"?" * len(name))
        return raw


def call(target: str, method: MethodDescriptor, requests: Iterable[bytes], token: str = "", **metadata: str) -> Outcome:
    """Calls the method with raw request bytes; reads a stream until it ends or for three seconds."""
    own = {"authorization": f"Bearer {token}"} if token else {}
    headers: Headers = tuple({**own, **{name.replace("_", "-"): value for name, value in metadata.items()}}.items())
    path = f"/{method.containing_service.full_name}/{method.name}"
    received = b""
    with grpc.insecure_channel(target) as channel:
        try:
            for response in _responses(channel, path, method, requests, headers):
                received += response
        except grpc.RpcError as error:
            if method.server_streaming and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return Outcome(grpc.StatusCode.OK, None, received)
            trailers = str(error.trailing_metadata()).encode()
            return Outcome(error.code(), rpc_status.from_call(error), received + trailers)
    return Outcome(grpc.StatusCode.OK, None, received)


def _responses(
    channel: Any, path: str, method: MethodDescriptor, requests: Iterable[bytes], headers: Headers
) -> Iterator[bytes]:
    if method.server_streaming:
        yield from channel.unary_stream(path)(next(iter(requests)), metadata=headers, timeout=STREAM_SECONDS)
    elif method.client_streaming:
        yield channel.stream_unary(path)(iter(requests), metadata=headers, timeout=UNARY_SECONDS)
    else:
        yield channel.unary_unary(path)(next(iter(requests)), metadata=headers, timeout=UNARY_SECONDS)
