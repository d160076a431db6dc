"""Which files prosa-ingest takes, and what each is known by."""

import hashlib
from pathlib import Path

import pytest

from services.document_rag.commands.chosen_files import SameSourceError, chosen_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as people have them."""
    root = tmp_path / "editais"
    hidden = (".oculto.pdf", "~$aberto.docx", ".git/d.md")
    for name in ("b.pdf", "a.md", "foto.png", "2026/c.DOCX", "2026/nota.txt", *hidden):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


def sources(*places: Path, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> list[str]:
    return [file.source for file in chosen_files(places, include, exclude)]


def test_a_folder_gives_its_readable_files_sorted_each_known_by_its_path_from_the_folder_on(folder: Path) -> None:
    assert sources(folder) == ["editais/2026/c.DOCX", "editais/2026/nota.txt", "editais/a.md", "editais/b.pdf"]


def test_patterns_without_a_slash_mean_names_and_with_one_paths(folder: Path) -> None:
    assert sources(folder, include=("*.md", "2026/*.txt")) == ["editais/2026/nota.txt", "editais/a.md"]
    assert sources(folder, exclude=("2026/*", "*.md")) == ["editais/b.pdf"]
    assert sources(folder, include=("*.png",)) == ["editais/foto.png"]


def test_a_file_named_by_itself_is_taken_whatever_it_is_called_and_only_once(folder: Path) -> None:
    assert sources(folder / "foto.png", folder / "b.pdf", folder / "b.pdf") == ["foto.png", "b.pdf"]


def test_two_files_of_one_source_are_an_error_that_names_both(folder: Path) -> None:
    other = folder / "2026" / "a.md"
    other.write_text("outro")
    with pytest.raises(SameSourceError) as caught:
        sources(folder / "a.md", other)
    assert caught.value.args == ("a.md", str(folder / "a.md"), str(other))
    assert sources(folder, folder / "a.md") == sources(folder)


def test_a_place_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nirgends"):
        sources(tmp_path / "nirgends")


def test_the_digest_is_of_the_bytes(folder: Path) -> None:
    (file,) = chosen_files([folder / "a.md"], (), ())
    assert (file.sha256(), file.size_bytes) == (hashlib.sha256(b"a.md").hexdigest(), 4)
