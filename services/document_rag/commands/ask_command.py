"""`prosa-ask`: asks an assistant or a team and shows its answer as it is written, with what it cites.

Without a question it reads one from standard input, or, at a terminal, goes on asking until Ctrl-D.

exit codes:
  0    answered
  1    the answer failed or broke off
  2    the command line is wrong
  3    the gateway is away or refuses the key
  4    the documents do not hold the answer
  5    the quota has no tokens left for an answer
  130  interrupted
"""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import uuid4

from rich.console import Console

from services.document_rag.commands.config import CommandConfig
from services.document_rag.commands.gateway_client import GatewayClient, GatewayError, Json
from services.document_rag.commands.last_conversation import LastConversation
from services.document_rag.commands.words import LANGUAGES, Words

ANSWERED, BROKE_OFF, WRONG_USE, UNREACHABLE, NOT_IN_DOCUMENTS, NO_QUOTA, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
_QUOTE_CHARACTERS = 160


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Does what the command line says; the exit code."""
    asked = _parser().parse_args(arguments)
    config = CommandConfig.with_options(asked.url, asked.api_key)
    words = Words(asked.lang or config.words)
    view = _JsonView() if asked.json else _TextView(Console(highlight=False), words)
    talk = _Talk(config, asked, words, view)
    try:
        return asyncio.run(talk.run())
    except KeyboardInterrupt:
        return INTERRUPTED
    except GatewayError as error:
        _complain(words("unreachable", words.error(error.reason, error.message)))
        return UNREACHABLE if error.concerns_every_call else BROKE_OFF
    except _WrongUseError as error:
        _complain(str(error))
        return WRONG_USE


class _WrongUseError(Exception):
    """What a person has to say differently."""


@dataclass
class _Answer:
    """What a turn has told so far."""

    conversation_id: str = ""
    text: str = ""
    citations: list[Json] = field(default_factory=list)
    steps: list[Json] = field(default_factory=list)
    unsupported: list[str] = field(default_factory=list)
    completed: Json = field(default_factory=dict)

    @property
    def cited(self) -> list[Json]:
        """The passages that the text names by number."""
        return [each for each in self.citations if f"[{each['number']}]" in self.text]


class _JsonView:
    """One JSON object an answer."""

    def delta(self, _text: str) -> None:
        return

    def step(self, _step: Json) -> None:
        return

    def answered(self, answer: _Answer) -> None:
        told = {
            "conversationId": answer.conversation_id,
            "text": answer.text,
            "citations": answer.cited,
            "unsupported": answer.unsupported,
            "steps": answer.steps,
            "completed": answer.completed,
        }
        sys.stdout.write(json.dumps(told, ensure_ascii=False) + "\n")


class _TextView:
    """The text as it comes, then what it cites."""

    def __init__(self, console: Console, words: Words) -> None:
        self._console = console
        self._words = words

    def delta(self, text: str) -> None:
        self._console.out(text, end="", highlight=False)
        self._console.file.flush()

    def step(self, step: Json) -> None:
        """What the members of a team do goes beside the answer, not into it."""
        parts = (step.get("displayName", ""), self._words(step.get("kind", "")), self._words(step.get("state", "")))
        sys.stderr.write("· " + ": ".join(filter(None, parts)) + "\n")

    def answered(self, answer: _Answer) -> None:
        show = self._console.out
        show("")
        if reason := _cut_short(answer.completed):
            show(self._words("cut_short", reason))
        for sentence in answer.unsupported:
            show(self._words("unsupported", sentence))
        if answer.cited:
            show(f"\n{self._words('sources')}")
        for each in answer.cited:
            page = self._words("page", each["page"]) if each.get("page") else ""
            show(f"[{each['number']}] {', '.join(filter(None, [each.get('title', ''), page]))}: “{_quote(each)}”")
        show(f"\n{self._words('conversation', answer.conversation_id)}")


class _Talk:
    """One question, or one after another in the same conversation."""

    def __init__(
        self, config: CommandConfig, asked: argparse.Namespace, words: Words, view: _JsonView | _TextView
    ) -> None:
        self._config = config
        self._asked = asked
        self._words = words
        self._view = view

    async def run(self) -> int:
        if self._config.fault:
            raise _WrongUseError(self._words(*self._config.fault))
        async with GatewayClient.opened(self._config) as client:
            path = await self._path(client)
            last = LastConversation(self._config.state_home, client.url, path)
            conversation_id = self._conversation(last)
            code = ANSWERED
            async for question in self._questions():
                answer, code = await self._turn(client, path, conversation_id, question)
                if answer.conversation_id:
                    conversation_id = answer.conversation_id
                    last.write(conversation_id)
            return code

    def _conversation(self, last: LastConversation) -> str:
        if self._asked.conversation or not self._asked.go_on:
            return str(self._asked.conversation)
        if kept := last.read():
            return kept
        raise _WrongUseError(self._words("no_conversation"))

    async def _path(self, client: GatewayClient) -> str:
        """Of the team or the assistant that is asked."""
        if self._asked.team:
            return f"/v1/teams/{self._asked.team}"
        named = self._asked.assistant or self._config.assistant_id
        return f"/v1/assistants/{named or await self._only_assistant(client)}"

    async def _only_assistant(self, client: GatewayClient) -> str:
        there: list[Json] = (await client.get("/v1/assistants")).get("assistants", [])
        if len(there) == 1:
            return str(there[0]["assistantId"])
        names = [f"  {each['assistantId']}  {each['displayName']}" for each in there]
        raise _WrongUseError("\n".join([self._words("which_assistant" if there else "no_assistant"), *names]))

    async def _questions(self) -> AsyncIterator[str]:
        if self._asked.question:
            yield " ".join(self._asked.question)
        elif not sys.stdin.isatty():
            yield sys.stdin.read().strip()
        else:
            with suppress(EOFError):
                while True:
                    if question := (await _typed(self._words("prompt"))).strip():
                        yield question

    async def _turn(self, client: GatewayClient, path: str, conversation_id: str, question: str) -> tuple[_Answer, int]:
        if not question:
            raise _WrongUseError(self._words("no_question"))
        body = {
            "question": question,
            "conversationId": conversation_id,
            "channel": "terminal",
            "requestId": str(uuid4()),
        }
        answer = _Answer()
        try:
            async for name, payload in client.events("POST", f"{path}:ask", body):
                self._take(answer, name, payload)
        except GatewayError as error:
            self._view.delta("\n" if answer.text else "")
            _complain(self._words.error(error.reason, error.message))
            return answer, _failure(error)
        self._view.answered(answer)
        return answer, NOT_IN_DOCUMENTS if answer.completed.get("notInDocuments") else ANSWERED

    def _take(self, answer: _Answer, name: str, payload: Json) -> None:
        match name:
            case "accepted":
                answer.conversation_id = payload[name]["conversationId"]
            case "citation":
                answer.citations.append(payload[name])
            case "textDelta" | "text_delta":
                text = payload["textDelta"]["text"]
                answer.text += text
                self._view.delta(text)
            case "step":
                answer.steps.append(payload[name])
                self._view.step(payload[name])
            case "verification":
                answer.unsupported = _unsupported(answer.text, payload[name])
            case "completed":
                answer.completed = payload[name]


async def _typed(prompt: str) -> str:
    """The next line of the terminal; EOFError at Ctrl-D. No thread waits for it, which Ctrl-C could not end."""
    sys.stdout.write(prompt)
    sys.stdout.flush()
    loop, there = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin, there.set)
    try:
        await there.wait()
    finally:
        loop.remove_reader(sys.stdin)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


def _unsupported(text: str, verification: Json) -> list[str]:
    return [
        text[int(each.get("charStart", 0)) : int(each["charEnd"])].strip()
        for each in verification.get("sentences", [])
        if str(each.get("support", "")).endswith("UNSUPPORTED")
    ]


def _cut_short(completed: Json) -> str:
    reason = str(completed.get("finishReason", "")).removeprefix("FINISH_REASON_")
    return "" if reason in ("STOP", "") else reason.lower()


def _failure(error: GatewayError) -> int:
    if error.reason == "QUOTA_EXCEEDED":
        return NO_QUOTA
    return UNREACHABLE if error.concerns_every_call else BROKE_OFF


def _quote(citation: Json) -> str:
    quote = " ".join(str(citation.get("quote", "")).split())
    return quote if len(quote) <= _QUOTE_CHARACTERS else quote[: _QUOTE_CHARACTERS - 1].rstrip() + "…"


def _complain(text: str) -> None:
    sys.stderr.write(f"prosa-ask: {text}\n")


def _parser() -> argparse.ArgumentParser:
    about, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="prosa-ask",
        description=about.partition(": ")[2],
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("question", nargs="*", help="what to ask")
    add("--url", default="", help="the gateway's address (PROSA_URL, else http://127.0.0.1:8080)")
    add("--api-key", default="", help="better in PROSA_API_KEY, where other users of the machine do not see it")
    add("--assistant", default="", metavar="ID", help="whom to ask (PROSA_ASSISTANT_ID, else the only one there is)")
    add("--team", default="", metavar="ID", help="ask this team instead of an assistant")
    add("--conversation", default="", metavar="ID", help="the conversation to go on with")
    add("-c", "--continue", dest="go_on", action="store_true", help="go on with the last conversation")
    add("--json", action="store_true", help="a JSON object an answer, on standard output")
    add("--lang", choices=LANGUAGES, default="", help="language of the messages (that of the locale)")
    return parser
