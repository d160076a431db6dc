"""Who calls: the secret of a key or a session becomes a token of tenant_quota, remembered for seconds; a token goes on
as it is.

The services verify tokens; nothing here decides who may do what. While tenant_quota is down nobody new gets in.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from shared.clock import Clock
from shared.errors import InvalidArgument, Unauthenticated

SECRET_PREFIXES = ("pk_", "ps_")
MAX_CREDENTIAL_LENGTH = 4096
# A token is not handed on when it would lapse on its way, all attempts of a call included.
TOKEN_MARGIN_SECONDS = 1.0
# From this share of its use on, a token that is asked for is renewed beside the call, which does not wait.
RENEW_AT_SHARE = 2 / 3


@dataclass(frozen=True, slots=True)
class Token:
    """An access token and the second (since the epoch) at which it lapses."""

    value: str
    expires_at: float


AskForToken = Callable[[str], Awaitable[Token]]
"""Asks tenant_quota for a token; Unauthenticated for a key that is not accepted, Unavailable when it cannot."""


@dataclass(frozen=True, slots=True)
class _Remembered:
    outcome: Token | Unauthenticated
    until: float
    renew_at: float


class Credentials:
    """Turns what a request carries into the token the services want."""

    def __init__(
        self, ask: AskForToken, clock: Clock, *, cache_seconds: float, refusal_seconds: float, cache_size: int
    ) -> None:
        self._ask_for_token = ask
        self._clock = clock
        self._cache_seconds = cache_seconds
        self._refusal_seconds = refusal_seconds
        self._size = cache_size
        # Apart, so that a flood of invented keys drives no good one out.
        self._accepted: OrderedDict[bytes, _Remembered] = OrderedDict()
        self._refused: OrderedDict[bytes, _Remembered] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Token]] = {}

    async def token(self, headers: Mapping[str, str]) -> str:
        """The access token behind the request; Unauthenticated: CREDENTIALS_MISSING or CREDENTIALS_INVALID."""
        credential, is_key = _presented(headers)
        if not is_key:
            return credential
        digest = hashlib.sha256(credential.encode()).digest()
        known = self._known(digest)
        if known is None:
            return (await asyncio.shield(self._single_flight(digest, credential))).value
        if self._now() >= known.renew_at:
            self._single_flight(digest, credential)
        if isinstance(known.outcome, Unauthenticated):
            refusal = known.outcome
            raise Unauthenticated(refusal.message, reason=refusal.reason, metadata=refusal.metadata)
        return known.outcome.value

    def _known(self, digest: bytes) -> _Remembered | None:
        now = self._now()
        for cache in (self._accepted, self._refused):
            found = cache.get(digest)
            if found is not None and now < found.until:
                return found
        return None

    def _single_flight(self, digest: bytes, credential: str) -> asyncio.Task[Token]:
        """One question for all who wait for the same answer; it outlives the one who asked first."""
        task = self._asking.get(digest)
        if task is None:
            task = asyncio.create_task(self._ask(digest, credential))
            self._asking[digest] = task
            task.add_done_callback(lambda done: self._answered(digest, done))
        return task

    def _answered(self, digest: bytes, task: asyncio.Task[Token]) -> None:
        self._asking.pop(digest, None)
        if not task.cancelled():
            task.exception()  # those who waited have seen it; nobody may be left

    async def _ask(self, digest: bytes, credential: str) -> Token:
        asked_at = self._now()  # the key may have been revoked while the answer was on its way
        try:
            token = await self._ask_for_token(credential)
        except (Unauthenticated, InvalidArgument) as error:
            refusal = error if isinstance(error, Unauthenticated) else Unauthenticated()
            until = self._now() + self._refusal_seconds
            self._remember(self._refused, digest, _Remembered(refusal, until, renew_at=until))
            self._accepted.pop(digest, None)
            raise refusal from None
        until = min(asked_at + self._cache_seconds, token.expires_at - TOKEN_MARGIN_SECONDS)
        renew_at = asked_at + (until - asked_at) * RENEW_AT_SHARE
        self._remember(self._accepted, digest, _Remembered(token, until, renew_at))
        return token

    def _remember(self, cache: OrderedDict[bytes, _Remembered], digest: bytes, what: _Remembered) -> None:
        cache[digest] = what
        cache.move_to_end(digest)
        while len(cache) > self._size:
            cache.popitem(last=False)

    def _now(self) -> float:
        return self._clock.now().timestamp()


def _presented(headers: Mapping[str, str]) -> tuple[str, bool]:
    """The credential and whether it is a secret to exchange; `authorization` goes before `x-api-key`."""
    if "authorization" in headers:
        scheme, _, credential = headers["authorization"].partition(" ")
        credential = credential.strip()
        if scheme.lower() != "bearer":
            raise Unauthenticated
        is_key = credential.startswith(SECRET_PREFIXES)
    elif "x-api-key" in headers:
        credential, is_key = headers["x-api-key"].strip(), True
    else:
        raise Unauthenticated("no credentials were given", reason="CREDENTIALS_MISSING")
    if not credential or len(credential) > MAX_CREDENTIAL_LENGTH or not _is_visible_ascii(credential):
        raise Unauthenticated
    return credential, is_key


def _is_visible_ascii(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text
