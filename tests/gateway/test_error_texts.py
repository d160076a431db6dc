"""What people are told of an error: in their language, whatever the reason, with what they need to know."""

import asyncio
import json
import re
import string

import httpx
import pytest
from google.rpc import error_details_pb2

from gateway.error_texts import LANGUAGES, TEXTS, localized
from prosa.common.v1 import error_reason_pb2
from prosa.document_rag.v1.assistant_service_pb2 import AskRequest
from shared.errors import (
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    ServiceError,
    Unavailable,
    status_of,
)
from shared.validation import violations_of
from tests.gateway.conftest import KEY, Gateway
from tests.gateway.test_streams import ask, events_in

REASONS = [
    value.name.removeprefix("ERROR_REASON_") for value in error_reason_pb2.ErrorReason.DESCRIPTOR.values if value.number
]
MAIS = "Se precisar de mais, fale com quem administra a sua organização."
MORE = "If you need more, talk to whoever administers your organization."
TOKENS_OF_THE_DAY = {
    "subject": "tenant:t",
    "window": "day",
    "limit": "9000",
    "unit": "tokens",
    "used": "6900",
    "held": "0",
    "wanted": "3341",
}


def told(error: ServiceError, language: str = "pt-BR") -> str:
    """What is said of the error."""
    message = error_details_pb2.LocalizedMessage()
    assert localized(status_of(error), language).details[-1].Unpack(message)
    assert message.locale == language
    return str(message.message)


def said_in(error: dict[str, object]) -> tuple[str, str]:
    """Locale and text in an error's JSON."""
    details = error["details"]
    assert isinstance(details, list)
    (found,) = (each for each in details if each["@type"] == "type.googleapis.com/google.rpc.LocalizedMessage")
    return found["locale"], found["message"]


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_has_a_text_in_every_language(reason: str) -> None:
    assert set(TEXTS["errors"][reason]) == set(LANGUAGES)
    error = ServiceError("x", reason=reason)
    texts = {told(error, language) for language in LANGUAGES}
    assert len(texts) == len(LANGUAGES)
    for text in texts:
        assert re.fullmatch(r"[A-ZÀ-Ú][^{}\[\]]+\.", text), text
        assert "  " not in text
        assert " ." not in text


@pytest.mark.parametrize("texts", [*TEXTS["fields"].values(), TEXTS["of any other rule"]])
def test_every_rule_of_a_field_has_a_text_in_every_language(texts: dict[str, str]) -> None:
    assert set(texts) == set(LANGUAGES)
    one, *others = ([each[1:] for each in string.Formatter().parse(text) if each[1]] for text in texts.values())
    assert all(each == one for each in others)


@pytest.mark.parametrize(
    ("request_", "portuguese", "english"),
    [
        (
            AskRequest(assistant_id="a", question="x" * 40_000),
            "O texto é longo demais (máximo de caracteres: 32.000).",
            "The text is too long (most characters: 32,000).",
        ),
        (
            AskRequest(assistant_id="a", question="x", max_output_tokens=10**9),
            "O número está fora dos limites (de 0 a 100.000).",
            "The number is out of range (from 0 to 100,000).",
        ),
    ],
)
def test_a_field_says_what_is_wrong_with_it(request_: AskRequest, portuguese: str, english: str) -> None:
    for language, text in (("pt-BR", portuguese), ("en", english)):
        bad = error_details_pb2.BadRequest()
        error = InvalidArgument(violations=violations_of(request_))
        assert localized(status_of(error), language).details[1].Unpack(bad)
        assert bad.field_violations[0].localized_message.message == text
        assert bad.field_violations[0].localized_message.locale == language


async def test_a_field_without_a_text_of_its_own_is_told_too(client: httpx.AsyncClient) -> None:
    headers = KEY | {"accept-language": "en"}
    response = await client.post("/v1/conversations", headers=headers, json={"title": 7, "colour": "red"})
    violations = {each["field"]: each for each in response.json()["details"][1]["fieldViolations"]}
    assert violations["colour"]["localizedMessage"] == {"locale": "en", "message": "There is no such field."}
    assert violations["title"]["localizedMessage"] == {"locale": "en", "message": "This value is not accepted."}


def test_no_text_is_of_a_reason_that_does_not_exist() -> None:
    assert set(TEXTS["errors"]) == set(REASONS)


@pytest.mark.parametrize("reason", REASONS)
def test_what_is_filled_in_is_the_same_in_every_language_and_can_be_left_out(reason: str) -> None:
    placeholders = []
    for text in TEXTS["errors"][reason].values():
        assert "{" not in re.sub(r"\[[^\]]*\]", "", text)
        fields = string.Formatter().parse(text)
        placeholders.append({(name, form) for _, name, form, _ in fields if name is not None})
    assert all(each == placeholders[0] for each in placeholders)


def test_every_language_has_the_same_words() -> None:
    one, *others = (TEXTS["words"][language] for language in LANGUAGES)
    for other in others:
        assert {kind: set(words) for kind, words in other.items()} == {kind: set(words) for kind, words in one.items()}


