"""Bytes of a text file → characters, in the encodings that Brazilian files come in."""

import re

from services.document_rag.documents.extracted import UnreadableError

_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")
_SPACES = re.compile(r"[^\S\n]+")
_EMPTY_LINES = re.compile(r"\n\s*\n+")
_SAMPLE_BYTES = 4096
_BROKEN_SHARE = 0.05


def decoded(content: bytes, *, declared: str = "") -> str:
    """The bytes as text: byte order mark, declared charset, UTF-8, UTF-16 without a mark, else Windows-1252.

    A UTF-8 text with a few broken bytes keeps the rest. UnreadableError for what is no text at all.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return lines(content.decode(encoding, errors="replace"))
    if b"\0" in content:
        return lines(content.decode(_wide_encoding(content), errors="replace"))
    for encoding in filter(None, (declared, "utf-8")):
        try:
            return lines(content.decode(encoding))
        except (UnicodeDecodeError, LookupError):
            continue
    mended = content.decode("utf-8", errors="replace")
    if mended.count("\ufffd") <= _BROKEN_SHARE * sum(letter > "\x7f" for letter in mended):
        return lines(mended)
    return lines(content.decode("cp1252", errors="replace"))


def lines(text: str) -> str:
    """The text with plain line ends and without control characters."""
    return _CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def tidied(text: str) -> str:
    """The text without control characters, runs of spaces and runs of empty lines."""
    trimmed = (_SPACES.sub(" ", line).strip() for line in _CONTROLS.sub("", text).split("\n"))
    return _EMPTY_LINES.sub("\n\n", "\n".join(trimmed)).strip()


def on_one_line(text: str) -> str:
    """The text with every run of white space as one space."""
    return " ".join(_CONTROLS.sub("", text).split())


def _wide_encoding(content: bytes) -> str:
    """Latin letters in UTF-16 are pairs with a NUL in one of two places; anything else with a NUL is no text."""
    sample = content[:_SAMPLE_BYTES] if len(content) % 2 == 0 else b""
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if odd > 0.7 * len(sample[1::2]) and even == 0:
        return "utf-16-le"
    if even > 0.7 * len(sample[::2]) and odd == 0:
        return "utf-16-be"
    raise UnreadableError("the file holds NUL bytes: it is damaged, or a binary file of a type that is not supported")
