"""TenantService: one RPC, one intent."""

from typing import Any

from prosa.tenant_quota.v1 import tenant_service_pb2 as pb
from prosa.tenant_quota.v1.tenant_service_pb2_grpc import TenantServiceServicer
from services.tenant_quota import wire
from services.tenant_quota.api_keys import ApiKeys, KeyWish, Rotation
from services.tenant_quota.authenticate import Authenticator
from services.tenant_quota.erasure import Erasure
from services.tenant_quota.model import (
    DEFAULT_TIME_ZONE,
    PERMISSIONS,
    Role,
    clean_email,
    clean_text,
    forbid_escalation,
)
from services.tenant_quota.tenancy import grantable, named_tenant
from services.tenant_quota.tenants import Tenants
from shared.identifiers import new_id
from shared.paging import page_size

# What both keys are accepted for after a rotation that says nothing else: a day for every program to change over.
OVERLAP_SECONDS = 86_400


class TenantHandlers(TenantServiceServicer):
    """Answers for tenants, users, keys, and who somebody is."""

    def __init__(
        self,
        tenants: Tenants,
        keys: ApiKeys,
        authenticator: Authenticator,
        erasure: Erasure,
        new_tenants_plan: str,
    ) -> None:
        self._new_tenants_plan = new_tenants_plan
        self._tenants = tenants
        self._keys = keys
        self._authenticator = authenticator
        self._erasure = erasure

    async def Authenticate(self, request: pb.AuthenticateRequest, _: Any) -> pb.AuthenticateResponse:
        """A credential for a token."""
        return wire.grant_message(await self._authenticator.authenticate(request.credential, request.tenant_id))

    async def CreateTenant(self, request: pb.CreateTenantRequest, _: Any) -> pb.Tenant:
        """A new tenant."""
        wire.checked(request)
        name = clean_text("display_name", request.display_name, 200)
        zone = request.time_zone.strip() or DEFAULT_TIME_ZONE
        plan_id = request.plan_id or self._new_tenants_plan
        tenant = await self._tenants.create(request.tenant_id or new_id(), name, zone, wire.replay(request), plan_id)
        return wire.tenant_message(tenant)

    async def GetTenant(self, request: pb.GetTenantRequest, _: Any) -> pb.Tenant:
        """A tenant."""
        return wire.tenant_message(await self._tenants.get(named_tenant(request.tenant_id)))

    async def ListTenants(self, request: pb.ListTenantsRequest, _: Any) -> pb.ListTenantsResponse:
        """All tenants."""
        size = page_size(request.page_size)
        before = wire.position(request.page_token, {"list": "tenants"}, str)
        found = await self._tenants.list(before, size + 1)
        shown, following = wire.page(found, size, {"list": "tenants"}, lambda each: (each.create_time, each.tenant_id))
        return pb.ListTenantsResponse(tenants=map(wire.tenant_message, shown), next_page_token=following)

    async def UpdateTenant(self, request: pb.UpdateTenantRequest, _: Any) -> pb.Tenant:
        """A tenant changed."""
        tenant_id = named_tenant(wire.checked(request).tenant_id)
        return wire.tenant_message(await self._tenants.update(tenant_id, wire.tenant_changes(request)))

    async def DeactivateTenant(self, request: pb.DeactivateTenantRequest, _: Any) -> pb.Tenant:
        """A tenant whose credentials are refused."""
        return wire.tenant_message(await self._tenants.deactivate(named_tenant(request.tenant_id)))

    async def ActivateTenant(self, request: pb.ActivateTenantRequest, _: Any) -> pb.Tenant:
        """A tenant whose credentials are accepted again."""
        return wire.tenant_message(await self._tenants.activate(named_tenant(request.tenant_id)))

    async def CreateUser(self, request: pb.CreateUserRequest, _: Any) -> pb.User:
        """A new user."""
        tenant_id = named_tenant(wire.checked(request).tenant_id)
        forbid_escalation(PERMISSIONS[Role(request.role)], grantable())
        name = clean_text("display_name", request.display_name, 200)
        email = clean_email("email", request.email)
        user_id = request.user_id or new_id()
        again = wire.replay(request)
        user = await self._tenants.create_user(tenant_id, user_id, name, email, Role(request.role), again)
        return wire.user_message(user)

    async def GetUser(self, request: pb.GetUserRequest, _: Any) -> pb.User:
        """A user."""
        tenant_id = named_tenant(wire.checked(request).tenant_id)
        return wire.user_message(await self._tenants.get_user(tenant_id, request.user_id))

    async def ListUsers(self, request: pb.ListUsersRequest, _: Any) -> pb.ListUsersResponse:
        """The users of a tenant."""
        query = {"list": "users", "tenant_id": named_tenant(request.tenant_id)}
        size = page_size(request.page_size)
        before = wire.position(request.page_token, query, str)
        found = await self._tenants.list_users(request.tenant_id, before, size + 1)
        shown, following = wire.page(found, size, query, lambda each: (each.create_time, each.user_id))
        return pb.ListUsersResponse(users=map(wire.user_message, shown), next_page_token=following)

    async def UpdateUser(self, request: pb.UpdateUserRequest, _: Any) -> pb.User:
        """A user changed."""
        tenant_id = named_tenant(wire.checked(request).tenant_id)
        changes = wire.user_changes(request)
        forbid_escalation(PERMISSIONS[Role(changes.get("role", Role.UNSPECIFIED))], grantable())
        return wire.user_message(await self._tenants.update_user(tenant_id, request.user_id, changes))

    async def EraseUser(self, request: pb.EraseUserRequest, _: Any) -> pb.EraseUserResponse:
        """A person gone, their sums kept."""
        tenant_id = named_tenant(wire.checked(request).tenant_id)
        return wire.erasure_message(await self._erasure.erase(tenant_id, request.user_id))

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, _: Any) -> pb.CreateApiKeyResponse:
        """A new key, with its secret this once."""
        tenant_id = named_tenant(wire.checked(request).tenant_id)
        expires, name = wire.optional_moment("expire_time", request), request.display_name.strip()
        wish = KeyWish(tenant_id, request.user_id, name, Role(request.role), tuple(request.scopes), expires)
        key, secret = await self._keys.create(wish, wire.replay(request), allowed=grantable())
        return pb.CreateApiKeyResponse(api_key=wire.api_key_message(key), secret=secret)

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, _: Any) -> pb.ListApiKeysResponse:
        """The keys of a tenant."""
        query = {"list": "api_keys", "tenant_id": named_tenant(request.tenant_id)}
        size = page_size(request.page_size)
        before = wire.position(request.page_token, query, str)
        found = await self._keys.list(request.tenant_id, before, size + 1)
        shown, following = wire.page(found, size, query, lambda each: (each.create_time, each.key_id))
        return pb.ListApiKeysResponse(api_keys=map(wire.api_key_message, shown), next_page_token=following)

    async def UpdateApiKey(self, request: pb.UpdateApiKeyRequest, _: Any) -> pb.ApiKey:
        """A key changed."""
        tenant_id = named_tenant(wire.checked(request).tenant_id)
        key = await self._keys.update(tenant_id, request.key_id, wire.key_changes(request))
        return wire.api_key_message(key)

    async def RotateApiKey(self, request: pb.RotateApiKeyRequest, _: Any) -> pb.RotateApiKeyResponse:
        """A key's successor, with its secret this once."""
        tenant_id = named_tenant(wire.checked(request).tenant_id)
        overlap = request.overlap_seconds if request.HasField("overlap_seconds") else OVERLAP_SECONDS
        rotation = Rotation(tenant_id, request.key_id, overlap, wire.optional_moment("expire_time", request))
        key, secret = await self._keys.rotate(rotation, wire.replay(request), allowed=grantable())
        return pb.RotateApiKeyResponse(api_key=wire.api_key_message(key), secret=secret)

    async def RevokeApiKey(self, request: pb.RevokeApiKeyRequest, _: Any) -> pb.ApiKey:
        """A key that is refused from now on."""
        tenant_id = named_tenant(wire.checked(request).tenant_id)
        return wire.api_key_message(await self._keys.revoke(tenant_id, request.key_id))
