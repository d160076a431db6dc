"""Who is calling: the one identity mechanism of the house.

A credential is exchanged at tenant_quota for a short token (JWT, EdDSA); every service verifies it with the
public key. The interceptor puts the caller where `current_caller()` finds it; nothing else tells who calls.
"""

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from pydantic import SecretStr

from shared.clock import Clock, SystemClock
from shared.config import CannotStartError
from shared.errors import Unauthenticated
from shared.identifiers import new_id

ISSUER = "prosa"
AUDIENCE = "prosa"
ALGORITHM = "EdDSA"

ACT_AS = "act_as"

# A token is good for this much longer than it says: two machines' clocks differ. A token of 4 s, this, and a clock
# that is behind by as much make 5 s, within which whoever was revoked is refused everywhere.
LEEWAY_SECONDS = 0.5
# A clock that is behind may see a token from this far in the future; it only delays the end.
EARLY_SECONDS = 5.0
# How long past its end a token may still name the subject of an internal call: a long stream must finish.
SUBJECT_GRACE_SECONDS = 15 * 60.0
VERIFIED_TOKENS_KEPT = 4096

_ONE_PEM = re.compile(r"-----BEGIN .+?-----END [A-Z ]+-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Caller:
    """A verified caller: `tenant_id` is "" for platform and service keys, `user_id` for anonymous end users.

    `token` is what proved it, kept only to be passed on; `expires_at` is in seconds since the epoch. `through` is the
    key of the service that calls for them, "" when they call themselves.
    """

    tenant_id: str
    user_id: str
    key_id: str
    scopes: frozenset[str]
    token: str = field(repr=False)
    expires_at: float
    through: str = ""

    def may(self, permission: str) -> bool:
        """Whether the caller holds the permission."""
        return permission in self.scopes


class NoCallerError(LookupError):
    """current_caller() was asked outside of a call: a programming error, never shown to a client."""


_current: ContextVar[Caller] = ContextVar("prosa_caller")


def current_caller() -> Caller:
    """The verified caller of the RPC in progress; NoCallerError outside of one and in public methods."""
    try:
        return _current.get()
    except LookupError:
        raise NoCallerError("there is no caller here: not inside an RPC, or the method is public") from None


def caller_or_none() -> Caller | None:
    """The verified caller, or None where nobody is calling (background work, public methods)."""
    return _current.get(None)


@contextmanager
def acting_as(caller: Caller) -> Iterator[None]:
    """Makes `caller` the current one inside the block: for the interceptor, background work and tests."""
    before = _current.set(caller)
    try:
        yield
    finally:
        _current.reset(before)


def become(caller: Caller) -> None:
    """Makes `caller` the current one for the rest of this task; an RPC is a task of its own."""
    _current.set(caller)


def on_behalf(actor: Caller, subject: Caller) -> Caller:
    """The effective caller of an internal call: tenant and user of the subject, scopes of the actor."""
    return Caller(
        tenant_id=subject.tenant_id,
        user_id=subject.user_id,
        key_id=subject.key_id,
        scopes=actor.scopes,
        token=subject.token,
        expires_at=subject.expires_at,
        through=actor.key_id,
    )


class TokenSigner:
    """Issues tokens; only tenant_quota holds the private key. CannotStartError when it is no Ed25519 key."""

    def __init__(self, private_key_pem: SecretStr, lifetime_seconds: float = 60.0, clock: Clock | None = None) -> None:
        self._key = _private_key(private_key_pem.get_secret_value())
        self._lifetime_seconds = lifetime_seconds
        self._clock = clock or SystemClock()

    def sign(
        self,
        *,
        key_id: str,
        tenant_id: str,
        user_id: str,
        scopes: Iterable[str],
        issued_at: float | None = None,
        lifetime_seconds: float | None = None,
    ) -> tuple[str, float]:
        """A token for this principal and the second (since the epoch, to the millisecond) at which it ends.

        Its life begins at `issued_at`, now when None, and lasts as the signer was told when `lifetime_seconds` is None.
        """
        issued = round(self._clock.now().timestamp() if issued_at is None else issued_at, 3)
        expires = round(issued + (self._lifetime_seconds if lifetime_seconds is None else lifetime_seconds), 3)
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": key_id,
            "tenant": tenant_id,
            "user": user_id,
            "scopes": sorted(scopes),
            "iat": issued,
            "exp": expires,
            "jti": new_id(),
        }
        return jwt.encode(claims, self._key, algorithm=ALGORITHM), expires


