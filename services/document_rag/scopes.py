"""Whose documents a caller reads and writes: those of its tenant, and those of the global library."""

from services.document_rag.model import GLOBAL_LIBRARY, Scope
from shared.caller import Caller
from shared.errors import PermissionDenied

WRITE_LIBRARY = "library.write"


def reading_tenant(caller: Caller) -> str:
    """The tenant as which the caller reads; the platform, which has no documents of its own, reads the library."""
    return caller.tenant_id or GLOBAL_LIBRARY


def tenant_read(caller: Caller, scope: Scope) -> str:
    """The tenant whose documents a list of one scope is of."""
    return GLOBAL_LIBRARY if scope is Scope.GLOBAL else reading_tenant(caller)


def writing_tenant(caller: Caller, scope: Scope = Scope.TENANT) -> str:
    """The tenant as which the caller writes. PermissionDenied for the library without library.write, and for the
    platform where a tenant's own documents are meant."""
    if scope is Scope.GLOBAL:
        if not caller.may(WRITE_LIBRARY):
            raise PermissionDenied(
                "only the platform writes the global library", metadata={"permission": WRITE_LIBRARY}
            )
        return GLOBAL_LIBRARY
    if not caller.tenant_id:
        raise PermissionDenied("the platform has no documents of its own: the scope must be GLOBAL")
    return caller.tenant_id


def home_of_writes(caller: Caller) -> str:
    """Where a caller that names no scope may change what it names by id: the platform the library, others their own."""
    return writing_tenant(caller, Scope.TENANT if caller.tenant_id else Scope.GLOBAL)
