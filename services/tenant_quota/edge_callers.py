"""Who is at the edge: the proxy, by its secret; and its clients, by the Authorization header that it hands on."""

import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from pydantic import SecretStr

from services.tenant_quota.model import Principal, parse_secret
from services.tenant_quota.rates import Subject, concerned
from shared.caller import Caller, TokenVerifier
from shared.clock import Clock
from shared.errors import Unauthenticated

CHECK = "rates.check"
KNOWN_SECONDS = 5.0
MOST_KNOWN = 10_000

Subjects = tuple[Subject, ...]


class EdgeVerifier(TokenVerifier):
    """Knows the edge too, by its secret: a proxy can send what it was configured with, and renews no token.

    The secret opens nothing but the question whether a request is over a limit.
    """

    def __init__(self, public_key_pem: str, secret: SecretStr, clock: Clock | None = None) -> None:
        super().__init__(public_key_pem, clock)
        self._secret = secret.get_secret_value().encode()

    def verify(self, token: str) -> Caller:
        """As TokenVerifier.verify; the edge is a caller without tenant that may only check rates."""
        if self._secret and hmac.compare_digest(token.encode(), self._secret):
            return Caller("", "", "edge", frozenset({CHECK}), token="", expires_at=float("inf"))
        return super().verify(token)


class EdgeCallers:
    """Whom an Authorization header stands for: at once for tokens; keys and sessions are known for 5 seconds."""

    def __init__(
        self,
        verifier: TokenVerifier,
        recognise: Callable[[str], Awaitable[Principal | None]],
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._verifier = verifier
        self._recognise = recognise
        self._now = now
        self._known: OrderedDict[bytes, tuple[Subjects, float]] = OrderedDict()

    async def subjects(self, header: str) -> Subjects:
        """Whose limits concern the client; nobody's when nobody stands behind it: whoever it is sent on to says so.

        Unavailable when PostgreSQL is away and the credential is not known.
        """
        scheme, _, token = header.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer":
            return ()
        return await self._presented(token) if parse_secret(token) else self._signed(token)

    def _signed(self, token: str) -> Subjects:
        try:
            caller = self._verifier.verify(token)
        except Unauthenticated:
            return ()
        return _subjects(caller.tenant_id, caller.user_id, caller.key_id)

    async def _presented(self, secret: str) -> Subjects:
        digest, now = hashlib.sha256(secret.encode()).digest(), self._now()
        subjects, known_at = self._known.get(digest, ((), -KNOWN_SECONDS))
        if digest in self._known and now - known_at <= KNOWN_SECONDS:
            return subjects
        principal = await self._recognise(secret)
        subjects = _subjects(principal.tenant_id, principal.user_id, principal.key_id) if principal else ()
        self._known[digest] = subjects, now
        self._known.move_to_end(digest)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return subjects


def _subjects(tenant_id: str, user_id: str, key_id: str) -> Subjects:
    return tuple(concerned(tenant_id, user_id, key_id)) if tenant_id else ()
