"""What messages are found by: words.py and stems.py."""

import unicodedata
from itertools import pairwise

import pytest
import Stemmer
from hypothesis import given
from hypothesis import strategies as st

from services.chat_store.words import (
    MAX_INDEXED_CHARACTERS,
    MAX_WORDS,
    SNIPPET_CHARACTERS,
    Snippet,
    rarity_of,
    scorer_of,
    snippet_of,
    terms_of,
    words_of,
)


def _forms(lines: str) -> list[tuple[str, ...]]:
    return [tuple(forms.split()) for forms in lines.split(";")]


# Forms of one word, two of which no English stemmer brings together.
PORTUGUESE = _forms(
    """
    orçamento orçamentos; informação informações; reunião reuniões; licitação licitações; nação nações;
    mão mãos; pão pães; órgão órgãos; municipal municipais; papel papéis; imóvel imóveis;
    disponível disponíveis; útil úteis; civil civis; azul azuis; lençol lençóis; viagem viagens; homem homens;
    item itens; país países; mês meses; irmã irmãs; professor professoras; ciência ciências; análise análises;
    enviar enviado enviaram enviou enviá-lo; claro claramente;
    jornal jornais; herói heróis; aceitar aceitável aceitáveis; discutir discutível discutíveis; tolerar tolerância
    """
)
ENGLISH = _forms(
    """
    document documents documented; order orders ordered ordering; city cities;
    connect connection connections connected; user users user's users’; potato potatoes; hero heroes;
    photo photos; shoe shoes; pizza pizzas; party parties; résumé resumes
    """
)
TEXTS = st.text(
    st.one_of(st.sampled_from("aáãeéiíoõuçsnltm cd-./@'’_:,0129 \n"), st.characters(exclude_categories=["Cs"]))
)


def has(text: str, query: str) -> bool:
    """Whether a message of that text is found by that query, as every engine decides it."""
    terms, words = set(terms_of(text)), words_of(query)
    return bool(words) and all(word.terms & terms for word in words)


def without_accents(text: str) -> str:
    return "".join(letter for letter in unicodedata.normalize("NFD", text) if not unicodedata.combining(letter))


def decomposed(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def highlighted(snippet: Snippet) -> list[str]:
    return [snippet.text[begin:end] for begin, end in snippet.highlights]


class TestLanguages:
    @pytest.mark.parametrize("forms", PORTUGUESE + ENGLISH, ids=lambda forms: forms[0])
    def test_each_form_of_a_word_finds_each_other_with_and_without_accents(self, forms: tuple[str, ...]) -> None:
        spellings = [spelt(form) for form in forms for spelt in (str, without_accents, str.upper, decomposed)]
        assert [(said, asked) for said in spellings for asked in spellings if not has(f"Ontem, {said}!", asked)] == []

    @pytest.mark.parametrize("forms", PORTUGUESE, ids=lambda forms: forms[0])
    def test_the_portuguese_forms_are_beyond_an_english_stemmer(self, forms: tuple[str, ...]) -> None:
        english = Stemmer.Stemmer("english")
        stems = {english.stemWord(spelt(form)) for form in forms for spelt in (str, without_accents)}
        assert len(stems) > 1

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("orçamento", "ornamento"),
            ("contrato", "contato"),
            ("reunião", "reino"),
            ("document", "docket"),
            ("order", "border"),
            ("heróis", "herdeiro"),
            ("mãe", "mão"),
            ("caixa", "caos"),
        ],
    )
    def test_different_words_stay_apart(self, one: str, other: str) -> None:
        assert not has(one, other)
        assert not has(other, one)

    @pytest.mark.parametrize("word", ["orçamento", "reuniões", "contrato", "documents", "downloading", "cidades"])
    def test_a_word_whose_language_shows_has_one_term(self, word: str) -> None:
        assert len(terms_of(word)) == 1

    @pytest.mark.parametrize("word", ["papel", "order", "sistemas", "restaurante"])
    def test_no_word_has_more_terms_than_languages(self, word: str) -> None:
        assert len(terms_of(word)) <= 2

    def test_terms_are_distinct_and_sorted(self) -> None:
        assert terms_of("zebra Orçamento documents zebras orçamentos DOCUMENT") == ["document", "orcament", "zebr"]


