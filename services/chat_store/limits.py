"""How much a conversation takes, and the refusal of more."""

from shared.errors import FieldViolation, InvalidArgument

MAX_METADATA_BYTES = 64 * 1024
# Of one message's text; what is larger than INLINE_BYTES is kept apart, and only its beginning stays in the message.
MAX_TEXT_BYTES = 20 * 1024 * 1024
INLINE_BYTES = 256 * 1024
BEGINNING_CHARACTERS = 4096
BODY_CHUNK_BYTES = 256 * 1024
# The stored messages come back in one response and in one event of the feed, each at most 4 MiB on the wire.
MAX_BATCH_BYTES = 3_500_000
# All texts of a batch, those that are kept apart included.
MAX_BATCH_TEXT_BYTES = 21 * 1024 * 1024
MAX_BATCH_MESSAGES = 100
MAX_PARTS = 64
MAX_ANALYSES = 100
MAX_REVISIONS = 1000
# A page of messages ends before it would pass this; a larger single message is a page of its own.
PAGE_BYTES = 2 * 1024 * 1024
PREVIEW_CHARACTERS = 200
# Sums over a conversation stay far inside 64 bits.
MAX_AMOUNT = 10**12


def check_metadata(text: str, path: str) -> None:
    """InvalidArgument when the JSON text is larger than a store keeps inline."""
    if len(text.encode()) > MAX_METADATA_BYTES:
        raise broken(path, f"must be at most {MAX_METADATA_BYTES} bytes as JSON", "metadata.max_bytes")


def broken(path: str, description: str, rule: str) -> InvalidArgument:
    """The refusal of a field that breaks a rule."""
    return InvalidArgument(f"{path} {description}", violations=[FieldViolation(path, description, rule)])
