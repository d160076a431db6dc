"""prosa-ask: every option, a talk at a terminal, and gateways and keys that are none."""

import json
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy.local.ports import LOOPBACK
from tests.house.processes import REPOSITORY, System
from tests.journeys.tenant import Tenant, new_tenant
from tests.journeys.terminal import Terminal

IPTU = "# Guia do IPTU\n\nA cota única do IPTU vence em 10 de março e tem desconto de 12%.\n"
QUESTION = "Quando vence a cota única do IPTU?"


@pytest.fixture(scope="module")
def tenant(system: System) -> Tenant:
    """A tenant nobody else uses, with two assistants and one document."""
    tenant = new_tenant(system)
    tenant.admin.upload("iptu.md", IPTU.encode())
    tenant.admin.post("/v1/assistants", {"assistant": {"displayName": "Outro", "model": "extractive"}})
    return tenant


@pytest.fixture
def terminal(tenant: Tenant, tmp_path: Path) -> Terminal:
    """The shell of its administrator, who asks the first assistant unless something else is said."""
    terminal = Terminal.of(tenant.admin, tmp_path)
    return terminal.but(PROSA_ASSISTANT_ID=tenant.assistant_id)


def conversation_of(told: subprocess.CompletedProcess[str]) -> str:
    """Where --json says that the answer stands."""
    assert told.returncode == 0, told.stderr
    return str(json.loads(told.stdout)["conversationId"])


def test_an_assistant_is_named_by_option_before_the_environment(tenant: Tenant, terminal: Terminal) -> None:
    nobody = terminal.but(PROSA_ASSISTANT_ID="nobody")
    assert nobody.run("ask", QUESTION).returncode == 1
    told = nobody.run("ask", "--assistant", tenant.assistant_id, "Quando", "vence", "a", "cota", "única", "do", "IPTU?")
    assert (told.returncode, "10 de março" in told.stdout) == (0, True), told.stderr


def test_a_conversation_goes_on_by_its_name_and_the_last_one_by_continue(tenant: Tenant, terminal: Terminal) -> None:
    first = conversation_of(terminal.run("ask", "--json", QUESTION))
    second = conversation_of(terminal.run("ask", "--json", given=QUESTION))
    assert first != second
    assert conversation_of(terminal.run("ask", "--json", "--conversation", first, "E o desconto?")) == first
    assert conversation_of(terminal.run("ask", "--json", "-c", "E o desconto?")) == first
    assert len(tenant.admin.messages(first)) == 6


def test_a_question_that_fails_does_not_make_the_last_conversation_forgotten(terminal: Terminal) -> None:
    conversation = conversation_of(terminal.run("ask", "--json", QUESTION))
    assert terminal.run("ask", "x" * 100_000).returncode == 1
    assert conversation_of(terminal.run("ask", "--json", "-c", "E o desconto?")) == conversation


class Screen:
    """prosa-ask at a terminal: what it shows, and the keys that are pressed."""

    def __init__(self, terminal: Terminal) -> None:
        self._keys, other = pty.openpty()
        self.process = subprocess.Popen(
            Terminal.line("ask"), cwd=REPOSITORY, env=terminal.environment, stdin=other, stdout=other, stderr=other
        )
        os.close(other)

    def until(self, text: str) -> str:
        """What is shown up to the text."""
        shown = b""
        while text.encode() not in shown:
            shown += os.read(self._keys, 1024)
        return shown.decode()

    def press(self, keys: str) -> None:
        """Presses keys."""
        os.write(self._keys, keys.encode())


def test_a_talk_at_a_terminal_goes_on_until_ctrl_d(tenant: Tenant, terminal: Terminal) -> None:
    screen = Screen(terminal)
    screen.until("You: ")
    screen.press(QUESTION + "\n")
    assert "10 de março" in screen.until("You: ")
    screen.press("Qual é o desconto?\n")
    conversation = screen.until("You: ").rpartition("conversation ")[2].split()[0]
    screen.press("\x04")
    assert screen.process.wait(60) == 0
    assert len(tenant.admin.messages(conversation)) == 4


def test_ctrl_c_at_the_prompt_ends_the_talk_at_once(terminal: Terminal) -> None:
    screen = Screen(terminal)
    screen.until("You: ")
    screen.process.send_signal(signal.SIGINT)
    assert screen.process.wait(60) == 130


@contextmanager
def answering(kind: str, body: str) -> Iterator[str]:
    """The address of something that answers every call so."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            self.send_response(200)
            self.send_header("content-type", kind)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer((LOOPBACK, 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{LOOPBACK}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_an_answer_that_breaks_off_is_told_from_a_gateway_that_is_away(terminal: Terminal) -> None:
    begun = 'event: textDelta\ndata: {"textDelta": {"text": "A cota "}}\n\n'
    with answering("text/event-stream", begun) as url:
        told = terminal.run("ask", "--url", url, QUESTION)
    assert (told.returncode, told.stdout.startswith("A cota")) == (1, True), told.stderr
    assert "broke off" in told.stderr
    assert terminal.run("ask", "--url", url, QUESTION).returncode == 3


@pytest.mark.parametrize("command", ["ask", "ingest"])
@pytest.mark.parametrize(
    ("settings", "code", "says"),
    [
        ({"PROSA_API_KEY": "pk_…"}, 2, "API key"),
        ({"PROSA_URL": "127.0.0.1:8080"}, 2, "127.0.0.1:8080"),
        ({"PROSA_URL": "http://[::1"}, 2, "http://[::1"),
        ({"PROSA_URL": "page"}, 3, "no gateway"),
    ],
    ids=["key", "no scheme", "no address", "a web page"],
)
def test_settings_that_lead_to_no_gateway_are_said_to(
    terminal: Terminal, tmp_path: Path, command: str, settings: dict[str, str], code: int, says: str
) -> None:
    (tmp_path / "iptu.md").write_text(IPTU, encoding="utf-8")
    with answering("text/html", "<html>Prefeitura</html>") as page:
        said = {name: page if value == "page" else value for name, value in settings.items()}
        told = terminal.but(PROSA_ASSISTANT_ID="", **said).run(command, str(tmp_path / "iptu.md"))
    assert (told.returncode, says in " ".join(told.stderr.split())) == (code, True), told.stderr
    assert "Traceback" not in told.stderr


def test_a_key_with_the_line_end_of_a_file_is_taken_and_the_locale_decides_the_language(
    tenant: Tenant, terminal: Terminal
) -> None:
    brazilian = terminal.but(PROSA_API_KEY=tenant.admin.key + "\r\n", LC_ALL="", LC_MESSAGES="", LANG="pt_BR.UTF-8")
    told = brazilian.run("ask", QUESTION)
    assert (told.returncode, "Fontes" in told.stdout) == (0, True), told.stderr
    assert "Sources" in brazilian.run("ask", "--lang", "en", QUESTION).stdout