class TestFunctionWords:
    @pytest.mark.parametrize(
        ("query", "same"),
        [
            ("qual é o orçamento da reunião", "orçamento reunião"),
            ("voce nao tem informacoes", "informações"),
            ("where is the document", "document"),
            ("I don't have the user's document", "user document"),
        ],
    )
    def test_they_are_not_asked_for(self, query: str, same: str) -> None:
        assert words_of(query) == words_of(same)

    @pytest.mark.parametrize("query", ["to be or not to be", "o que é", "Para quem?", "don’t"])
    def test_they_are_asked_for_when_nothing_else_is_left(self, query: str) -> None:
        assert has(query, query)
        assert not has("orçamento", query)


class TestQueries:
    @pytest.mark.parametrize("query", ["", "   ", "?!", "--- … ***", "_", "\u0301\u0302", "$%&"])
    def test_without_a_word_there_is_nothing_to_look_for(self, query: str) -> None:
        assert words_of(query) == ()

    def test_all_words_must_be_there(self) -> None:
        assert has("o orçamento da reunião", "reunioes orcamentos")
        assert not has("o orçamento da semana", "reunioes orcamentos")

    def test_forms_of_one_word_are_asked_for_once(self) -> None:
        assert words_of("orçamento reunião Orçamentos REUNIOES") == words_of("orçamento reunião")

    def test_only_the_first_words_are_asked_for(self) -> None:
        many = [f"n{number}" for number in range(MAX_WORDS + 5)]
        assert words_of(" ".join(many)) == words_of(" ".join(many[:MAX_WORDS]))
        assert len(words_of("of the " + " ".join(many))) == MAX_WORDS


class TestCodes:
    @pytest.mark.parametrize(
        ("text", "queries"),
        [
            ("processo 2027/123, anexo", ["2027/123", "2027", "123", "2027-123"]),
            ("a guia IPTU-2027 venceu", ["IPTU-2027", "iptu-2027", "iptu", "2027", "iptu2027"]),
            ("CPF:123.456.789-09.", ["123.456.789-09", "12345678909", "123", "456", "789", "09", "456.789"]),
            ("CNPJ 12.345.678/0001-90", ["12.345.678/0001-90", "12345678000190", "0001", "12.345.678"]),
            ("ana.silva@exemplo.com.br", ["ana.silva@exemplo.com.br", "Ana", "silva", "exemplo", "silva@exemplo"]),
            ("veja IPTU-2027/123-A", ["2027/123", "IPTU-2027", "123-a"]),
            ("relatorio_final_v2.pdf", ["relatório", "final", "v2.pdf", "relatorio_final_v2.pdf"]),
            ("R$ 1.234,56 às 10:30", ["1.234,56", "10:30", "1.234"]),
            ("1234567-89.2027.8.26.0100", ["1234567-89.2027.8.26.0100", "12345678920278260100", "2027"]),
            ("seu CPF é 12345678909", ["123.456.789-09"]),
            ("https://prefeitura.sp.gov.br/servicos?id=77", ["prefeitura", "serviço", "77", "prefeitura.sp.gov.br"]),
        ],
    )
    def test_they_are_found_whole_and_by_their_parts(self, text: str, queries: list[str]) -> None:
        assert [query for query in queries if not has(text, query)] == []

    @pytest.mark.parametrize(
        ("text", "query"),
        [
            ("123/2027", "2027/123"),
            ("2027 pedidos, 123 aceitos", "2027/123"),
            ("custa 3.50", "350"),
            ("dia 1/2", "12"),
            ("12 itens, 50 reais", "12,50"),
            ("789.456.123-09", "123.456.789-09"),
            ("IPTU-2028", "IPTU-2027"),
            ("ana@exemplo.com", "ana@outro.com"),
        ],
    )
    def test_another_code_of_the_same_parts_is_not_found(self, text: str, query: str) -> None:
        assert not has(text, query)

    def test_compounds_are_found_in_each_of_their_spellings(self) -> None:
        spellings = ["guarda-chuva", "guarda-chuvas", "guardachuva"]
        assert all(has(said, asked) for said in spellings for asked in spellings)
        assert has("um guarda chuva", "guarda-chuva")
        assert all(has(said, asked) for said in ["e-mail", "emails"] for asked in ["email", "e-mails"])
        assert not has("mail", "e-mail")
        assert has("um copo d’água", "agua")
        assert has("O'Reilly", "oreilly")

    def test_a_long_chain_is_found_by_its_parts(self) -> None:
        chain = ".".join(f"p{number}" for number in range(30))
        assert has(chain, "p17")
        assert has(chain, "p3.p4.p5.p6.p7.p8.p9.p10.p11")
        assert len(terms_of(chain)) == 30


