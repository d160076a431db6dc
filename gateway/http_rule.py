"""The path templates of google.api.http: a pure grammar, with no HTTP and no protobuf in sight.

Template  = "/" Segments [ ":" LITERAL ]
Segments  = Segment { "/" Segment }
Segment   = "*" | "**" | LITERAL | "{" FieldPath [ "=" Segments ] "}"
FieldPath = IDENT { "." IDENT }
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias
from urllib.parse import unquote_to_bytes


class TemplateError(ValueError):
    """The text is no path template; the message says where it goes wrong."""


class Wildcard(Enum):
    """A place for what the client writes."""

    ONE = "*"
    """Exactly one segment, never empty."""

    REST = "**"
    """Any number of segments, also none; only at the end of a template."""


Segment: TypeAlias = str | Wildcard


@dataclass(frozen=True, slots=True)
class Variable:
    """A field that takes the segments `start` to `end` of a path; `end` is None when it takes the rest."""

    field_path: str
    start: int
    end: int | None


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template; `text` is how it was written."""

    text: str
    segments: tuple[Segment, ...]
    variables: tuple[Variable, ...]
    verb: str

    def bind(self, segments: list[str]) -> dict[str, str]:
        """Field path → value, from the raw (still percent-encoded) segments of a path that matches.

        A variable of one segment is decoded whole; in one of several, "%2F" stays, for it is no separator.
        UnicodeDecodeError when the decoded bytes are no UTF-8.
        """
        return {variable.field_path: self._value(variable, segments) for variable in self.variables}

    def _value(self, variable: Variable, segments: list[str]) -> str:
        taken = segments[variable.start : variable.end]
        if variable.end == variable.start + 1:
            return _decoded(taken[0])
        return "/".join(_decoded(part, keep_slash=True) for part in taken)


_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LITERAL = re.compile(r"[A-Za-z0-9._~!$&'()+,;@%-]+")
_SLASH = re.compile(r"(%2[Ff])")


def parse(text: str) -> Template:
    """The template written in `text`; TemplateError when it is none."""
    return _Parser(text).template()


def split_path(raw_path: str) -> list[str]:
    """The segments of a raw request path, still percent-encoded."""
    return raw_path.removeprefix("/").split("/")


def matches(template: Template, segments: list[str]) -> list[str] | None:
    """The segments without the verb when the template covers them, else None."""
    if template.verb:
        last = segments[-1]
        if not last.endswith(f":{template.verb}"):
            return None
        segments = [*segments[:-1], last[: -len(template.verb) - 1]]
    return segments if _covers(template.segments, segments) else None


def precedence(template: Template) -> tuple[bool, tuple[int, ...]]:
    """Sorts templates so that the first that matches a path says most about it.

    A verb goes before none; then, from left to right, a literal before `*`, and `*` before `**`.
    """
    return not template.verb, tuple(_rank(segment) for segment in template.segments)


def conflict(one: Template, other: Template) -> bool:
    """Whether both match the same paths, so that no precedence can tell them apart."""
    return one.verb == other.verb and one.segments == other.segments


def _covers(pattern: tuple[Segment, ...], segments: list[str]) -> bool:
    rest = bool(pattern) and pattern[-1] is Wildcard.REST
    fixed = pattern[:-1] if rest else pattern
    if len(segments) < len(fixed) or (len(segments) > len(fixed) and not rest):
        return False
    return all(
        segment != "" if wanted is Wildcard.ONE else segment == wanted
        for wanted, segment in zip(fixed, segments, strict=False)
    )


def _rank(segment: Segment) -> int:
    return 0 if isinstance(segment, str) else (1 if segment is Wildcard.ONE else 2)


def _decoded(raw: str, *, keep_slash: bool = False) -> str:
    if "%" not in raw:
        return raw
    if keep_slash:
        return "".join(part if _SLASH.fullmatch(part) else _decoded(part) for part in _SLASH.split(raw))
    return unquote_to_bytes(raw).decode("utf-8")


class _Parser:
    """Reads one template from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._segments: list[Segment] = []
        self._variables: list[Variable] = []

    def template(self) -> Template:
        self._expect("/")
        self._read_segments(inside_variable=False)
        verb = self._literal("a verb") if self._take(":") else ""
        if self._at != len(self._text):
            raise self._error("the end")
        if Wildcard.REST in self._segments[:-1]:
            raise TemplateError(f"{self._text!r}: ** stands only at the end")
        fields = [variable.field_path for variable in self._variables]
        if len(set(fields)) != len(fields):
            raise TemplateError(f"{self._text!r}: a field is bound twice")
        return Template(self._text, tuple(self._segments), tuple(self._variables), verb)

    def _read_segments(self, *, inside_variable: bool) -> None:
        self._read_segment(inside_variable=inside_variable)
        while self._take("/"):
            self._read_segment(inside_variable=inside_variable)

    def _read_segment(self, *, inside_variable: bool) -> None:
        if self._take("**"):
            self._segments.append(Wildcard.REST)
        elif self._take("*"):
            self._segments.append(Wildcard.ONE)
        elif not inside_variable and self._take("{"):
            self._read_variable()
        else:
            self._segments.append(self._literal("a segment"))

    def _read_variable(self) -> None:
        start = len(self._segments)
        names = [self._identifier()]
        while self._take("."):
            names.append(self._identifier())
        if self._take("="):
            self._read_segments(inside_variable=True)
        else:
            self._segments.append(Wildcard.ONE)
        self._expect("}")
        end = None if self._segments[-1] is Wildcard.REST else len(self._segments)
        self._variables.append(Variable(".".join(names), start, end))

    def _identifier(self) -> str:
        return self._read(_IDENTIFIER, "a field name")

    def _literal(self, wanted: str) -> str:
        return self._read(_LITERAL, wanted)

    def _read(self, pattern: re.Pattern[str], wanted: str) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise self._error(wanted)
        self._at = found.end()
        return found.group()

    def _take(self, token: str) -> bool:
        if not self._text.startswith(token, self._at):
            return False
        self._at += len(token)
        return True

    def _expect(self, token: str) -> None:
        if not self._take(token):
            raise self._error(repr(token))

    def _error(self, wanted: str) -> TemplateError:
        return TemplateError(f"{self._text!r}: expected {wanted} at position {self._at}")
