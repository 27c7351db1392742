"""Who may call which endpoint; taken from the OpenAPI document, so that none that is new is forgotten."""

import re
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.console import Client, Console
from workers.console.api.app import create_app

if TYPE_CHECKING:
    from workers.console.services import Services

#: What anybody may call.
PUBLIC = {("GET", "/healthz"), ("GET", "/readyz"), ("POST", "/api/session")}
#: What every operator may change: their own session and password.
OWN = {("DELETE", "/api/session"), ("PUT", "/api/session/password")}
#: What automations call.
AUTOMATIONS = {
    ("POST", "/api/automations/{automation_id}/openai-key"),
    ("POST", "/api/automations/{automation_id}/openai-usage"),
}
#: What only admins may look at.
ADMINS_ONLY = {("GET", "/api/operators"), ("GET", "/api/tokens")}
PARAMETERS = {
    "automation_id": "billing-bot",
    "key_id": "key-0123456789abcdef",
    "letter_id": "0123456789ab",
    "request_id": "r-1",
    "username": "somebody",
    "token_id": "0123456789ab",
}


def endpoints() -> list[tuple[str, str]]:
    """Every method of every path that there is."""
    document = create_app(cast("Services", None)).openapi()
    return [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]


ALL = endpoints()
CHANGES = [
    endpoint for endpoint in ALL if endpoint[0] != "GET" and endpoint not in PUBLIC | OWN | AUTOMATIONS
]


async def status_of(client: Client, endpoint: tuple[str, str], body: Any = None) -> int:
    method, template = endpoint
    path = re.sub(r"\{(\w+)\}", lambda found: PARAMETERS[found[1]], template)
    return (await client.call(method, path, body)).status


def test_the_document_has_every_endpoint() -> None:
    assert len(ALL) > 40
    assert set(ALL) >= PUBLIC | OWN | AUTOMATIONS | ADMINS_ONLY


@pytest.mark.parametrize("endpoint", [each for each in ALL if each not in PUBLIC], ids=" ".join)
async def test_nobody_may_do_anything_without_signing_in(console: Console, endpoint: tuple[str, str]) -> None:
    assert await status_of(console.nobody, endpoint) == 401
    wrong = Client(console.session, console.url, {"Authorization": "Bearer kwt_wrong"})
    assert await status_of(wrong, endpoint) == (403 if endpoint in AUTOMATIONS else 401)


@pytest.mark.parametrize("endpoint", [*CHANGES, *sorted(ADMINS_ONLY)], ids=" ".join)
async def test_a_viewer_changes_nothing(console: Console, endpoint: tuple[str, str]) -> None:
    assert await status_of(console.viewer, endpoint) == 403
    assert await status_of(console.viewer, endpoint, {}) == 403


@pytest.mark.parametrize("endpoint", sorted(AUTOMATIONS), ids=" ".join)
async def test_an_operators_token_is_no_automations(console: Console, endpoint: tuple[str, str]) -> None:
    assert await status_of(console.admin, endpoint, {}) == 403


async def test_an_automations_token_opens_its_own_calls_and_no_others(console: Console) -> None:
    own, other = await console.world.add_automation(), await console.world.add_automation()
    client = console.automation(own)
    for method, path in ALL:
        if (method, path) in PUBLIC:
            continue
        if (method, path) in AUTOMATIONS:
            answer = await client.call(method, path.format(automation_id=other), {})
            assert answer.status == 403, (path, answer)
            answer = await client.call(method, path.format(automation_id=own), {"unknown": 1})
            assert answer.status == 422, (path, answer)
        else:
            assert await status_of(client, (method, path)) == 401, path
