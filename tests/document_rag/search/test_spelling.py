"""Which word of the documents a misspelt word means."""

import pytest

from services.document_rag.search.spelling import Spelling, corrected, is_correctable


@pytest.mark.parametrize(
    ("typed", "near", "meant"),
    [
        ("orcamneto", [("orcamento", 0.4, 9), ("ornamento", 0.42, 9)], "orcamento"),  # two letters swapped
        ("liixo", [("lixo", 0.4, 2), ("luxo", 0.3, 2)], "lixo"),  # one doubled
        ("vacona", [("vacina", 0.3, 3), ("varona", 0.3, 3)], "vacina"),  # the key beside the one meant
        ("tribto", [("tributo", 0.4, 9), ("tribal", 0.5, 9)], "tributo"),  # one left out, not two wrong
    ],
)
def test_the_least_costly_typing_error_decides(typed: str, near: list[tuple[str, float, int]], meant: str) -> None:
    found = corrected(typed, [Spelling(*each) for each in near])
    assert found is not None
    assert found.word == meant
    assert 0.5 < found.certainty < 1


def test_of_equally_likely_words_the_frequent_one_is_meant() -> None:
    near = [Spelling("coleta", 0.5, 1), Spelling("colete", 0.5, 20)]
    found = corrected("coletq", near)
    assert found is not None
    assert found.word == "coleta", "the key beside outweighs a frequent word"
    found = corrected("coletx", near)
    assert found is not None
    assert found.word == "colete"


def test_what_only_looks_alike_counts_little_and_what_does_not_is_left_alone() -> None:
    alike = corrected("desburocratizar", [Spelling("burocratico", 0.31, 5)])
    assert alike is not None
    assert alike.certainty < 0.7
    assert corrected("xyzzyqwrt", [Spelling("xisto", 0.2, 5)]) is None
    assert corrected("xyzzyqwrt", []) is None


def test_numbers_and_very_short_words_are_what_they_are() -> None:
    assert is_correctable("lixo")
    assert not any(map(is_correctable, ("sus", "b12x", "2027")))
