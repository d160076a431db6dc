"""How things are named: time-ordered ids for what is new, stable ids for what follows from something else."""

import uuid

import uuid_utils

# The namespace of every derived id; changing it would make every retry look new.
_NAMESPACE = uuid.UUID("6f0d2a52-6c2e-5f0b-9d5f-70726f736131")


def new_id() -> str:
    """A fresh UUIDv7 in its canonical text form: ids made later sort later."""
    return str(uuid_utils.uuid7())


def derived_id(*parts: str) -> str:
    """The UUIDv5 of `parts`: the same parts give the same id, and ("ab", "c") differs from ("a", "bc")."""
    return str(uuid.uuid5(_NAMESPACE, "".join(f"{len(part)}:{part}" for part in parts)))
