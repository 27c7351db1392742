"""A client and the rotation of its token: it signs in as whichever of the two users the token belongs to."""

import asyncio

import pytest
from pydantic import SecretStr

from contracts import GenerationResult, Keyway, PublishError, ReplyTimeoutError
from tests.harness import World, eventually


async def ask(keyway: Keyway, timeout: float = 60) -> GenerationResult:  # noqa: ASYNC109
    return await keyway.generate("/moderations", input="hello", timeout=timeout)


async def begin(world: World, bot: str) -> SecretStr:
    status, stdout, stderr = await world.cli("automations", "rotate-token", bot)
    assert status == 0, stderr
    return SecretStr(stdout.strip())


async def finish(world: World, bot: str) -> None:
    status, _, stderr = await world.cli("automations", "rotate-token", bot, "--finish")
    assert status == 0, stderr


async def test_the_new_token_works_under_the_same_address_before_and_after_the_rotation_ends(
    shared: World,
) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    new = await begin(shared, bot)
    for user in (bot, f"{bot}.next"):
        async with Keyway(shared.url_of(user, new)) as keyway:
            assert (await ask(keyway)).automation_id == bot
    async with Keyway(shared.url_of(bot, new)) as keyway:
        await ask(keyway)
        # The end of the rotation closes the second user's connections, and removes it.
        await finish(shared, bot)
        assert (await ask(keyway)).automation_id == bot
    for user in (bot, f"{bot}.next"):
        async with Keyway(shared.url_of(user, new)) as keyway:
            assert (await ask(keyway)).automation_id == bot


async def test_the_old_token_works_until_the_rotation_ends(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    async with shared.client(bot) as keyway:
        await begin(shared, bot)
        await ask(keyway)
        await shared.close_connections(bot)
        await ask(keyway)
        await finish(shared, bot)
        with pytest.raises(ReplyTimeoutError):
            await ask(keyway, timeout=1)
    with pytest.raises(PublishError, match="it refuses the user or token"):
        async with shared.client(bot):
            pass


async def test_a_client_that_is_refused_goes_on_trying(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    old = shared.tokens[bot].get_secret_value()
    async with shared.client(bot) as keyway:
        await ask(keyway)
        await shared.admin.call("PUT", f"users/{bot}", {"password": "other", "tags": ""})
        await shared.close_connections(bot)
        asking = asyncio.ensure_future(ask(keyway))

        async def is_refused() -> bool:
            return keyway._connection._connection is None

        await eventually(is_refused, "the connection lost")
        await shared.admin.call("PUT", f"users/{bot}", {"password": old, "tags": ""})
        assert (await asking).status == "succeeded"
