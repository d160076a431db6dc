"""Invariant 5 over the whole system: every RPC, by a second tenant that knows every id of the first.

The cases, in foreign_calls.py, are held against the descriptors: a new RPC without a case fails here.
"""

from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor

from tests.house.processes import System
from tests.journeys.foreign_calls import CANARY, CASES, DENIED, SAME_ID, SECRET_TEXT, World
from tests.journeys.tenant import eventually, new_tenant
from tests.journeys.wire import CONTRACTS, Outcome, all_methods, call, contract_files, is_public, request_of, service_of

METHODS = [pytest.param(method, id=f"{method.containing_service.name}.{method.name}") for method in all_methods()]


@pytest.fixture(scope="module")
def world(system: System) -> World:
    """The first tenant owns one of everything, each marked with the canary."""
    first, second = new_tenant(system), new_tenant(system)
    first.admin.call(
        "PATCH",
        f"/v1/assistants/{first.assistant_id}",
        {"assistant": {"displayName": f"{CANARY} assistente"}, "updateMask": "displayName"},
    )
    document = first.admin.upload("segredo.txt", SECRET_TEXT.encode(), title=f"{CANARY} título")["document"]
    collection = first.admin.post("/v1/collections", {"collection": {"displayName": f"{CANARY} acervo"}})
    people = {"leaderId": first.assistant_id, "memberIds": [first.assistant_id]}
    team = first.admin.post("/v1/teams", {"team": {"displayName": f"{CANARY} equipe", **people}})
    first.admin.post("/v1/conversations", {"conversationId": SAME_ID, "title": f"{CANARY} conversa"})
    told = first.admin.ask(first.assistant_id, f"{CANARY}: com que senha abre o cofre da prefeitura?")
    assert CANARY in told.text
    conversation = f"/v1/conversations/{told.conversation_id}"
    first.admin.post(f"{conversation}/tasks", {"taskId": SAME_ID, "description": f"{CANARY} tarefa"})
    first.admin.post(f"{conversation}/events", {"eventId": SAME_ID, "type": "opened", "actor": CANARY})
    user = first.platform.post(
        f"/v1/tenants/{first.tenant_id}/users",
        {"displayName": CANARY, "email": f"{CANARY}-{uuid4()}@example.com", "role": "ROLE_MEMBER"},
    )
    person = f"/v1/tenants/{first.tenant_id}/users/{user['userId']}"
    password = "a senha da primeira"
    first.platform.post(f"{person}:setPassword", {"newPassword": password})
    session = first.platform.post("/v1/sessions:login", {"email": user["email"], "password": password})["session"]
    keys = first.admin.get(f"/v1/tenants/{first.tenant_id}/apiKeys")["apiKeys"]
    hook = {"url": f"https://example.org/{CANARY}", "displayName": CANARY}
    webhook = first.admin.post(f"/v1/tenants/{first.tenant_id}/webhooks", hook)["webhook"]
    analysis = first.admin.post(f"{conversation}:analyze", {})
    eventually(lambda: int(first.admin.get("/v1/reports/usage")["total"]["turns"]) == 1)
    return World(
        system=system,
        first=first,
        second=second,
        user_id=user["userId"],
        email=user["email"],
        session_id=session["sessionId"],
        key_id=keys[0]["keyId"],
        conversation_id=told.conversation_id,
        message_id=told.completed["messageId"],
        document_id=document["documentId"],
        reservation_id=first.ledger()[0]["reservationId"],
        webhook_id=webhook["webhookId"],
        collection_id=collection["collectionId"],
        team_id=team["teamId"],
        analysis_id=analysis["analysisId"],
    )


def test_every_rpc_has_a_case() -> None:
    assert {contract.DESCRIPTOR.name for contract in CONTRACTS} == contract_files()
    assert {f"{method.containing_service.name}.{method.name}" for method in all_methods()} == set(CASES)


@pytest.mark.parametrize("method", METHODS)
def test_a_second_tenant_sees_nothing(world: World, method: MethodDescriptor) -> None:
    case = CASES[f"{method.containing_service.name}.{method.name}"]
    fields = case.fields(world)
    outcome = _called(world, method, fields, world.token(world.second.admin.key))
    assert outcome.code is case.expected, outcome
    assert _no_canary(outcome, fields)
    if case.id_field:
        missing = _missing(fields[case.id_field])
        other = _called(world, method, {**fields, case.id_field: missing}, world.token(world.second.admin.key))
        assert outcome.without(fields[case.id_field]) == other.without(missing), (
            "a foreign id differs from a missing one"
        )


@pytest.mark.parametrize("method", METHODS)
def test_nobody_enters_without_a_credential_of_their_own(world: World, method: MethodDescriptor) -> None:
    if is_public(method):
        return
    fields = CASES[f"{method.containing_service.name}.{method.name}"].fields(world)
    nobody = _called(world, method, fields, "")
    assert (nobody.code, nobody.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_MISSING")
    first, second = world.token(world.first.admin.key), world.token(world.second.admin.key)
    posing = _called(world, method, fields, second, x_prosa_subject_token=first)
    assert posing.code is DENIED, "only a service may speak for somebody"
    assert _no_canary(posing, fields)


def test_the_second_tenant_finds_its_own_and_only_its_own(world: World) -> None:
    found = world.second.admin.post("/v1/documents:search", {"query": "com que senha abre o cofre"})
    own = {document["documentId"] for document in world.second.admin.get("/v1/documents")["documents"]}
    assert world.document_id not in own
    assert {passage["documentId"] for passage in found["passages"]} <= own


def _called(world: World, method: MethodDescriptor, fields: dict[str, Any], token: str, **metadata: str) -> Outcome:
    target = world.system.demo["services"][service_of(method)]
    return call(target, method, [request_of(method, fields).SerializeToString()], token, **metadata)


def _missing(existing: str) -> str:
    """An id of the same form that nothing has."""
    return str(uuid4()) if len(existing) == len(str(uuid4())) else existing[::-1]


def _no_canary(outcome: Outcome, sent: dict[str, Any]) -> bool:
    received = outcome.received
    for echoed in (SECRET_TEXT,) if SECRET_TEXT in str(sent) else ():
        received = received.replace(echoed.encode(), b"")
    return CANARY.encode() not in received