class TokenVerifier:
    """Checks tokens against the public keys and remembers the good ones until they end.

    One key, or several while the signing key is being changed: one PEM behind the other.
    """

    def __init__(self, public_key_pem: str, clock: Clock | None = None) -> None:
        self._keys = [_public_key(pem) for pem in _ONE_PEM.findall(public_key_pem) or [public_key_pem]]
        self._clock = clock or SystemClock()
        self._verified: OrderedDict[str, Caller] = OrderedDict()

    def verify(self, token: str) -> Caller:
        """The caller behind a live token; Unauthenticated with CREDENTIALS_INVALID or CREDENTIALS_EXPIRED."""
        return self._live(token, LEEWAY_SECONDS)

    def verify_subject(self, token: str) -> Caller:
        """As `verify`, up to 15 minutes past the end: only for the subject named by a verified actor."""
        return self._live(token, SUBJECT_GRACE_SECONDS)

    def _live(self, token: str, grace_seconds: float) -> Caller:
        caller = self._verified.get(token)
        if caller is None:
            caller = self._remembered(token, self._decoded(token))
        late = self._clock.now().timestamp() - caller.expires_at
        if late >= grace_seconds:
            if late >= SUBJECT_GRACE_SECONDS:
                self._verified.pop(token, None)
            raise Unauthenticated("the credentials have expired", reason="CREDENTIALS_EXPIRED")
        return caller

    def _remembered(self, token: str, caller: Caller) -> Caller:
        self._verified[token] = caller
        if len(self._verified) > VERIFIED_TOKENS_KEPT:
            self._verified.popitem(last=False)
        return caller

    def _decoded(self, token: str) -> Caller:
        """Everything but the expiry, which is asked again on every use."""
        for key in self._keys:
            try:
                return self._caller(token, _claims(token, key))
            except jwt.InvalidSignatureError:
                continue
            except jwt.PyJWTError:
                break
        raise Unauthenticated

    def _caller(self, token: str, claims: dict[str, object]) -> Caller:
        subject, tenant, user = claims["sub"], claims.get("tenant"), claims.get("user")
        scopes, issued, expires = claims.get("scopes"), claims["iat"], claims["exp"]
        latest = self._clock.now().timestamp() + EARLY_SECONDS
        if not (
            isinstance(subject, str)
            and subject
            and isinstance(tenant, str)
            and isinstance(user, str)
            and isinstance(scopes, list)
            and all(isinstance(scope, str) for scope in scopes)
            and _is_time(issued)
            and _is_time(expires)
            and _seconds(issued) <= latest
            and _seconds(claims.get("nbf", 0)) <= latest
        ):
            raise Unauthenticated
        return Caller(
            tenant_id=tenant,
            user_id=user,
            key_id=subject,
            scopes=frozenset(scopes),
            token=token,
            expires_at=_seconds(expires),
        )


def _claims(token: str, key: Ed25519PublicKey) -> dict[str, object]:
    claims: dict[str, object] = jwt.decode(
        token,
        key,
        algorithms=[ALGORITHM],
        audience=AUDIENCE,
        issuer=ISSUER,
        options={
            "require": ["exp", "iat", "aud", "iss", "sub"],
            "strict_aud": True,
            # Time is judged by the verifier, by its clock.
            "verify_exp": False,
            "verify_iat": False,
            "verify_nbf": False,
        },
    )
    return claims


def _private_key(pem: str) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it has a password
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise CannotStartError("the signing key must be an Ed25519 private key in PEM, without a password")
    return key


def _public_key(pem: str) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise CannotStartError("PROSA_TOKEN_PUBLIC_KEY must be an Ed25519 public key in PEM")
    return key


def _is_time(claim: object) -> bool:
    return isinstance(claim, int | float) and not isinstance(claim, bool)


def _seconds(claim: object) -> float:
    """A time claim in seconds; what is not a number lies in the far future, so it is refused."""
    return float(claim) if isinstance(claim, int | float) else float("inf")
