"""The pair of keys that tests sign and verify access tokens with."""

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat


@dataclass(frozen=True)
class SigningKeys:
    """An Ed25519 pair in PEM: tenant_quota holds the private half, everybody the public one."""

    private_pem: str
    public_pem: str


def new_signing_keys() -> SigningKeys:
    """A pair nobody else has."""
    private = Ed25519PrivateKey.generate()
    return SigningKeys(
        private_pem=private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        public_pem=private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
    )