@pytest.mark.parametrize(
    ("error", "portuguese", "english"),
    [
        (
            QuotaExceeded(metadata=TOKENS_OF_THE_DAY, retry_after_seconds=9000.5),
            (
                "O limite de uso do dia da sua organização não basta para este pedido: são 9.000 tokens, com 6.900"
                f" usados e 0 reservados, e ele pode precisar de 3.341. Tente de novo em 3 horas. {MAIS}"
            ),
            (
                "The usage limit of your organization for the day does not suffice for this request: of 9,000 tokens,"
                f" 6,900 are used and 0 reserved, and it may need 3,341. Try again in 3 hours. {MORE}"
            ),
        ),
        (
            QuotaExceeded(metadata={**TOKENS_OF_THE_DAY, "unit": "micros", "window": "century"}),
            f"O limite de uso da sua organização não basta para este pedido. {MAIS}",
            f"The usage limit of your organization does not suffice for this request. {MORE}",
        ),
        (
            QuotaExceeded(reason="LOGIN_THROTTLED", retry_after_seconds=41.2),
            "Houve tentativas demais de entrar com este e-mail. Tente de novo em 42 segundos.",
            "There were too many attempts to sign in with this e-mail address. Try again in 42 seconds.",
        ),
        (
            QuotaExceeded(reason="MESSAGE_TOO_LARGE", metadata={"max_bytes": str(3 * 2**19)}),
            "O que foi enviado é grande demais. O máximo é 1,5 MB.",
            "What was sent is too large. The most is 1.5 MB.",
        ),
        (
            NotFound("conversation", "c42"),
            "Não encontramos o que foi pedido (conversa). Talvez já não exista, ou você não tenha acesso.",
            "We did not find what was asked for (conversation). It may be gone, or you may have no access to it.",
        ),
        (
            NotFound("comet", "c42"),
            "Não encontramos o que foi pedido. Talvez já não exista, ou você não tenha acesso.",
            "We did not find what was asked for. It may be gone, or you may have no access to it.",
        ),
        (
            PermissionDenied("x", metadata={"permission": ""}),
            "Você não tem permissão para fazer isso. Se precisar dela, fale com quem administra a sua organização.",
            "You are not permitted to do this. If you need to, talk to whoever administers your organization.",
        ),
        (
            Internal("e-1"),
            "Algo deu errado do nosso lado. Tente de novo; se continuar, avise o suporte e informe o código e-1.",
            "Something went wrong on our side. Try again; if it goes on, tell support and name the code e-1.",
        ),
        (
            ServiceError("x", reason="INTERNAL", metadata={"error_id": "[{x}]"}),
            "Algo deu errado do nosso lado. Tente de novo; se continuar, avise o suporte e informe o código [{x}].",
            "Something went wrong on our side. Try again; if it goes on, tell support and name the code [{x}].",
        ),
    ],
)
def test_a_text_says_what_the_error_knows(error: ServiceError, portuguese: str, english: str) -> None:
    assert told(error, "pt-BR") == portuguese
    assert told(error, "en") == english


@pytest.mark.parametrize(
    ("seconds", "portuguese", "english"),
    [
        (0.2, "1 segundo", "1 second"),
        (61, "61 segundos", "61 seconds"),
        (120, "2 minutos", "2 minutes"),
        (121, "3 minutos", "3 minutes"),
        (7199, "120 minutos", "120 minutes"),
        (7201, "3 horas", "3 hours"),
        (172_800, "2 dias", "2 days"),
    ],
)
def test_a_wait_is_told_in_round_figures_that_are_long_enough(seconds: float, portuguese: str, english: str) -> None:
    error = QuotaExceeded(reason="LOGIN_THROTTLED", retry_after_seconds=seconds)
    assert told(error, "pt-BR").endswith(f" em {portuguese}.")
    assert told(error, "en").endswith(f" in {english}.")


def test_a_reason_of_a_newer_service_has_a_text_too() -> None:
    for language in LANGUAGES:
        error = ServiceError("x", reason="INVENTED_TOMORROW")
        assert told(error, language) == TEXTS["of a reason unknown here"][language]


@pytest.mark.parametrize(
    ("accepted", "locale"),
    [(None, "pt-BR"), ("en-US,en;q=0.9,pt;q=0.8", "en"), ("pt-BR,pt;q=0.9,en;q=0.8", "pt-BR"), ("de", "pt-BR")],
)
async def test_an_error_is_told_in_the_language_asked_for(
    client: httpx.AsyncClient, accepted: str | None, locale: str
) -> None:
    headers = KEY | ({"accept-language": accepted} if accepted else {})
    response = await client.get("/v1/conversations/over", headers=headers)
    assert said_in(response.json()) == (locale, told(QuotaExceeded(retry_after_seconds=41.2), locale))
    assert response.headers["content-language"] == locale
    assert "accept-language" in response.headers["vary"].lower()
    assert response.json()["message"] == "the quota is used up"  # for developers, as ever


async def test_a_stream_that_breaks_tells_it_too(client: httpx.AsyncClient) -> None:
    client.headers["accept-language"] = "en"
    *_, broken = events_in((await ask(client, "break")).text)
    assert isinstance(broken.data, dict)
    assert said_in(broken.data) == ("en", told(Unavailable(reason="PROVIDER_FAILED"), "en"))


async def test_what_is_no_http_is_told_in_portuguese(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"nonsense\r\n\r\n")
    _, _, content = (await asyncio.wait_for(reader.read(), 20)).partition(b"\r\n\r\n")
    writer.close()
    assert said_in(json.loads(content))[0] == "pt-BR"
