"""The secrets of an all-in-one run, made on the first start and kept for the directory's owner alone."""

import secrets
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from deploy.local.data_directory import FileUnreadableError, read_json, write_json
from services.tenant_quota.model import new_secret

FILE = "secrets.json"


@dataclass(frozen=True)
class Keyring:
    """What the services share with each other and with nobody else."""

    signing_private_pem: str = field(repr=False)
    signing_public_pem: str
    pepper: str = field(repr=False)
    admin_key: str = field(repr=False)
    service_key: str = field(repr=False)


def keyring_in(directory: Path) -> Keyring:
    """The directory's keyring; made now if there is none. FileUnreadableError when its file is not whole."""
    path = directory / FILE
    kept = read_json(path)
    if not kept:
        kept = asdict(_new_keyring())
        write_json(path, kept)
    if kept.keys() != {each.name for each in fields(Keyring)}:
        raise FileUnreadableError(path, "is not as it was written")
    return Keyring(**kept)


def _new_keyring() -> Keyring:
    private = Ed25519PrivateKey.generate()
    public = private.public_key()
    return Keyring(
        signing_private_pem=private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        signing_public_pem=public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
        pepper=secrets.token_urlsafe(32),
        admin_key=new_secret("local"),
        service_key=new_secret("local"),
    )
