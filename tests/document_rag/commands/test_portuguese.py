"""What is wrong with a file is said in Portuguese, too, whatever it is."""

import ast
from collections.abc import Iterator

import pytest

from services.document_rag.commands.portuguese import _REASONS, in_portuguese
from services.document_rag.commands.words import Words
from services.document_rag.documents import file_types
from services.document_rag.model import DocumentTooLarge
from tests.house.processes import REPOSITORY

ROOM = REPOSITORY / "services" / "document_rag" / "documents"
TELLING = ("UnreadableError", "DocumentUnreadable", "DocumentTooLarge", "DocumentEmpty", "_unreadable")
TOLD_ON_THE_WAY = (
    "the file is damaged: it begins like a DOCX, XLSX or other archive, but is none",
    "the document is locked by a password; save it without one and upload that",
    "this is an old Word, Excel or PowerPoint file; save it as DOCX, XLSX, PPTX or PDF",
    "the PDF holds no text: it is probably a scan; run text recognition (OCR) on it first",
    "the document holds no text",
)


def sentences() -> Iterator[str]:
    """Everything that a reader tells the sender of a file, a word in place of what differs."""
    for path in ROOM.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in TELLING:
                yield from map(told, node.args)


def told(argument: ast.expr) -> str:
    """The text of a literal; "" for what is told elsewhere."""
    match argument:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(str(part.value) if isinstance(part, ast.Constant) else "Edital" for part in parts)
        case _:
            return ""


def test_every_sentence_that_a_reader_tells_is_there_in_portuguese() -> None:
    known = sorted({*filter(None, sentences()), *TOLD_ON_THE_WAY})
    assert len(known) > 25
    assert [sentence for sentence in known if in_portuguese("", sentence) == sentence] == []


def test_every_kind_of_file_that_is_refused_has_its_name() -> None:
    for _, name in file_types._FOREIGN:
        said = in_portuguese("", f"this is {name}; {file_types._SUPPORTED}")
        assert said.startswith("isto é um")
        assert said.endswith("Markdown, CSV e texto simples")


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("the PDF has more than 10,000 pages; split it", "o PDF tem mais de 10.000 páginas; divida-o"),
        ("the document is damaged (KeyError)", "o documento está danificado (KeyError)"),
        ("the file is empty: chunk no message carried any bytes", "o arquivo está vazio"),
        (
            "http://prosa:80 cannot be reached (All connection attempts failed)",
            "http://prosa:80 não responde: confira o endereço e se o serviço está no ar",
        ),
    ],
)
def test_names_and_numbers_go_into_the_sentence(message: str, said: str) -> None:
    assert in_portuguese("DOCUMENT_UNREADABLE", message) == said
    assert Words("pt").error("", message) == said
    assert Words("en").error("", message) == message


def test_of_other_errors_at_least_the_kind_is_said() -> None:
    said = Words("pt").error("QUOTA_EXCEEDED", "tenant x: 5 of 5")
    assert said == "a cota de tokens não basta para este pedido (QUOTA_EXCEEDED)"
    assert Words("pt").error("NEW_ONE", "something new") == "something new (NEW_ONE)"
    assert DocumentTooLarge.reason in _REASONS
