"""Streams that nobody reads as they are meant to be read."""

import asyncio

from pamqp import commands

from contracts import names
from tests.chaos.noisy_neighbour.act import Kind
from tests.chaos.noisy_neighbour.amqp_bytes import RawConnection
from tests.chaos.noisy_neighbour.neighbour import STREAMED, Neighbour
from tests.chaos.noisy_neighbour.ordinary import request_body

STREAMS = Kind("streams")
LONG = request_body("word " * 2000, stream=True)


async def listen(neighbour: Neighbour) -> RawConnection:
    """A connection that takes direct replies."""
    connection = await neighbour.open()
    consume = commands.Basic.Consume(queue=names.DIRECT_REPLY_TO, no_ack=True)
    await connection.ask(consume, commands.Basic.ConsumeOk)
    return connection


@STREAMS.act("five hundred streams on a socket that is never read")
async def never_read(neighbour: Neighbour) -> None:
    connection = await listen(neighbour)
    connection.pause_reading()
    connection.send(
        *(neighbour.request_wire(LONG, reply_to=names.DIRECT_REPLY_TO) for _ in range(neighbour.many(500)))
    )
    await connection.flush()


@STREAMS.act("fifty streams of which one chunk is read before the connection goes")
async def one_chunk(neighbour: Neighbour) -> None:
    async def read_one() -> None:
        connection = await listen(neighbour)
        connection.send(neighbour.request_wire(LONG, reply_to=names.DIRECT_REPLY_TO))
        await connection.answer(commands.Basic.Deliver)
        await connection.hang_up()

    for _ in range(1 if neighbour.is_quick else 5):
        await asyncio.gather(*(read_one() for _ in range(10)))


@STREAMS.act("a thousand streams at once")
async def at_once(neighbour: Neighbour) -> None:
    count = neighbour.many(1000)
    connection = await listen(neighbour)
    connection.send(*(neighbour.request_wire(STREAMED, reply_to=names.DIRECT_REPLY_TO) for _ in range(count)))
    for _ in range(count):
        await connection.answer(commands.Basic.Deliver)


@STREAMS.act("streams whose consumer is cancelled, and whose channel is closed, while they come")
async def cancelled(neighbour: Neighbour) -> None:
    for _ in range(10):
        connection = await neighbour.open()
        consume = commands.Basic.Consume(queue=names.DIRECT_REPLY_TO, consumer_tag="c", no_ack=True)
        await connection.ask(consume, commands.Basic.ConsumeOk)
        connection.send(neighbour.request_wire(LONG, reply_to=names.DIRECT_REPLY_TO))
        await connection.answer(commands.Basic.Deliver)
        await connection.ask(commands.Basic.Cancel(consumer_tag="c"), commands.Basic.CancelOk)
        closed = commands.Channel.Close(reply_code=200, reply_text="", class_id=0, method_id=0)
        await connection.ask(closed, commands.Channel.CloseOk)


@STREAMS.act("a stream into a queue that takes one chunk and refuses the next")
async def refused_chunks(neighbour: Neighbour) -> None:
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    await neighbour.declare(durable=True, arguments=arguments)
    await neighbour.ask(LONG, times=5, reply_to=neighbour.reply_queue)
    await neighbour.delete_full_queue()
