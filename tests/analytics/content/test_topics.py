"""Topics, keywords and words, in Portuguese and English, as people type them."""

import random

import pytest

from services.analytics.content.classifier import Guess
from services.analytics.content.keywords import keywords_of
from services.analytics.content.rules import feeling_of, issue_of, subject_of
from services.analytics.content.topics import (
    SAME_SIMILARITY,
    FoundTopic,
    ranked,
    similarity,
    topic_key,
    topics_of,
)
from services.analytics.content.words import blotted, words_of


def names(topics: tuple[FoundTopic, ...]) -> list[str]:
    return [topic.name for topic in topics]


def test_the_main_topic_is_the_one_with_the_most_weight_confidence_and_recency() -> None:
    heavy = FoundTopic("pesado", weight=0.9, confidence=0.5, recency=0.5)
    sure = FoundTopic("certo", weight=0.4, confidence=0.9, recency=0.5)
    recent = FoundTopic("recente", weight=0.5, confidence=0.5, recency=1.0)
    assert names(ranked([sure, heavy, recent])) == ["recente", "pesado", "certo"]


def test_ties_are_stable_whatever_the_order() -> None:
    tied = [
        FoundTopic("b", 0.5, 0.5, 1.0, first_mention=0),
        FoundTopic("a", 0.5, 0.5, 1.0, first_mention=1),
        FoundTopic("c", 0.5, 0.5, 1.0, first_mention=1),
    ]
    for seed in range(10):
        random.Random(seed).shuffle(tied)
        assert names(ranked(tied)) == ["b", "a", "c"]


def test_what_is_spoken_of_last_weighs_more() -> None:
    texts = ["Qual o valor do IPTU?", "E o ônibus da linha 12?"]
    found = {topic.name: topic for topic in topics_of(texts, Guess("impostos", 0.5))}
    assert found["Impostos e taxas"].recency == 0.5
    assert found["Transporte público"].recency == 1.0


def test_where_no_subject_is_certain_the_strongest_phrase_is_the_topic() -> None:
    found = topics_of(["Quando começa a oficina de cerâmica? A oficina de cerâmica tem vaga?"], Guess("outro", 0.9))
    assert "oficina" in found[0].name or "cerâmica" in found[0].name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Quando passa a coleta seletiva no bairro Boa Vista?", "coleta seletiva"),
        ("The recycling truck never comes to Green Street", "recycling truck"),
    ],
)
def test_keywords_are_the_words_that_tell_in_both_languages(text: str, expected: str) -> None:
    keywords = [each.text for each in keywords_of([text])]
    assert any(expected in each for each in keywords)
    assert not {"quando", "the", "no", "to"} & set(keywords)


def test_keywords_of_nothing_are_none_and_long_texts_end() -> None:
    assert keywords_of([""]) == []
    assert keywords_of(["?? !!"]) == []
    assert len(keywords_of(["palavra nova " * 50_000])) <= 10


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("Coleta de lixo", "COLETAS DE LIXO", True),
        ("Iluminação pública", "iluminacao publica", True),
        ("Poda de árvore", "poda de árvores na rua", True),
        ("Coleta de lixo", "Taxa de lixo", False),
        ("Matrícula", "Multa", False),
    ],
)
def test_near_identical_names_are_alike(one: str, other: str, *, alike: bool) -> None:
    assert (similarity(topic_key(one), topic_key(other)) >= SAME_SIMILARITY) is alike


def test_words_are_read_as_people_type_them() -> None:
    assert words_of("Vc NÃO viu?? tá muuuito booom") == ["voce", "nao", "viu", "esta", "muito", "bom"]


def test_a_negation_turns_what_follows_and_emojis_count() -> None:
    assert feeling_of("adorei, excelente, maravilhoso").label == "positivo"
    assert feeling_of("não gostei").label == "negativo"
    assert feeling_of("👏👏❤").label == "positivo"
    assert feeling_of("").confidence < 0.5


def test_rules_name_what_is_plain_and_doubt_what_is_not() -> None:
    assert subject_of("segunda via do IPTU").label == "impostos"
    assert subject_of("xyz").confidence == 0.0
    assert issue_of("o pedido está atrasado, que demora") == "atraso"
    assert issue_of("xyz") == "outro"


def test_long_numbers_and_addresses_are_blotted_out_and_short_ones_stay() -> None:
    told = blotted("CPF 123.456.789-00, fone (83) 99999-1234, ana@exemplo.com.br, linha 305, R$ 20")
    assert "456" not in told
    assert "99999" not in told
    assert "@" not in told
    assert "linha 305" in told