class TestScripts:
    @pytest.mark.parametrize(
        ("text", "query"),
        [
            ("Привет, мир", "ПРИВЕТ"),
            ("Καλημέρα Ελλάς", "ελλας"),
            ("हिन्दी भाषा", "हिन्दी"),
            ("مَرْحَبا", "مرحبا"),
            ("서울 특별시", "서울"),
            ("我喜欢吃苹果", "苹果"),
            ("東京タワーへ行く", "タワー"),
            ("PDF文件已上传", "文件"),
            ("PDF文件已上传", "pdf"),
            ("ภาษาไทย", "ไทย"),
            ("Straße", "STRASSE"),
            ("Łódź", "lodz"),
            ("ｆｕｌｌ ｗｉｄｔｈ", "full"),
            ("soft\u00adhyphens", "softhyphen"),
            ("festa 🎉🎂!", "🎂"),
            ("adoro ❤️", "❤"),
            ("👍🏽 certo", "👍"),
            ("Brasil 🇧🇷", "🇧🇷"),
            ("tudo certo👍", "certo"),
        ],
    )
    def test_they_are_found(self, text: str, query: str) -> None:
        assert has(text, query)

    @pytest.mark.parametrize(
        ("text", "query"), [("苹我果", "苹果"), ("हिन्दा", "हिन्दी"), ("🇧🇷", "🇧🇪"), ("カキ", "ガキ"), ("👍", "👎")]
    )
    def test_others_are_not(self, text: str, query: str) -> None:
        assert not has(text, query)

    @given(TEXTS)
    def test_every_text_is_found_by_itself(self, text: str) -> None:
        assert not words_of(text) or has(text, text)
        assert "" not in terms_of(text)

    @given(st.text("aáàâãeéêiíoóôõuúcçsnltmrd -./'"))
    def test_accents_and_case_never_hide_a_text(self, text: str) -> None:
        spellings = [text, without_accents(text), text.upper(), decomposed(text)]
        assert all(has(said, asked) for said in spellings for asked in spellings if words_of(text))


