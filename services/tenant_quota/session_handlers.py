"""SessionService: one RPC, one intent."""

from typing import Any

from prosa.tenant_quota.v1 import session_service_pb2 as pb
from prosa.tenant_quota.v1.session_service_pb2_grpc import SessionServiceServicer
from services.tenant_quota import session_wire, wire
from services.tenant_quota.login import Login
from services.tenant_quota.sessions import Sessions
from services.tenant_quota.tenancy import grantable, manages, named_tenant, own_tenant, visible_user
from shared.caller import current_caller
from shared.paging import page_size


class SessionHandlers(SessionServiceServicer):
    """Answers for passwords and the sessions they open."""

    def __init__(self, login: Login, sessions: Sessions) -> None:
        self._login = login
        self._sessions = sessions

    async def Login(self, request: pb.LoginRequest, _: Any) -> pb.LoginResponse:
        """A password for a session, with its credential this once."""
        session, credential = await self._login.open(wire.checked(request).email, request.password)
        return pb.LoginResponse(session=session_wire.session_message(session), credential=credential)

    async def Logout(self, _request: pb.LogoutRequest, _: Any) -> pb.Session:
        """The caller's session, ended."""
        caller = current_caller()
        session = await self._sessions.revoke(own_tenant(), caller.user_id, caller.key_id)
        return session_wire.session_message(session)

    async def ListSessions(self, request: pb.ListSessionsRequest, _: Any) -> pb.ListSessionsResponse:
        """A user's open sessions."""
        tenant_id = named_tenant(wire.checked(request).tenant_id)
        user_id = visible_user(request.user_id)
        query = {"list": "sessions", "tenant_id": tenant_id, "user_id": user_id}
        size = page_size(request.page_size)
        before = wire.position(request.page_token, query, str)
        found = await self._sessions.list(tenant_id, user_id, before, size + 1)
        shown, following = wire.page(found, size, query, lambda each: (each.create_time, each.session_id))
        return pb.ListSessionsResponse(sessions=map(session_wire.session_message, shown), next_page_token=following)

    async def RevokeSession(self, request: pb.RevokeSessionRequest, _: Any) -> pb.Session:
        """A session that is refused from now on."""
        tenant_id = named_tenant(wire.checked(request).tenant_id)
        user_id = visible_user(request.user_id)
        return session_wire.session_message(await self._sessions.revoke(tenant_id, user_id, request.session_id))

    async def SetPassword(self, request: pb.SetPasswordRequest, _: Any) -> pb.SetPasswordResponse:
        """A password set by whoever manages the tenant, or changed by its owner."""
        tenant_id = named_tenant(wire.checked(request).tenant_id)
        person, allowed = (tenant_id, visible_user(request.user_id)), grantable()
        if manages():
            ended = await self._login.set_password(*person, request.new_password, allowed=allowed)
        else:
            words = (request.old_password, request.new_password)
            ended = await self._login.change_password(*person, *words, allowed=allowed)
        return pb.SetPasswordResponse(revoked_sessions=ended)
