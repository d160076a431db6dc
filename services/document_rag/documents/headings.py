"""Headings of texts that mark none: the divisions of laws and regulations, which name themselves."""

import re

from services.document_rag.documents.extracted import Heading

MAX_HEADING_CHARACTERS = 150
SENTENCE_ENDS = (".", ";", ",", ":")

_NUMBER = r"(?:[IVXLCDM]+|\d+|[A-Z]|ÚNIC[AO]|PRIMEIR[AO]|PRELIMINAR)"
_DIVISIONS = {
    "LIVRO": 1, "PARTE": 1, "ANEXO": 1, "BOOK": 1, "PART": 1, "ANNEX": 1, "LIBRO": 1,
    "TÍTULO": 2, "TITLE": 2,
    "CAPÍTULO": 3, "CHAPTER": 3,
    "SEÇÃO": 4, "SECTION": 4, "SECCIÓN": 4,
    "SUBSEÇÃO": 5, "SUBSECTION": 5, "SUBSECCIÓN": 5,
}  # fmt: skip
_DIVISION = re.compile(rf"({'|'.join(_DIVISIONS)})\s+{_NUMBER}(?:\s*[-–—:.]\s*\S.*|\s*)", re.IGNORECASE)


def division_level(line: str) -> int | None:
    """The depth, from 1, of a line such as "CAPÍTULO II - DAS TAXAS"; None for a line that is none."""
    if len(line) > MAX_HEADING_CHARACTERS or line.endswith(SENTENCE_ENDS) or not line[:1].isupper():
        return None
    found = _DIVISION.fullmatch(line)
    return _DIVISIONS[found[1].upper()] if found else None


def is_name_of_division(line: str) -> bool:
    """Whether a line right below a division is its name: "DAS DISPOSIÇÕES GERAIS"."""
    return line.isupper() and 3 <= len(line) <= MAX_HEADING_CHARACTERS and not line.endswith(SENTENCE_ENDS)


def division_headings(text: str) -> tuple[Heading, ...]:
    """The divisions of a plain text, each with the name on the line below it."""
    found: list[Heading] = []
    start = 0
    lines = text.split("\n")
    for number, line in enumerate(lines):
        level = division_level(line.strip())
        if level is not None:
            below = next((each.strip() for each in lines[number + 1 : number + 3] if each.strip()), "")
            title = f"{line.strip()} {below}" if is_name_of_division(below) else line.strip()
            found.append(Heading(start, start + len(line), level, title))
        start += len(line) + 1
    return tuple(found)
