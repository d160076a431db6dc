"""TenantService through the real wire: tenants and users, and who may name whom."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from prosa.tenant_quota.v1 import session_service_pb2 as sessions
from prosa.tenant_quota.v1 import tenant_service_pb2 as pb
from services.tenant_quota.model import Role
from tests.tenant_quota.world import Platform, fresh, new_tenant, new_user, refusal


def create_user(tenant_id: str, email: str, user_id: str = "", request_id: str = "") -> pb.CreateUserRequest:
    return pb.CreateUserRequest(
        tenant_id=tenant_id,
        display_name="Maria",
        email=email,
        role=pb.ROLE_MEMBER,
        user_id=user_id,
        request_id=request_id,
    )


async def test_a_tenant_is_created_read_changed_and_deactivated(platform: Platform) -> None:
    admin, stub = platform.admin(), platform.tenants
    made = await stub.CreateTenant(pb.CreateTenantRequest(display_name="  Prefeitura de Exemplo "), metadata=admin)
    assert (made.display_name, made.time_zone, made.active) == ("Prefeitura de Exemplo", "America/Sao_Paulo", True)
    assert made.create_time == made.update_time or made.create_time.ToNanoseconds() <= made.update_time.ToNanoseconds()
    assert await stub.GetTenant(pb.GetTenantRequest(tenant_id=made.tenant_id), metadata=admin) == made

    changed = await stub.UpdateTenant(
        pb.UpdateTenantRequest(
            tenant_id=made.tenant_id,
            tenant=pb.Tenant(display_name="Outra", time_zone="America/Manaus"),
            update_mask=FieldMask(paths=["display_name"]),
        ),
        metadata=admin,
    )
    assert (changed.display_name, changed.time_zone) == ("Outra", "America/Sao_Paulo")
    assert changed.update_time.ToNanoseconds() > made.update_time.ToNanoseconds()

    gone = pb.DeactivateTenantRequest(tenant_id=made.tenant_id)
    first, second = [await stub.DeactivateTenant(gone, metadata=admin) for _ in range(2)]
    assert not first.active
    assert first == second
    back = pb.ActivateTenantRequest(tenant_id=made.tenant_id)
    third, fourth = [await stub.ActivateTenant(back, metadata=admin) for _ in range(2)]
    assert third.active
    assert third == fourth


async def test_repeating_a_request_id_gives_the_same_response(platform: Platform) -> None:
    admin, stub = platform.admin(), platform.tenants
    request = pb.CreateTenantRequest(display_name="Repetida", request_id=fresh("request"))
    first = await stub.CreateTenant(request, metadata=admin)
    mask = FieldMask(paths=["display_name"])
    rename = pb.UpdateTenantRequest(tenant_id=first.tenant_id, tenant=pb.Tenant(display_name="X"), update_mask=mask)
    await stub.UpdateTenant(rename, metadata=admin)
    assert await stub.CreateTenant(request, metadata=admin) == first

    request.display_name = "Outra"
    assert (await refusal(stub.CreateTenant(request, metadata=admin))).reason == "REQUEST_ID_REUSED"

    user = create_user(first.tenant_id, f"{fresh('u')}@example.org", request_id="u-1")
    answers = await asyncio.gather(*(stub.CreateUser(user, metadata=admin) for _ in range(10)))
    assert len({answer.SerializeToString(deterministic=True) for answer in answers}) == 1


async def test_an_id_that_is_taken_already_exists(platform: Platform) -> None:
    admin, stub = platform.admin(), platform.tenants
    tenant_id = await new_tenant(platform.pool)
    refused = await refusal(
        stub.CreateTenant(pb.CreateTenantRequest(tenant_id=tenant_id, display_name="X"), metadata=admin)
    )
    assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "RESOURCE_ALREADY_EXISTS")
    user_id = await new_user(platform.pool, tenant_id)
    again = create_user(tenant_id, "novo@example.org", user_id=user_id)
    assert (await refusal(stub.CreateUser(again, metadata=admin))).code is grpc.StatusCode.ALREADY_EXISTS


async def test_an_address_is_unique_on_the_platform_whatever_its_case(platform: Platform) -> None:
    admin, stub = platform.admin(), platform.tenants
    one, other = await new_tenant(platform.pool), await new_tenant(platform.pool)
    name = fresh("maria")
    made = await stub.CreateUser(create_user(one, f"{name}@Example.ORG"), metadata=admin)
    assert made.email == f"{name}@example.org"
    taken = await refusal(stub.CreateUser(create_user(other, f"{name.upper()}@example.org"), metadata=admin))
    assert taken.code is grpc.StatusCode.ALREADY_EXISTS

    second = await stub.CreateUser(create_user(other, f"x{name}@example.org"), metadata=admin)
    change = pb.UpdateUserRequest(
        tenant_id=other,
        user_id=second.user_id,
        user=pb.User(email=f"{name}@EXAMPLE.org"),
        update_mask=FieldMask(paths=["email"]),
    )
    assert (await refusal(stub.UpdateUser(change, metadata=admin))).code is grpc.StatusCode.ALREADY_EXISTS


@pytest.mark.parametrize(
    ("tenant", "paths", "field"),
    [
        (pb.Tenant(display_name=" "), ["display_name"], "tenant.display_name"),
        (pb.Tenant(display_name="x" * 201), ["display_name"], "tenant.display_name"),
        (pb.Tenant(time_zone="America/Nowhere"), ["time_zone"], "time_zone"),
        (pb.Tenant(time_zone="<+03>-3"), ["time_zone"], "time_zone"),
        (pb.Tenant(), ["tenant_id"], "update_mask"),
        (pb.Tenant(), [], "update_mask"),
        (pb.Tenant(display_name="nul\0"), ["display_name"], "tenant.display_name"),
    ],
)
async def test_a_change_that_makes_no_sense_is_an_invalid_argument(
    platform: Platform, tenant: pb.Tenant, paths: list[str], field: str
) -> None:
    tenant_id = await new_tenant(platform.pool)
    request = pb.UpdateTenantRequest(tenant_id=tenant_id, tenant=tenant, update_mask=FieldMask(paths=paths))
    refused = await refusal(platform.tenants.UpdateTenant(request, metadata=platform.admin()))
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.fields == [field]


@pytest.mark.parametrize(
    ("user", "paths", "field"),
    [
        (pb.User(email="nobody"), ["email"], "user.email"),
        (pb.User(role=pb.ROLE_PLATFORM_ADMIN), ["role"], "user.role"),
        (pb.User(role=pb.ROLE_UNSPECIFIED), ["role"], "user.role"),
        (pb.User(role=77), ["role"], "user.role"),  # type: ignore[arg-type]
        (pb.User(), ["create_time"], "update_mask"),
    ],
)
async def test_a_user_cannot_become_what_no_user_is(
    platform: Platform, user: pb.User, paths: list[str], field: str
) -> None:
    tenant_id = await new_tenant(platform.pool)
    user_id = await new_user(platform.pool, tenant_id)
    mask = FieldMask(paths=paths)
    request = pb.UpdateUserRequest(tenant_id=tenant_id, user_id=user_id, user=user, update_mask=mask)
    refused = await refusal(platform.tenants.UpdateUser(request, metadata=platform.admin()))
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_an_administrator_of_a_tenant_manages_its_users(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool)
    boss, stub = platform.caller(tenant_id, Role.TENANT_ADMIN), platform.tenants
    made = await stub.CreateUser(create_user(tenant_id, f"{fresh('m')}@example.org"), metadata=boss)
    address = {"tenant_id": tenant_id, "user_id": made.user_id}
    assert await stub.GetUser(pb.GetUserRequest(**address), metadata=boss) == made
    promote = pb.UpdateUserRequest(
        **address,
        user=pb.User(role=pb.ROLE_TENANT_ADMIN, active=False),
        update_mask=FieldMask(paths=["role", "active"]),
    )
    changed = await stub.UpdateUser(promote, metadata=boss)
    assert (changed.role, changed.active, changed.email) == (pb.ROLE_TENANT_ADMIN, False, made.email)


async def test_pages_go_from_the_newest_to_the_oldest_without_gap_or_repetition(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool)
    users = [await new_user(platform.pool, tenant_id) for _ in range(7)]
    boss, stub = platform.caller(tenant_id, Role.TENANT_ADMIN), platform.tenants
    seen: list[str] = []
    request = pb.ListUsersRequest(tenant_id=tenant_id, page_size=3)
    while True:
        page = await stub.ListUsers(request, metadata=boss)
        seen += [user.user_id for user in page.users]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == users[::-1]

    other = await new_tenant(platform.pool)
    request.tenant_id = other
    refused = await refusal(stub.ListUsers(request, metadata=platform.admin()))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_MISMATCH")


async def test_tenants_are_listed_in_pages_for_the_platform_alone(platform: Platform) -> None:
    newest = [await new_tenant(platform.pool) for _ in range(3)][::-1]
    stub = platform.tenants
    first = await stub.ListTenants(pb.ListTenantsRequest(page_size=2), metadata=platform.admin())
    assert [tenant.tenant_id for tenant in first.tenants] == newest[:2]
    rest = pb.ListTenantsRequest(page_size=2, page_token=first.next_page_token)
    assert (await stub.ListTenants(rest, metadata=platform.admin())).tenants[0].tenant_id == newest[2]
    boss = platform.caller(newest[0], Role.TENANT_ADMIN)
    refused = await refusal(stub.ListTenants(pb.ListTenantsRequest(), metadata=boss))
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_MISSING")


async def test_naming_another_tenant_is_refused_alike_whether_it_exists_or_not(platform: Platform) -> None:
    own, other = await new_tenant(platform.pool), await new_tenant(platform.pool)
    boss, stub = platform.caller(own, Role.TENANT_ADMIN), platform.tenants
    calls: dict[Callable[..., Awaitable[object]], Callable[[str], Message]] = {
        stub.GetTenant: lambda name: pb.GetTenantRequest(tenant_id=name),
        stub.CreateUser: lambda name: create_user(name, "x@example.org"),
        stub.GetUser: lambda name: pb.GetUserRequest(tenant_id=name, user_id="u"),
        stub.ListUsers: lambda name: pb.ListUsersRequest(tenant_id=name),
        stub.UpdateUser: lambda name: pb.UpdateUserRequest(
            tenant_id=name, user_id="u", user=pb.User(active=True), update_mask=FieldMask(paths=["active"])
        ),
        stub.CreateApiKey: lambda name: pb.CreateApiKeyRequest(tenant_id=name),
        stub.ListApiKeys: lambda name: pb.ListApiKeysRequest(tenant_id=name),
        stub.RevokeApiKey: lambda name: pb.RevokeApiKeyRequest(tenant_id=name, key_id="k"),
        stub.RotateApiKey: lambda name: pb.RotateApiKeyRequest(tenant_id=name, key_id="k"),
        stub.UpdateApiKey: lambda name: pb.UpdateApiKeyRequest(
            tenant_id=name,
            key_id="k",
            api_key=pb.ApiKey(display_name="x"),
            update_mask=FieldMask(paths=["display_name"]),
        ),
        platform.sessions.ListSessions: lambda name: sessions.ListSessionsRequest(tenant_id=name, user_id="u"),
        platform.sessions.RevokeSession: lambda name: sessions.RevokeSessionRequest(
            tenant_id=name, user_id="u", session_id="s"
        ),
        platform.sessions.SetPassword: lambda name: sessions.SetPasswordRequest(
            tenant_id=name, user_id="u", new_password="correct horse battery"
        ),
    }
    for method, request in calls.items():
        answers = [await refusal(method(request(name), metadata=boss)) for name in (other, "missing", "*")]
        assert {answer.code for answer in answers} == {grpc.StatusCode.PERMISSION_DENIED}
        assert {answer.reason for answer in answers} == {"TENANT_MISMATCH"}
        assert len({answer.without_trace() for answer in answers}) == 1


async def test_what_is_no_tenant_is_not_found_for_the_platform_administrator(platform: Platform) -> None:
    admin, stub = platform.admin(), platform.tenants
    for name in ("missing", "*", "a,b", "nul\0", "é"):
        for call in (
            stub.GetTenant(pb.GetTenantRequest(tenant_id=name), metadata=admin),
            stub.ListUsers(pb.ListUsersRequest(tenant_id=name), metadata=admin),
            stub.ListApiKeys(pb.ListApiKeysRequest(tenant_id=name), metadata=admin),
            stub.DeactivateTenant(pb.DeactivateTenantRequest(tenant_id=name), metadata=admin),
            stub.ActivateTenant(pb.ActivateTenantRequest(tenant_id=name), metadata=admin),
        ):
            assert (await refusal(call)).code is grpc.StatusCode.NOT_FOUND
    user = create_user("missing", f"{fresh('x')}@example.org")
    assert (await refusal(stub.CreateUser(user, metadata=admin))).code is grpc.StatusCode.NOT_FOUND


async def test_a_foreign_user_is_the_same_as_a_missing_one(platform: Platform) -> None:
    own, other = await new_tenant(platform.pool), await new_tenant(platform.pool)
    foreign = await new_user(platform.pool, other)
    boss, stub = platform.caller(own, Role.TENANT_ADMIN), platform.tenants
    found = await refusal(stub.GetUser(pb.GetUserRequest(tenant_id=own, user_id=foreign), metadata=boss))
    missing = await refusal(stub.GetUser(pb.GetUserRequest(tenant_id=own, user_id="x" * len(foreign)), metadata=boss))
    assert found.code is grpc.StatusCode.NOT_FOUND
    assert found.without_trace().replace(foreign.encode(), b"x" * len(foreign)) == missing.without_trace()


async def test_a_member_manages_nothing(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool)
    member = platform.caller(tenant_id, Role.MEMBER, "u")
    refused = await refusal(platform.tenants.ListUsers(pb.ListUsersRequest(tenant_id=tenant_id), metadata=member))
    assert (refused.code, refused.metadata) == (
        grpc.StatusCode.PERMISSION_DENIED,
        {"permission": "tenant.manage"},
    )
