"""Programs that write without pause and remember what was acknowledged; and the verdict on what was kept."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import uuid4

import httpx

from tests.journeys.tenant import PATIENCE_SECONDS, Client, Tenant

RETRY_PAUSE_SECONDS = 0.1
GIVE_UP_SECONDS = 150.0


@dataclass
class Writer:
    """Appends pairs to one conversation, each under one request_id until it is acknowledged."""

    client: Client
    conversation_id: str
    acknowledged: dict[str, list[int]] = field(default_factory=dict)
    sent: int = 0

    def write(self, stop: threading.Event) -> None:
        """Until told to stop; the last pair is seen through."""
        while not stop.is_set():
            self.sent += 1
            request_id = f"{self.conversation_id}-{self.sent}"
            self.acknowledged[request_id] = self._append(request_id)

    def _append(self, request_id: str) -> list[int]:
        body = {
            "requestId": request_id,
            "messages": [
                {"type": "MESSAGE_TYPE_USER", "text": f"{request_id} pergunta"},
                {"type": "MESSAGE_TYPE_ASSISTANT", "text": f"{request_id} resposta"},
            ],
        }
        path = f"/v1/conversations/{self.conversation_id}/messages"
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while True:
            try:
                response = self.client.http.post(path, json=body)
                if response.status_code == 200:
                    return [int(message["seq"]) for message in response.json()["messages"]]
                outcome = f"{response.status_code} {response.text}"
                assert response.status_code in (409, 500, 503, 504), outcome
            except httpx.TransportError as error:
                outcome = repr(error)
            assert time.monotonic() < deadline, f"never acknowledged: {outcome}"
            time.sleep(RETRY_PAUSE_SECONDS)

    def check(self) -> None:
        """Acknowledged ⊆ stored, no duplicates, dense seq, each pair side by side."""
        stored: list[tuple[int, str]] = []
        while page := self._page(after=stored[-1][0] if stored else 0):
            stored += page
        assert [seq for seq, _ in stored] == list(range(1, len(stored) + 1))
        positions = {text: seq for seq, text in stored}
        assert len(positions) == len(stored), "a retry made a duplicate"
        for request_id, (question, answer) in self.acknowledged.items():
            assert answer == question + 1
            assert positions[f"{request_id} pergunta"] == question
            assert positions[f"{request_id} resposta"] == answer

    def _page(self, after: int) -> list[tuple[int, str]]:
        path = f"/v1/conversations/{self.conversation_id}/messages"
        listed = self.client.get(path, afterSeq=after, pageSize=1000)["messages"]
        return [(int(message["seq"]), message["text"]) for message in listed]


@contextmanager
def writing(tenant: Tenant, writers: int = 4) -> Iterator[list[Writer]]:
    """So many writers at work inside the block; stopped and seen through at its end."""
    stop = threading.Event()
    at_work = [_new_writer(tenant) for _ in range(writers)]
    failures: list[BaseException] = []

    def run(writer: Writer) -> None:
        try:
            writer.write(stop)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(writer,)) for writer in at_work]
    for thread in threads:
        thread.start()
    try:
        yield at_work
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]


def _new_writer(tenant: Tenant) -> Writer:
    client = Client(tenant.admin.gateway, tenant.admin.key, patience_seconds=PATIENCE_SECONDS)
    made = client.post("/v1/conversations", {"conversationId": f"carga-{uuid4()}"})
    return Writer(client, made["conversationId"])
