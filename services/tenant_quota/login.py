"""People come in by e-mail address and password, and change passwords. Refusals look alike and take as long."""

from services.tenant_quota.model import PERMISSIONS, Session, forbid_escalation
from services.tenant_quota.passwords import PasswordHashing
from services.tenant_quota.sessions import Sessions
from shared.errors import FieldViolation, InvalidArgument, Unauthenticated


class Login:
    """The stories of a password."""

    def __init__(self, sessions: Sessions, hashing: PasswordHashing) -> None:
        self._sessions = sessions
        self._hashing = hashing

    async def open(self, email: str, password: str) -> tuple[Session, str]:
        """A session and its credential; Unauthenticated for whatever is wrong, LoginThrottled after too many tries."""
        address = email.strip().lower()
        await self._sessions.count_try(address)
        person = await self._sessions.person(address)
        is_right = await self._hashing.is_right(person.hash if person else None, password)
        if person is None or not is_right or not person.active:
            raise Unauthenticated
        opened = await self._sessions.open(person)
        if opened is None:
            raise Unauthenticated
        await self._sessions.forget_tries(address)
        return opened

    async def set_password(self, tenant_id: str, user_id: str, new: str, *, allowed: frozenset[str]) -> int:
        """Sets it without the old one and returns how many sessions were ended.

        NotFound when the tenant has no such user; PermissionDenied when that user may do more than `allowed`.
        """
        _, role = await self._sessions.email_and_role(tenant_id, user_id)
        forbid_escalation(PERMISSIONS[role], allowed)
        return await self._sessions.set_password(tenant_id, user_id, await self._hashing.hash(new))

    async def change_password(
        self, tenant_id: str, user_id: str, old: str, new: str, *, allowed: frozenset[str]
    ) -> int:
        """As set_password, when the old one is right: InvalidArgument when not, LoginThrottled after too many tries."""
        email, _ = await self._sessions.email_and_role(tenant_id, user_id)
        await self._sessions.count_try(email)
        person = await self._sessions.person(email)
        if not await self._hashing.is_right(person.hash if person else None, old):
            text = "is not the password so far"
            raise InvalidArgument(violations=[FieldViolation("old_password", text, "string.password")])
        await self._sessions.forget_tries(email)
        return await self.set_password(tenant_id, user_id, new, allowed=allowed)
