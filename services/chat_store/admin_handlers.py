"""AdminService: what a tenant's administrators decide and may know. The tenant is always the caller's own."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from prosa.chat_store.v1 import admin_service_pb2 as pb
from prosa.chat_store.v1 import admin_service_pb2_grpc as rpc
from services.chat_store.audit_trail import proofs, trail
from services.chat_store.pages import query_of
from services.chat_store.policies import Policies
from services.chat_store.privacy import erase, export
from services.chat_store.reach import reach_of
from services.chat_store.retention import Retention
from services.chat_store.selection import Reach
from services.chat_store.store import ChatStore
from services.chat_store.wire.admin import (
    audit_entry_to_proto,
    policy_changes,
    policy_to_proto,
    proof_to_proto,
    receipt_to_proto,
    record_to_proto,
    trail_position,
    trail_selection,
)
from shared.caller import current_caller
from shared.paging import page_position, page_size, page_token


class AdminHandler(rpc.AdminServiceServicer):
    """AdminService over any store; `status` tells how it is kept."""

    def __init__(
        self, store: ChatStore, policies: Policies, retention: Retention, status: Callable[[], pb.StoreStatus]
    ) -> None:
        self._store = store
        self._policies = policies
        self._retention = retention
        self._status = status

    async def GetPolicy(self, _request: pb.GetPolicyRequest, _: Any) -> pb.RetentionPolicy:
        return policy_to_proto(await self._policies.of(_tenant()))

    async def UpdatePolicy(self, request: pb.UpdatePolicyRequest, _: Any) -> pb.RetentionPolicy:
        return policy_to_proto(await self._policies.change(_tenant(), **policy_changes(request)))

    async def ExportUser(self, request: pb.ExportUserRequest, _: Any) -> AsyncIterator[pb.UserRecord]:
        async with aclosing(export(self._store, _tenant(), request.user_id)) as records:
            async for record in records:
                yield record_to_proto(record)

    async def EraseUser(self, request: pb.EraseUserRequest, _: Any) -> pb.ErasureReceipt:
        return receipt_to_proto(await erase(self._store, self._retention, _tenant(), request.user_id))

    async def ListAuditEntries(self, request: pb.ListAuditEntriesRequest, _: Any) -> pb.ListAuditEntriesResponse:
        # A caller without a tenant reads what callers without a tenant did.
        tenant_id = current_caller().tenant_id
        query = query_of(request, Reach(tenant_id, None))
        wanted = trail_selection(request, page_position(request.page_token, query), page_size(request.page_size))
        found = await trail(self._store.audit, tenant_id, wanted)
        return pb.ListAuditEntriesResponse(
            entries=map(audit_entry_to_proto, found.entries),
            next_page_token=page_token(query, trail_position(found.next)) if found.next else "",
        )

    async def VerifyAudit(self, _request: pb.VerifyAuditRequest, _: Any) -> AsyncIterator[pb.AuditProof]:
        async with aclosing(proofs(self._store.audit, current_caller().tenant_id)) as walked:
            async for proof in walked:
                yield proof_to_proto(proof)

    async def GetStoreStatus(self, _request: pb.GetStoreStatusRequest, _: Any) -> pb.StoreStatus:
        return self._status()


def _tenant() -> str:
    """PermissionDenied for a caller without one."""
    return reach_of(current_caller()).tenant_id
