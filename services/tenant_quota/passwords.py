"""Passwords as argon2id hashes: slow on purpose, so beside the event loop and few at a time."""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import VerificationError

from shared.errors import Unavailable

# What OWASP recommends for one lane (more would be threads): 46 MiB and one pass, some 50 ms of a core.
MEMORY_KIBIBYTES = 47_104
PASSES = 1
# Most of them at once: 92 MiB and two cores at the worst, whatever comes.
AT_ONCE = 2
MOST_WAITING = 32

Result = TypeVar("Result")


class PasswordHashing:
    """Makes and checks hashes. A check takes as long for a user without a hash as for one who has one."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=PASSES, memory_cost=MEMORY_KIBIBYTES, parallelism=1, type=Type.ID)
        # Of a password that nobody has.
        self._dummy = self._hasher.hash(secrets.token_urlsafe(32))
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="argon2")
        self._under_way = 0

    async def hash(self, password: str) -> str:
        """A hash with its parameters and a fresh salt; Unavailable when too many wait."""
        return await self._beside_the_loop(lambda: self._hasher.hash(password))

    async def is_right(self, kept: str | None, password: str) -> bool:
        """Whether the password is the one that was hashed; never without a hash. Unavailable when too many wait."""
        matches = await self._beside_the_loop(lambda: self._matches(kept or self._dummy, password))
        return matches and kept is not None

    def close(self) -> None:
        """Lets what is under way end, and nothing else begin."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _matches(self, kept: str, password: str) -> bool:
        try:
            return self._hasher.verify(kept, password)
        except VerificationError:
            return False

    async def _beside_the_loop(self, work: Callable[[], Result]) -> Result:
        if self._under_way >= AT_ONCE + MOST_WAITING:
            raise Unavailable("too many passwords are being checked")
        self._under_way += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        future.add_done_callback(self._ended)
        return await future

    def _ended(self, _: object) -> None:
        self._under_way -= 1
