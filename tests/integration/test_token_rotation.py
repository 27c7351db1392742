"""A new service token takes over from the old one, and no running program is cut off before it is told."""

import json
from typing import Any

import pytest
from aio_pika import Connection, Message, connect
from aio_pika.abc import AbstractConnection
from aiormq.exceptions import ProbableAuthenticationError
from pydantic import SecretStr
from yarl import URL

from contracts import names
from infra.errors import BrokerError, ConflictError
from infra.service_tokens import ServiceTokens
from tests.harness import ACTOR, World, eventually

HEARTBEAT = b'{"version": "1", "host": "h", "started_at": "2026-03-10T12:00:00Z", "in_flight": 0}'
#: Calls to RabbitMQ's management API in the beginning and in the end of a rotation.
STEPS_OF_BEGINNING = 6
STEPS_OF_FINISHING = 6


async def use(connection: AbstractConnection, bot: str) -> None:
    """Publish something that the automation may, and see it confirmed."""
    async with connection.channel() as channel:
        events = await channel.get_exchange("events", ensure=False)
        await events.publish(Message(HEARTBEAT, type="heartbeat.v1"), f"heartbeat.{bot}")


async def works(world: World, bot: str, user: str, token: SecretStr) -> bool:
    """Whether a program can sign in with a token, and publish."""
    connection = Connection(URL(world.url_of(user, token)))
    try:
        await connection.connect()
        await use(connection, bot)
    except ProbableAuthenticationError:
        return False
    finally:
        await connection.close()
    return True


async def is_cut(connection: AbstractConnection) -> None:
    """Wait until the broker has closed a connection."""

    async def closed() -> bool:
        return not connection.connected.is_set()

    await eventually(closed, "the connection closed by the broker")


class Dying:
    """A management API to which only so many calls can be made."""

    def __init__(self, admin: Any, calls: int) -> None:
        self._admin, self._left = admin, calls

    async def call(self, *arguments: Any, **options: Any) -> Any:
        if not self._left:
            raise BrokerError("killed")
        self._left -= 1
        return await self._admin.call(*arguments, **options)


def dying(world: World, calls: int) -> ServiceTokens:
    return ServiceTokens(world.mongo, Dying(world.admin, calls))  # type: ignore[arg-type]


async def test_both_tokens_work_until_the_rotation_is_finished(shared: World) -> None:
    bot = await shared.add_automation()
    old = shared.tokens[bot]
    async with await connect(shared.url_of(bot)) as running:
        status, stdout, stderr = await shared.cli("automations", "rotate-token", bot)
        assert status == 0
        assert f"as user {bot}.next" in stderr
        assert f"keyway automations rotate-token {bot} --finish" in stderr
        new = SecretStr(stdout.strip())
        await use(running, bot)
        assert await works(shared, bot, bot, old)
        assert await works(shared, bot, f"{bot}.next", new)
        assert not await works(shared, bot, bot, new)

        status, stdout, stderr = await shared.cli("automations", "rotate-token", bot, "--finish")
        assert (status, stdout) == (0, "")
        assert "1 connection of it closed" in stderr
        await is_cut(running)
    assert await works(shared, bot, bot, new)
    assert not await works(shared, bot, bot, old)
    assert not await works(shared, bot, f"{bot}.next", new)


async def test_a_rotation_is_told_to_scripts_and_shown_in_the_list(shared: World) -> None:
    bot = await shared.add_automation()

    async def listed() -> dict[str, Any]:
        _, stdout, _ = await shared.cli("automations", "list", "--json")
        (found,) = (one for one in json.loads(stdout) if one["automation_id"] == bot)
        return dict(found)

    assert (await listed())["rotation"] is None
    _, stdout, _ = await shared.cli("automations", "rotate-token", bot, "--json")
    begun = json.loads(stdout)
    token = SecretStr(begun.pop("service_token"))
    assert begun == {"automation_id": bot, "user": f"{bot}.next", "state": "begun"}
    assert await works(shared, bot, begun["user"], token)
    rotation = (await listed())["rotation"]
    assert rotation["actor"].startswith("cli:")
    assert rotation["since"].endswith("Z")
    _, stdout, _ = await shared.cli("automations", "rotate-token", bot, "--finish", "--json")
    finished = {"automation_id": bot, "service_token": None, "user": bot, "state": "finished"}
    assert json.loads(stdout) == finished
    assert (await listed())["rotation"] is None


