"""What consuming below aio-pika promises: acknowledgements that are flushed are the broker's."""

import asyncio
from typing import TYPE_CHECKING, cast

from aio_pika import Message, connect_robust
from aiormq.exceptions import ChannelInvalidStateError

from infra.consumed_deliveries import ConsumedDelivery, deliveries
from infra.outgoing_frames import OutgoingFrames
from tests.harness import PATIENCE_S, World

if TYPE_CHECKING:
    from aiormq import Channel

QUEUE = "consumed"
COUNT = 50


async def test_flushed_acknowledgements_outlive_their_connection_and_the_rest_comes_again(
    unserved: World,
) -> None:
    url = unserved.settings.amqp_url.get_secret_value()
    async with await connect_robust(url) as watching:
        queue = await (await watching.channel()).declare_queue(QUEUE)
        async with await connect_robust(url) as connection:
            publishing = await connection.channel()
            for number in range(COUNT):
                await publishing.default_exchange.publish(Message(b"%d" % number), QUEUE)
            taken: list[ConsumedDelivery] = []
            all_taken = asyncio.Event()

            async def take(delivery: ConsumedDelivery) -> None:
                taken.append(delivery)
                if len(taken) == COUNT:
                    all_taken.set()

            robust = await connection.channel(publisher_confirms=False)
            channel = cast("Channel", await robust.get_underlay_channel())
            await channel.basic_consume(QUEUE, deliveries(take)(channel))
            async with asyncio.timeout(PATIENCE_S):
                await all_taken.wait()
            for delivery in taken[:-2]:
                await delivery.ack()
            await OutgoingFrames.of(channel).flush()
        try:
            await taken[-1].ack()
        except ChannelInvalidStateError:
            pass
        else:
            raise AssertionError("a closed channel took an acknowledgement")
        again = [await queue.get(no_ack=True) for _ in range(2)]
        assert [(message.body, message.redelivered) for message in again] == [(b"48", True), (b"49", True)]
        assert await queue.get(fail=False) is None
        await queue.delete()
