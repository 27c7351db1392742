"""A worker has one consumer on a lane, however slow RabbitMQ is to say that the last one is gone."""

from typing import Any

import pytest
from aio_pika import connect_robust
from aio_pika.abc import AbstractIncomingMessage

from contracts import names
from tests.harness import World, eventually
from workers.generation import lanes as module
from workers.generation.automation import Automation
from workers.generation.lanes import Lanes
from workers.keys.pool import KeyPool


async def test_a_consumer_that_is_not_cancelled_in_time_is_not_doubled(
    unserved: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHANGE_TIMEOUT_S", 0.5)
    bot = await unserved.add_automation()
    settings = unserved.settings.model_copy(update={"lanes": frozenset({bot})})

    async def handle(message: AbstractIncomingMessage, automation: Automation) -> None:
        raise AssertionError(f"nobody asks {automation.id}: {message.message_id}")

    async with await connect_robust(unserved.settings.amqp_url.get_secret_value()) as connection:

        async def consumers() -> int:
            async with connection.channel() as channel:
                queue = await channel.declare_queue(names.lane_queue(bot), passive=True)
                return queue.declaration_result.consumer_count or 0

        lanes = Lanes(settings, unserved.mongo, connection, handle, KeyPool(unserved.mongo, "worker-1"))
        await lanes.start()
        assert await consumers() == 1
        (lane,) = lanes._lanes.values()
        (channel,) = lanes._channels.values()
        busy: Any = await channel.get_underlay_channel()
        async with busy.lock:  # another lane's consumer is being changed, and RabbitMQ takes its time
            await lanes._pause(lane, 3600)
        assert (lane.consumer_tag is not None, await consumers()) == (True, 1)
        await lanes._pause(lane, 3600)
        assert (lane.consumer_tag, await consumers()) == (None, 0)
        lanes.reload(bot)

        async def consumes_again() -> bool:
            return await consumers() == 1

        await eventually(consumes_again, "a consumer on the lane")
        await lanes.stop(0)
        assert await consumers() == 0
