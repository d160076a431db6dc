"""The exchange of a credential for a short token."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from services.tenant_quota.credentials import Credentials
from services.tenant_quota.model import BACKGROUND_PERMISSIONS, Principal, Role
from services.tenant_quota.tenants import Tenants
from shared.caller import TokenSigner
from shared.clock import Clock, SystemClock
from shared.errors import NotFound, Unauthenticated


@dataclass(frozen=True, slots=True)
class Grant:
    """A signed token, when it ends (seconds since the epoch), and whom it stands for."""

    token: str = field(repr=False)
    expires_at: float
    principal: Principal


class Authenticator:
    """Recognises credentials and signs tokens, which live `lifetime_seconds`, for some roles as stated."""

    def __init__(
        self,
        credentials: Credentials,
        tenants: Tenants,
        signer: TokenSigner,
        lifetimes: Mapping[Role, float] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._credentials = credentials
        self._tenants = tenants
        self._signer = signer
        self._lifetimes = lifetimes or {}
        self._clock = clock or SystemClock()

    async def authenticate(self, text: str, tenant_id: str = "") -> Grant:
        """Unauthenticated, always in the same words, unless the credential is live, and so are its user and tenant.

        With a `tenant_id` the token is for an internal service that acts for that tenant; nobody else may name one.
        """
        # What is read may have been revoked by the time it is signed: the token's life begins with the question.
        asked_at = self._clock.now().timestamp()
        principal = await self._credentials.recognise(text)
        if principal is None:
            raise Unauthenticated
        if tenant_id:
            principal = await self._for_tenant(principal, tenant_id)
        token, expires_at = self._signer.sign(
            key_id=principal.key_id,
            tenant_id=principal.tenant_id,
            user_id=principal.user_id,
            scopes=principal.permissions,
            issued_at=asked_at,
            lifetime_seconds=self._lifetimes.get(principal.role),
        )
        return Grant(token, expires_at, principal)

    async def _for_tenant(self, principal: Principal, tenant_id: str) -> Principal:
        if principal.role is not Role.SERVICE:
            raise Unauthenticated
        try:
            tenant = await self._tenants.get(tenant_id)
        except NotFound:
            raise Unauthenticated from None
        if not tenant.active:
            raise Unauthenticated
        return replace(principal, tenant_id=tenant_id, permissions=principal.permissions & BACKGROUND_PERMISSIONS)