class TestHostileTexts:
    @pytest.mark.timeout(200)  # Of a million characters: what goes back over them takes hours.
    @pytest.mark.parametrize(
        "unit",
        [
            "a",
            "á",
            "\u0301",
            "e\u0301\u0327",
            "a.",
            "a'",
            "n't",
            "a-",
            "1,",
            "_",
            "-",
            " ",
            "😀",
            "🇧",
            "我",
            "ﷺ",
            "a-a ",
        ],
        ids=ascii,
    )
    def test_a_megabyte_of_the_same_is_nothing_special(self, unit: str) -> None:
        text = unit * (1_000_000 // len(unit))
        words = words_of(text)
        assert len(terms_of(text)) <= 3
        assert scorer_of(dict.fromkeys(words, 1.0))(text) >= 0
        assert len(snippet_of(text, words).text) <= SNIPPET_CHARACTERS

    @pytest.mark.parametrize("unit", ["a", "ﷺ", "á", "é9", "x-"])
    def test_no_term_is_long(self, unit: str) -> None:
        assert max(map(len, terms_of(unit * 10_000))) <= 64

    def test_only_the_beginning_of_a_text_is_indexed(self) -> None:
        padding = "a " * (MAX_INDEXED_CHARACTERS // 2 - 5)
        assert has(padding + "orçamento", "orcamento")
        assert not has(padding + " " * 10 + "orçamento", "orcamento")
        assert snippet_of(padding + " " * 10 + "orçamento", words_of("orcamento")).highlights == ()


class TestScores:
    def test_more_of_a_rarer_word_in_a_shorter_text_scores_higher(self) -> None:
        common, rare = words_of("imposto precatório")
        score = scorer_of({common: rarity_of(400, 1000), rare: rarity_of(3, 1000)})
        assert score("um precatório, um imposto") > score("um precatório, um tributo") > score("um imposto, um tributo")
        assert score("precatórios e precatorio") > score("precatório e tributo")
        assert score("precatório") > score("precatório" + " outra coisa" * 30) > 0
        assert score("outra coisa") == 0

    def test_a_word_repeated_without_end_adds_less_and_less(self) -> None:
        score = scorer_of(dict.fromkeys(words_of("spam"), 1.0))
        scores = [score("spam " * times + "x " * (50 - times)) for times in (0, 1, 2, 3, 50)]
        gains = [after - before for before, after in pairwise(scores)]
        assert gains[0] > gains[1] > gains[2] > 0
        assert scores[-1] < 3 * scores[1]

    def test_a_word_is_counted_in_all_its_forms(self) -> None:
        score = scorer_of(dict.fromkeys(words_of("123.456.789-09"), 1.0))
        assert score("CPF 12345678909") == score("CPF 123.456.789-09") > 0

    def test_rarity_falls_with_the_matches_and_stays_above_zero(self) -> None:
        rarities = [rarity_of(matches, 1000) for matches in (0, 1, 10, 500, 1000)]
        assert rarities == sorted(rarities, reverse=True)
        assert len(set(rarities)) == 5
        assert rarities[-1] > 0
        assert rarity_of(1001, 1000) == rarities[-1]
        assert rarity_of(0, 0) > 0


class TestSnippets:
    def test_a_short_text_is_shown_whole_with_every_hit(self) -> None:
        text = "As informações do orçamento: INFORMACAO, informe, orcamentos."
        snippet = snippet_of(text, words_of("informação orçamento"))
        assert snippet.text == text
        assert highlighted(snippet) == ["informações", "orçamento", "INFORMACAO", "informe", "orcamentos"]

    def test_a_long_text_is_shown_where_most_words_are_together_cut_between_words(self) -> None:
        filler = "palavras quaisquer que nada dizem " * 30
        text = f"orçamento {filler}o orçamento da reunião {filler}reunião reunião reunião {filler}"
        snippet = snippet_of(text, words_of("reuniao orcamento"))
        assert highlighted(snippet) == ["orçamento", "reunião"]
        assert 200 < len(snippet.text) <= SNIPPET_CHARACTERS
        assert snippet.text.startswith("…")
        assert snippet.text.endswith("…")
        assert f" {snippet.text.strip('…')} " in text
        before, after = snippet.highlights[0][0], len(snippet.text) - snippet.highlights[-1][1]
        assert abs(before - after) < 40

    def test_only_the_end_that_is_cut_has_an_ellipsis(self) -> None:
        filler = "nada " * 100
        beginning, end = (
            snippet_of(text, words_of("reunião")).text for text in ("reunião " + filler, filler + "reunião")
        )
        assert beginning.startswith("reunião")
        assert beginning.endswith("nada…")
        assert end.startswith("…nada")
        assert end.endswith("reunião")

    def test_without_a_hit_the_beginning_is_shown(self) -> None:
        assert snippet_of("nada " * 100, words_of("reunião")) == Snippet("nada " * 46 + "nada…", ())
        assert snippet_of("", ()) == Snippet("", ())

    @pytest.mark.parametrize(
        ("text", "query", "hits"),
        [
            ("o processo 2027/123 anda", "2027", ["2027"]),
            ("o processo 2027/123 anda", "2027/123", ["2027/123"]),
            ("CPF 123.456.789-09!", "123.456.789-09", ["123.456.789-09"]),
            ("CPF 123.456.789-09!", "12345678909", ["123.456.789-09"]),
            ("um guarda-chuva azul", "guarda-chuva", ["guarda-chuva"]),
            ("um guarda-chuva azul", "chuva", ["chuva"]),
            ("我喜欢吃苹果派", "吃苹果", ["吃苹果"]),
            ("PDF文件", "文件", ["文件"]),
            (decomposed("a reunião."), "reuniao", [decomposed("reunião")]),
            ("🎉🎂🎈", "🎂", ["🎂"]),
        ],
    )
    def test_what_was_asked_for_is_highlighted_and_no_more(self, text: str, query: str, hits: list[str]) -> None:
        assert highlighted(snippet_of(text, words_of(query))) == hits

    def test_a_hit_longer_than_a_snippet_is_cut(self) -> None:
        text = "antes " * 100 + "x" * 5000 + " depois" * 100
        snippet = snippet_of(text, words_of("x" * 5000))
        assert snippet == Snippet("…" + "x" * (SNIPPET_CHARACTERS - 2) + "…", ((1, SNIPPET_CHARACTERS - 1),))

    @given(TEXTS, TEXTS, st.integers(0, 300))
    def test_a_snippet_is_a_part_of_its_text_and_highlights_are_apart(self, left: str, right: str, size: int) -> None:
        text = left + " " * (size // 2) + "reuniões" + "x" * (size % 7) + " x" * size + right
        snippet = snippet_of(text, words_of("reunião " + left))
        assert len(snippet.text) <= SNIPPET_CHARACTERS
        assert snippet.text in text or snippet.text.removeprefix("…").removesuffix("…") in text
        bounds = [bound for highlight in snippet.highlights for bound in highlight]
        assert bounds == sorted(set(bounds))
        assert all(0 <= bound <= len(snippet.text) for bound in bounds)
        assert all(words_of(hit) for hit in highlighted(snippet))
