"""Direct keys over HTTP, for automations that speak no AMQP: the same services as underneath the messages."""

import base64
import secrets
from typing import Any

import pytest

from tests.console import Client, Console
from tests.harness import ACTOR, eventually
from tests.lessee import add_bot, assert_books_are_even


@pytest.fixture(scope="module")
async def lending(console: Console) -> Console:
    """The shared Keyway, which lends keys too."""
    await console.world.start_leasing()
    return console


async def lease(client: Client, bot: str, **asked: Any) -> Any:
    """Ask for a key, once the lane of the automation's requests for keys is there."""
    answers = []

    async def answered() -> bool:
        answers.append(await client.call("POST", f"/api/automations/{bot}/openai-key", asked))
        return answers[-1].status != 503

    await eventually(answered, "the leasing worker answers", every_s=0.3)
    return answers[-1]


async def test_a_key_is_lent_and_what_it_spent_is_booked_once(lending: Console) -> None:
    world = lending.world
    bot = await add_bot(world)
    await world.add_key(bot, "Primary")
    client = lending.automation(bot)
    answer = await lease(client, bot, model="gpt-4o-mini", estimated_tokens=500, ttl_s=60)
    assert answer.status == 200, answer
    assert answer.headers["Cache-Control"] == "no-store"
    lent = answer.json
    assert (lent["key_alias"], lent["api_key"], lent["requests"]) == ("Primary", world.api_keys[-1], 1)
    report = {
        "lease_id": lent["lease_id"], "report_id": "r-1", "model": "gpt-4o-mini", "outcome": "ok",
        "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15,
    }  # fmt: skip
    for _ in range(2):
        await client.do("POST", f"/api/automations/{bot}/openai-usage", report, status=202)
    (row,) = await world.accounted(bot, 1)
    assert (row["source"], row["total_tokens"]) == ("lease", 15)
    await assert_books_are_even(world, bot)


async def test_a_token_that_rotates_opens_as_both_of_its_users_and_as_basic_too(lending: Console) -> None:
    world = lending.world
    bot = await add_bot(world)
    await world.add_key(bot, "Primary")
    rotation = await world.provisioner.tokens.begin_rotation(bot, actor=ACTOR)
    old, new = world.tokens[bot].get_secret_value(), rotation.token.get_secret_value()
    for authorization in (
        f"Bearer {old}",
        f"Bearer {new}",
        basic(bot, old),
        basic(rotation.user, new),
    ):
        client = Client(lending.session, lending.url, {"Authorization": authorization})
        assert (await lease(client, bot, ttl_s=5)).status == 200
    for authorization in (basic("other", old), basic(bot, "wrong"), "Bearer wrong"):
        client = Client(lending.session, lending.url, {"Authorization": authorization})
        assert (await client.call("POST", f"/api/automations/{bot}/openai-key", {})).status == 403
    for authorization in ("", "Basic ???", "Digest x", basic(bot, "")):
        client = Client(lending.session, lending.url, {"Authorization": authorization})
        answer = await client.call("POST", f"/api/automations/{bot}/openai-key", {})
        assert (answer.status, "Basic" in answer.headers["WWW-Authenticate"]) == (401, True)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def test_a_refusal_says_why(lending: Console) -> None:
    world = lending.world
    unwilling = await world.add_automation()
    answer = await lease(lending.automation(unwilling), unwilling)
    assert (answer.status, answer.json["error"]["code"]) == (400, "invalid_request")
    keyless = await add_bot(world)
    answer = await lease(lending.automation(keyless), keyless)
    assert (answer.status, answer.json["error"]["code"]) == (409, "no_keys")
    await world.provisioner.set_enabled(keyless, enabled=False, actor=ACTOR)
    answer = await lease(lending.automation(keyless), keyless)
    assert (answer.status, answer.json["error"]["code"]) == (403, "automation_disabled")
    wrong = {"report_id": secrets.token_hex(4), "model": "m", "outcome": "fine"}
    answer = await lending.automation(keyless).call("POST", f"/api/automations/{keyless}/openai-usage", wrong)
    assert answer.status == 422


async def test_nobody_is_taken_for_a_user_of_rabbitmq_that_is_no_automation(lending: Console) -> None:
    settings = lending.world.settings
    user, _, password = (
        settings.amqp_url.get_secret_value().removeprefix("amqp://").partition("@")[0].partition(":")
    )
    client = Client(lending.session, lending.url, {"Authorization": f"Bearer {password}"})
    # An administrator's name may be an automation's, and RabbitMQ would let it in.
    name = user.replace("_", "-")
    assert (await client.call("POST", f"/api/automations/{name}/openai-key", {})).status == 403