async def test_a_leaked_token_is_out_at_once_even_while_a_rotation_is_under_way(shared: World) -> None:
    bot = await shared.add_automation()
    old, tokens = shared.tokens[bot], shared.provisioner.tokens
    begun = await tokens.begin_rotation(bot, actor=ACTOR)
    async with (
        await connect(shared.url_of(bot)) as thief,
        await connect(shared.url_of(begun.user, begun.token)) as other_thief,
    ):
        _, stdout, _ = await shared.cli("automations", "rotate-token", bot, "--now", "--json")
        replaced = json.loads(stdout)
        await is_cut(thief)
        await is_cut(other_thief)
    assert (replaced["user"], replaced["state"]) == (bot, "finished")
    assert await works(shared, bot, bot, SecretStr(replaced["service_token"]))
    assert not await works(shared, bot, bot, old)
    assert not await works(shared, bot, begun.user, begun.token)
    with pytest.raises(ConflictError, match="no rotation"):
        await tokens.finish_rotation(bot, actor=ACTOR)


async def test_a_second_rotation_replaces_the_token_of_the_one_under_way(shared: World) -> None:
    bot = await shared.add_automation()
    first = await shared.provisioner.tokens.begin_rotation(bot, actor=ACTOR)
    async with (
        await connect(shared.url_of(bot)) as running,
        await connect(shared.url_of(first.user, first.token)) as replaced,
    ):
        second = await shared.provisioner.tokens.begin_rotation(bot, actor=ACTOR)
        await is_cut(replaced)
        await use(running, bot)
    assert (first.replaced, second.replaced) == (False, True)
    assert not await works(shared, bot, first.user, first.token)
    assert await works(shared, bot, second.user, second.token)
    assert await works(shared, bot, bot, shared.tokens[bot])


async def test_a_rotation_that_is_killed_while_it_begins_leaves_the_old_token(shared: World) -> None:
    bot = await shared.add_automation()
    tokens = shared.provisioner.tokens
    for calls in range(STEPS_OF_BEGINNING):
        with pytest.raises(BrokerError, match="killed"):
            await dying(shared, calls).begin_rotation(bot, actor=ACTOR)
        assert await works(shared, bot, bot, shared.tokens[bot])
        with pytest.raises(ConflictError, match="no rotation"):
            await tokens.finish_rotation(bot, actor=ACTOR)
    begun = await dying(shared, STEPS_OF_BEGINNING).begin_rotation(bot, actor=ACTOR)
    await tokens.finish_rotation(bot, actor=ACTOR)
    assert await works(shared, bot, bot, begun.token)


@pytest.mark.parametrize("calls", range(STEPS_OF_FINISHING))
async def test_a_rotation_that_is_killed_while_it_ends_leaves_the_new_token_and_can_be_finished(
    shared: World, calls: int
) -> None:
    bot = await shared.add_automation()
    tokens = shared.provisioner.tokens
    begun = await tokens.begin_rotation(bot, actor=ACTOR)
    with pytest.raises(BrokerError, match="killed"):
        await dying(shared, calls).finish_rotation(bot, actor=ACTOR)
    assert await works(shared, bot, names.next_user(bot), begun.token)
    await dying(shared, STEPS_OF_FINISHING).finish_rotation(bot, actor=ACTOR)
    assert await works(shared, bot, bot, begun.token)
    assert not await works(shared, bot, bot, shared.tokens[bot])
    assert not await works(shared, bot, names.next_user(bot), begun.token)


async def test_what_can_not_be_finished_says_why(shared: World) -> None:
    bot = await shared.add_automation()
    status, _, stderr = await shared.cli("automations", "rotate-token", bot, "--finish")
    assert (status, stderr.strip()) == (1, f"error: no rotation of {bot}'s token is under way")
    await shared.provisioner.tokens.begin_rotation(bot, actor=ACTOR)
    await shared.admin.call("DELETE", f"users/{bot}.next")
    with pytest.raises(ConflictError, match="begin again"):
        await shared.provisioner.tokens.finish_rotation(bot, actor=ACTOR)
    assert await works(shared, bot, bot, shared.tokens[bot])
    status, _, stderr = await shared.cli("automations", "rotate-token", bot, "--finish", "--now")
    assert status == 2
    assert "not both" in stderr
