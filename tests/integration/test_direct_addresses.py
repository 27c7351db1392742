"""Direct addresses are looked for on a real RabbitMQ, and the looks cost nobody a connection."""

import asyncio
from typing import Any

import pytest
from aiormq import Channel

from infra.direct_addresses import DirectAddresses
from tests.harness import World
from tests.responder import Responder


async def test_a_look_that_is_cancelled_while_rabbitmq_closes_its_channel_keeps_the_connection(
    unserved: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot = await unserved.add_automation()
    async with Responder(unserved, bot) as responder:
        async with unserved.client(bot) as keyway:
            request = asyncio.create_task(keyway.generate("/chat/completions", model="m", messages=[]))
            asked = await responder.take()
            request.cancel()
            await asyncio.wait([request])
        address = asked.message.reply_to or ""
        await asked.until_nobody_listens()
    answer_close = Channel._on_close_frame
    looking: list[asyncio.Task[bool]] = []

    async def answered(self: Channel, frame: Any) -> None:
        try:
            await answer_close(self, frame)
        finally:
            looking[0].cancel()

    monkeypatch.setattr(Channel, "_on_close_frame", answered)
    apart = unserved.connection
    assert apart.transport is not None
    connection = apart.transport.connection
    addresses = DirectAddresses(apart)
    looking.append(asyncio.create_task(addresses.is_there(address, bot)))
    await asyncio.wait(looking)
    assert looking[0].cancelled()
    # RabbitMQ closes a connection some round trips after its reason.
    for _ in range(20):
        assert not await addresses.is_there(address, "another")
    assert apart.transport.connection is connection
    assert not connection.is_closed
