"""A channel that does not read its frames stops no other channel of its connection."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from aiormq.abc import AbstractChannel, ChannelFrame
from pamqp.commands import Basic

from infra.broker import connect_apart
from tests.harness import PATIENCE_S, World

#: More frames than aiormq keeps by itself.
FRAMES = 50


@pytest.fixture(params=["a service", "a client"])
async def channels(unserved: World, request: pytest.FixtureRequest) -> AsyncIterator[list[AbstractChannel]]:
    """Two channels of one connection."""
    async with AsyncExitStack() as stack:
        if request.param == "a service":
            connection = await stack.enter_async_context(await connect_apart(unserved.settings, "test"))
            opened = [await connection.channel() for _ in range(2)]
            yield [await channel.get_underlay_channel() for channel in opened]
        else:
            keyway = await stack.enter_async_context(unserved.client(await unserved.add_automation()))
            yield [await keyway._connection.channel() for _ in range(2)]


async def test_a_channel_whose_frames_nobody_takes_stops_no_other(channels: list[AbstractChannel]) -> None:
    stopped, other = channels
    asked = ChannelFrame.marshall(stopped.number, [Basic.Qos(prefetch_count=1)] * FRAMES)
    await stopped.connection.write_queue.put(asked)
    for _ in range(2):
        async with asyncio.timeout(PATIENCE_S):
            await other.basic_qos(prefetch_count=1)
