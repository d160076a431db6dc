"""A tenant of its own for a journey, and the ways in which its programs talk to the gateway."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx

from tests.house.processes import System
from tests.house.zones import AT_NOON

PATIENCE_SECONDS = 60.0

Json = dict[str, Any]


@dataclass
class Told:
    """What a turn's stream held."""

    status: int
    events: list[tuple[str, Json]] = field(default_factory=list)
    error: Json | None = None

    def of(self, name: str) -> list[Json]:
        """The payloads of the events with that name, in order."""
        return [event[name] for kind, event in self.events if kind == name]

    @property
    def text(self) -> str:
        """The answer as it was streamed."""
        return "".join(delta["text"] for delta in self.of("textDelta"))

    @property
    def conversation_id(self) -> str:
        """The conversation that the stream named first."""
        return str(self.of("accepted")[0]["conversationId"])

    @property
    def completed(self) -> Json:
        """The last step; fails the test when the turn did not complete."""
        assert self.of("completed"), (self.status, self.events, self.error)
        return self.of("completed")[-1]


class Client:
    """One API key at the gateway."""

    def __init__(self, gateway: str, key: str, *, patience_seconds: float = 0.0) -> None:
        self.gateway = gateway
        self.key = key
        self.patience_seconds = patience_seconds
        self.http = httpx.Client(base_url=gateway, headers={"authorization": f"Bearer {key}"}, timeout=60)

    def call(self, method: str, path: str, body: Json | None = None, **query: Any) -> Json:
        """The response's JSON; fails the test unless it is 200. With patience, 503 is asked again as clients do."""
        give_up = time.monotonic() + self.patience_seconds
        while True:
            response = self.http.request(method, path, json=body, params=query or None)
            if response.status_code != 503 or time.monotonic() > give_up:
                break
            time.sleep(0.2)
        assert response.status_code == 200, (method, path, response.status_code, response.text)
        answer: Json = response.json()
        return answer

    def get(self, path: str, **query: Any) -> Json:
        """GET."""
        return self.call("GET", path, **query)

    def post(self, path: str, body: Json | None = None) -> Json:
        """POST."""
        return self.call("POST", path, body or {})

    def upload(self, filename: str, content: bytes, **query: str) -> Json:
        """Uploads a document; the response with its verdict."""
        response = self.http.post("/v1/documents:upload", content=content, params={"filename": filename, **query})
        assert response.status_code == 200, response.text
        answer: Json = response.json()
        return answer

    def ask(self, assistant_id: str, question: str, **fields: Any) -> Told:
        """A turn, read to its end."""
        with self.asking(assistant_id, question, **fields) as (told, events):
            for _ in events:
                pass
        return told

    @contextmanager
    def asking(self, assistant_id: str, question: str, **fields: Any) -> Iterator[tuple[Told, Iterator[str]]]:
        """A turn under way: iterate to read on, leave the block to hang up."""
        path = f"/v1/assistants/{assistant_id}:ask"
        with self.streaming(path, {"question": question, **fields}) as (told, events):
            yield told, events

    @contextmanager
    def streaming(self, path: str, body: Json) -> Iterator[tuple[Told, Iterator[str]]]:
        """Any turn under way."""
        with self.http.stream("POST", path, json=body) as response:
            told = Told(response.status_code)
            yield told, self._events(response, told)

    def messages(self, conversation_id: str) -> list[Json]:
        """All messages of a conversation, oldest first."""
        listed: list[Json] = self.get(f"/v1/conversations/{conversation_id}/messages", pageSize=1000)["messages"]
        return listed

    def _events(self, response: httpx.Response, told: Told) -> Iterator[str]:
        if response.status_code != 200:
            told.error = json.loads(response.read())
            return
        name = ""
        for line in response.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                payload = json.loads(line.removeprefix("data: "))
                if name == "error":
                    told.error = payload
                elif name != "end":
                    told.events.append((next(iter(payload)), payload))
                yield name


@dataclass
class Tenant:
    """A fresh tenant: its administrator's key, the platform's, and one assistant."""

    tenant_id: str
    admin: Client
    platform: Client
    assistant_id: str

    def set_quota(self, **limits: int) -> None:
        """The tenant's limits: tokensPerDay, tokensPerMonth."""
        self.platform.call("PUT", f"/v1/tenants/{self.tenant_id}/quota", dict(limits))

    def held_tokens(self) -> int:
        """Tokens held now, by day's counter."""
        return sum(int(usage["heldTokens"]) for usage in self.usages("WINDOW_DAY"))

    def used_tokens(self) -> int:
        """Tokens used today."""
        return sum(int(usage["usedTokens"]) for usage in self.usages("WINDOW_DAY"))

    def usages(self, window: str) -> list[Json]:
        """The tenant's own counters of that window."""
        usages: list[Json] = self.admin.get("/v1/usage")["usages"]
        return [usage for usage in usages if usage["window"] == window and not usage["userId"]]

    def ledger(self) -> list[Json]:
        """Every ledger entry, newest first."""
        entries: list[Json] = self.admin.get("/v1/ledger", pageSize=1000)["entries"]
        return entries

    def member(self, name: str) -> Client:
        """A new user of the tenant with a key of their own."""
        user = self.platform.post(
            f"/v1/tenants/{self.tenant_id}/users",
            {"displayName": name, "email": f"{name}-{uuid4()}@example.com", "role": "ROLE_MEMBER"},
        )
        return self.key("ROLE_MEMBER", user["userId"])

    def key(self, role: str, user_id: str = "") -> Client:
        """A new key of the tenant."""
        made = self.platform.post(f"/v1/tenants/{self.tenant_id}/apiKeys", {"role": role, "userId": user_id})
        return Client(self.admin.gateway, made["secret"])


def new_tenant(
    system: System, *, model: str = "extractive", max_output_tokens: int = 0, patience_seconds: float = 0.0
) -> Tenant:
    """A tenant nobody else uses, with an assistant that answers with `model`; its clients have so much patience."""
    platform = Client(system.gateway, system.demo["admin_key"], patience_seconds=patience_seconds)
    tenant_id = platform.post("/v1/tenants", {"displayName": "Prefeitura de Teste", "timeZone": AT_NOON})["tenantId"]
    made = platform.post(f"/v1/tenants/{tenant_id}/apiKeys", {"role": "ROLE_TENANT_ADMIN"})
    admin = Client(system.gateway, made["secret"], patience_seconds=patience_seconds)
    assistant = admin.post(
        "/v1/assistants",
        {"assistant": {"displayName": "Assistente", "model": model, "maxOutputTokens": max_output_tokens}},
    )
    return Tenant(tenant_id, admin, platform, assistant["assistantId"])


def eventually(condition: Callable[[], bool], within_seconds: float = PATIENCE_SECONDS) -> None:
    """Waits until the condition holds; fails the test when it never does."""
    deadline = time.monotonic() + within_seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.05)
