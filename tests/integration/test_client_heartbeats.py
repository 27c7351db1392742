"""The client's heartbeats: who runs what; and that requests never suffer for them."""

import asyncio
import platform
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib import metadata

from aio_pika.abc import AbstractIncomingMessage

from contracts import Keyway, names
from contracts.messages import Heartbeat
from tests.harness import PATIENCE_S, World, eventually
from tests.responder import Responder


@asynccontextmanager
async def heard(world: World, bot: str) -> AsyncIterator[asyncio.Queue[Heartbeat]]:
    """The heartbeats of an automation as they come."""
    heartbeats: asyncio.Queue[Heartbeat] = asyncio.Queue()

    async def take(message: AbstractIncomingMessage) -> None:
        assert message.type == names.HEARTBEAT
        heartbeats.put_nowait(Heartbeat.model_validate_json(message.body))

    async with world.connection.channel() as channel:
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(names.EVENTS_EXCHANGE, f"heartbeat.{bot}")
        await queue.consume(take, no_ack=True)
        yield heartbeats


async def next_of(heartbeats: "asyncio.Queue[Heartbeat]") -> Heartbeat:
    async with asyncio.timeout(PATIENCE_S):
        return await heartbeats.get()


async def test_a_client_says_at_the_start_and_again_who_it_is(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with heard(unserved, bot) as heartbeats, Responder(unserved, bot) as worker:
        begun = datetime.now(UTC)
        async with Keyway(unserved.url_of(bot), heartbeat_s=0.2) as keyway:
            first = await next_of(heartbeats)
            assert (first.version, first.host, first.in_flight) == (
                f"keyway/{metadata.version('keyway')}",
                platform.node(),
                0,
            )
            assert begun <= first.started_at <= datetime.now(UTC)
            asking = asyncio.ensure_future(keyway.generate("/moderations", input="hello"))
            asked = await worker.take()
            async with keyway.stream("/responses", input="hello"):
                while (now := await next_of(heartbeats)).in_flight < 2:
                    assert now.started_at == first.started_at
            await asked.result()
            await asking
            while (await next_of(heartbeats)).in_flight:
                pass


async def test_a_client_says_what_version_it_was_told(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with heard(unserved, bot) as heartbeats, Keyway(unserved.url_of(bot), version="billing 7"):
        assert (await next_of(heartbeats)).version == "billing 7"


async def test_heartbeats_go_on_after_the_connection_was_closed(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with heard(unserved, bot) as heartbeats, Keyway(unserved.url_of(bot), heartbeat_s=0.2):
        await next_of(heartbeats)
        await unserved.close_connections(bot)
        while not heartbeats.empty():
            heartbeats.get_nowait()
        await next_of(heartbeats)


async def test_no_heartbeats_where_none_are_wanted_and_none_after_the_end(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with heard(unserved, bot) as heartbeats, Responder(unserved, bot) as worker:
        async with Keyway(unserved.url_of(bot), heartbeat_s=0) as keyway:
            asking = asyncio.ensure_future(keyway.generate("/moderations", input="hello"))
            await (await worker.take()).result()
            await asking
        assert heartbeats.empty()


async def test_a_heartbeat_that_is_refused_harms_no_request(unserved: World) -> None:
    bot = await unserved.add_automation()
    await unserved.admin.call(
        "PUT",
        f"topic-permissions/{{vhost}}/{bot}",
        {"exchange": names.EVENTS_EXCHANGE, "write": "^$", "read": "^$"},
    )
    async with Responder(unserved, bot) as worker, Keyway(unserved.url_of(bot), heartbeat_s=0.01) as keyway:
        for _ in range(20):
            asking = asyncio.ensure_future(keyway.generate("/moderations", input="hello"))
            await (await worker.take()).result()
            await asking
        assert keyway._connection._connection is not None
        assert not keyway._connection._connection.is_closed


async def test_operators_see_a_client_that_is_there(shared: World) -> None:
    bot = await shared.add_automation()
    async with shared.client(bot):

        async def listed() -> bool:
            _, stdout, _ = await shared.cli("automations", "list", COLUMNS="200")
            return any(
                line.startswith(bot) and f"keyway/{metadata.version('keyway')}" in line
                for line in stdout.splitlines()
            )

        await eventually(listed, "the client in `keyway automations list`")
