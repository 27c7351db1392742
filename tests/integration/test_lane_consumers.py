"""What a worker takes from a lane at a time: by one consumer, and more of long calls when there is room."""

import asyncio
from typing import Any, cast

import pytest
from aio_pika import Message, connect_robust

from contracts import names, queue_consumer
from infra.consuming import Consuming
from infra.deliveries import Delivery
from tests.harness import World, eventually
from workers.generation.automation import Automation
from workers.generation.lanes import FIRST_PREFETCH, Lanes
from workers.keys.pool import KeyPool


async def test_a_consumer_that_is_not_cancelled_in_time_is_not_doubled(
    unserved: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot = await unserved.add_automation()
    settings = unserved.settings.model_copy(update={"lanes": frozenset({bot})})

    async def handle(message: Delivery, automation: Automation) -> None:
        raise AssertionError(f"nobody asks {automation.id}: {message.message_id}")

    async with await connect_robust(unserved.settings.amqp_url.get_secret_value()) as connection:

        async def consumers() -> int:
            async with connection.channel() as channel:
                queue = await channel.declare_queue(names.lane_queue(bot), passive=True)
                return queue.declaration_result.consumer_count or 0

        consuming = Consuming(connection)
        lanes = Lanes(settings, unserved.mongo, consuming, handle, KeyPool(unserved.mongo, "worker-1"))
        await lanes.start()
        assert await consumers() == 1
        (lane,) = lanes._lanes.values()
        busy: Any = next(iter(lanes._channels))
        with monkeypatch.context() as impatient:
            impatient.setattr(queue_consumer, "CANCEL_TIMEOUT_S", 0.5)
            async with busy.lock:  # another lane's consumer is being changed, and RabbitMQ takes its time
                await lanes._pause(lane, 3600)
                assert (lane.consumer.is_consuming, await consumers()) == (True, 1)
        await lane.consumer.pause()
        assert (lane.consumer.is_consuming, await consumers()) == (False, 0)
        lanes.reload(bot)

        async def consumes_again() -> bool:
            return await consumers() == 1

        await eventually(consumes_again, "a consumer on the lane")
        await lanes.stop(0)
        assert await consumers() == 0
        await consuming.close()


class Keys:
    """A pool that knows of no room while a reservation is under way."""

    def __init__(self) -> None:
        self.looks = 0

    def calls_that_fit(self, _: str) -> int:
        self.looks += 1
        return 0 if self.looks < 3 else 1000

    def latency_s(self, _: str) -> float:
        return 10.0


async def test_a_full_lane_is_widened_when_there_is_room_though_nothing_new_comes(unserved: World) -> None:
    bot = await unserved.add_automation()
    settings = unserved.settings.model_copy(update={"lanes": frozenset({bot})})
    taken: list[str | None] = []
    end = asyncio.Event()

    async def handle(message: Delivery, _: Automation) -> None:
        taken.append(message.message_id)
        await end.wait()
        await message.ack()

    async with await connect_robust(unserved.settings.amqp_url.get_secret_value()) as connection:
        consuming = Consuming(connection)
        lanes = Lanes(settings, unserved.mongo, consuming, handle, cast("KeyPool", Keys()))
        await lanes.start()
        async with connection.channel() as channel:
            requests = await channel.get_exchange(names.REQUESTS_EXCHANGE, ensure=False)
            for number in range(2 * FIRST_PREFETCH):
                await requests.publish(Message(b"{}", message_id=f"r-{number}"), bot)

        async def all_taken() -> bool:
            return len(set(taken)) == 2 * FIRST_PREFETCH

        await eventually(all_taken, "requests beyond the first few")
        end.set()
        await lanes.stop(10)
        await consuming.close()
