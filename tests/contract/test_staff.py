"""The admin API opens to staff keys and to nobody else, and stays shut for keys that are revoked."""

import json
import secrets

import httpx

from tests.contract.conftest import TenantOfTest
from tests.contract.test_keys import code_of
from tests.stack import Stack


def added(stack: Stack, role: str = "finance") -> dict[str, str]:
    email = f"{secrets.token_hex(6)}@example.com"
    return stack.cli("staff", "add", "林美玲", "--email", email, "--role", role)


def test_a_member_reads_who_they_are_until_they_are_revoked(stack: Stack) -> None:
    member = added(stack)
    with stack.http(member["key"]) as http:
        answer = http.get("/v1/admin/me")
        assert answer.status_code == 200
        assert answer.json() == {
            "id": member["staff_id"],
            "name": "林美玲",
            "email": member["email"],
            "role": "finance",
            "key_expires": None,
            "object": "staff_member",
        }
        assert answer.headers["x-request-id"]
        new = stack.cli("staff", "rotate-key", member["staff_id"])["key"]
        assert code_of(http.get("/v1/admin/me")) == (401, "unknown_staff_key")
        http.headers["authorization"] = f"Bearer {new}"
        assert http.get("/v1/admin/me").status_code == 200
        assert stack.cli("staff", "revoke", member["staff_id"])["state"] == "revoked"
        assert code_of(http.get("/v1/admin/me")) == (401, "revoked_staff_key")


def test_each_kind_of_key_opens_its_own_part_and_says_so_at_the_other(
    stack: Stack, tenant: TenantOfTest
) -> None:
    member = added(stack)
    with stack.http(tenant.key) as http:
        refused = http.get("/v1/admin/me")
        assert code_of(refused) == (401, "wrong_kind_of_key")
        assert tenant.key not in refused.text
    with stack.http(member["key"]) as http:
        refused = http.get("/v1/usage")
        assert code_of(refused) == (401, "wrong_kind_of_key")
        assert member["key"] not in refused.text
    assert code_of(httpx.get(f"{stack.url}/v1/admin/me")) == (401, "missing_staff_key")


def test_the_list_of_members_holds_no_secret(stack: Stack) -> None:
    member = added(stack, "operator")
    listed = stack.run_cli("staff", "list", "--json").stdout
    assert member["staff_id"] in {one["staff_id"] for one in json.loads(listed)["staff"]}
    assert member["key"].rsplit("_", 1)[1] not in listed
    assert member["email"] in stack.run_cli("staff", "list").stdout


def test_a_bad_member_is_one_line_and_a_status(stack: Stack) -> None:
    for arguments in (
        ["add", "A", "--email", "nobody", "--role", "finance"],
        ["add", "A", "--email", "a@example.com", "--role", "owner"],
        ["add", "A", "--email", "a@example.com", "--role", "finance", "--expires", "soon"],
        ["revoke", "stf_unknown"],
        ["rotate-key", "stf_unknown"],
    ):
        done = stack.run_cli("staff", *arguments)
        assert done.returncode != 0
        assert done.stderr.strip().splitlines()[-1].startswith("Error:")
