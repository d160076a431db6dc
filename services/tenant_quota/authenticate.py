"""The exchange of a credential for a short token."""

from dataclasses import dataclass, field

from services.tenant_quota.api_keys import ApiKeys
from services.tenant_quota.model import Principal, parse_secret
from shared.caller import TokenSigner
from shared.errors import Unauthenticated


@dataclass(frozen=True, slots=True)
class Grant:
    """A signed token, when it ends (seconds since the epoch), and whom it stands for."""

    token: str = field(repr=False)
    expires_at: float
    principal: Principal


class Authenticator:
    """Recognises credentials and signs tokens."""

    def __init__(self, keys: ApiKeys, signer: TokenSigner) -> None:
        self._keys = keys
        self._signer = signer

    async def authenticate(self, text: str) -> Grant:
        """Unauthenticated, always in the same words, unless a live key of an active user and tenant was presented."""
        credential = parse_secret(text)
        principal = await self._keys.principal(credential) if credential else None
        if principal is None:
            raise Unauthenticated
        token, expires_at = self._signer.sign(
            key_id=principal.key_id,
            tenant_id=principal.tenant_id,
            user_id=principal.user_id,
            scopes=principal.permissions,
        )
        return Grant(token, expires_at, principal)
