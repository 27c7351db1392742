"""Queues of its own with strange arguments, to which its answers go."""

import asyncio
from collections.abc import Mapping
from typing import Any

from pamqp import commands

from tests.chaos.noisy_neighbour.act import Kind
from tests.chaos.noisy_neighbour.amqp_bytes import refusal_of
from tests.chaos.noisy_neighbour.neighbour import BAD, GOOD, STREAMED, Neighbour

QUEUES = Kind("queues")


async def ask_into(
    neighbour: Neighbour, arguments: Mapping[str, Any], *, times: int = 5, **declared: Any
) -> None:
    """Good, streamed and refused requests, answered to a queue with these arguments."""
    await neighbour.declare(arguments=dict(arguments), **{"durable": True, **declared})
    bodies = [GOOD, STREAMED, BAD] * times
    await neighbour.ask_each(*((body, {"reply_to": neighbour.reply_queue}) for body in bodies))


@QUEUES.act("a queue that holds nothing, and refuses what comes")
async def no_room(neighbour: Neighbour) -> None:
    await ask_into(neighbour, {"x-max-length": 0, "x-overflow": "reject-publish"})
    await neighbour.delete_full_queue()


@QUEUES.act("a queue that holds one message, and refuses the others")
async def room_for_one(neighbour: Neighbour) -> None:
    await ask_into(neighbour, {"x-max-length": 1, "x-overflow": "reject-publish"}, times=30)
    await neighbour.delete_full_queue()


@QUEUES.act("a queue that holds one byte, and drops what it has")
async def drops_its_head(neighbour: Neighbour) -> None:
    await ask_into(neighbour, {"x-max-length-bytes": 1, "x-overflow": "drop-head"})


@QUEUES.act("a queue whose messages expire at once")
async def time_to_live(neighbour: Neighbour) -> None:
    await ask_into(neighbour, {"x-message-ttl": 0})


@QUEUES.act("a queue that goes by itself after a millisecond")
async def expires(neighbour: Neighbour) -> None:
    await ask_into(neighbour, {"x-expires": 1})


@QUEUES.act("a queue of another connection alone")
async def exclusive(neighbour: Neighbour) -> None:
    await ask_into(neighbour, {}, durable=False, exclusive=True)


@QUEUES.act("a queue that goes with its first consumer")
async def auto_deleted(neighbour: Neighbour) -> None:
    await ask_into(neighbour, {}, durable=False, auto_delete=True)
    connection = await neighbour.open()
    consume = commands.Basic.Consume(queue=neighbour.reply_queue, consumer_tag="c")
    await connection.ask(consume, commands.Basic.ConsumeOk)
    await connection.hang_up()


@QUEUES.act("a queue that is deleted and declared again, over and over")
async def comes_and_goes(neighbour: Neighbour) -> None:
    connection = await neighbour.declare()
    asking = asyncio.gather(
        *(neighbour.ask(STREAMED, times=10, reply_to=neighbour.reply_queue) for _ in range(5))
    )
    for _ in range(50):
        await connection.ask(commands.Queue.Delete(queue=neighbour.reply_queue), commands.Queue.DeleteOk)
        await connection.ask(commands.Queue.Declare(queue=neighbour.reply_queue), commands.Queue.DeclareOk)
    await asking


@QUEUES.act("a stream, a quorum queue without a delivery, a lazy queue with priorities")
async def of_other_types(neighbour: Neighbour) -> None:
    for number, arguments in enumerate(
        (
            {"x-queue-type": "stream", "x-max-length-bytes": 1000, "x-stream-max-segment-size-bytes": 1000},
            {"x-queue-type": "quorum", "x-delivery-limit": 0, "x-max-in-memory-length": 0},
            {"x-queue-mode": "lazy", "x-max-priority": 255, "x-single-active-consumer": True},
        )
    ):
        await neighbour.declare(f"odd-{number}", durable=True, arguments=arguments)
        reply_to = f"replies.{neighbour.name}.odd-{number}"
        await neighbour.ask_each(*((body, {"reply_to": reply_to}) for body in (GOOD, STREAMED, BAD)))


@QUEUES.act("arguments that the broker knows nothing of, or knows better")
async def odd_arguments(neighbour: Neighbour) -> None:
    odd: tuple[dict[str, Any], ...] = (
        {"x-max-length": -1},
        {"x-message-ttl": "x"},
        {"x-expires": 0},
        {"x-queue-type": "none"},
        {"x-queue-master-locator": "no-such-locator"},
        {"x-overflow": 7},
        {"x-max-priority": 256},
        {"x-dead-letter-routing-key": "requests"},
        {"x-unknown": bytearray(b"\xff\xfe")},
    )
    for number, arguments in enumerate(odd):
        attempt = neighbour.declare(f"odd-{number}", durable=True, arguments=arguments)
        assert await refusal_of(attempt) in {None, 406, 541}, arguments


@QUEUES.act("answers that are acknowledged by nobody, and delivered again and again")
async def redelivered_answers(neighbour: Neighbour) -> None:
    await ask_into(neighbour, {}, times=10)
    connection = await neighbour.open()
    consume = commands.Basic.Consume(queue=neighbour.reply_queue, consumer_tag="c")
    await connection.ask(consume, commands.Basic.ConsumeOk)
    for _ in range(neighbour.many(200)):
        delivered = await connection.answer(commands.Basic.Deliver)
        connection.send_method(commands.Basic.Nack(delivery_tag=delivered.delivery_tag, requeue=True))


@QUEUES.act("two hundred queues")
async def many(neighbour: Neighbour) -> None:
    connection = await neighbour.open()
    for number in range(neighbour.many(200)):
        declare = commands.Queue.Declare(queue=f"replies.{neighbour.name}.q-{number}", auto_delete=True)
        await connection.ask(declare, commands.Queue.DeclareOk)
    await neighbour.ask_each(
        *(
            (GOOD, {"reply_to": f"replies.{neighbour.name}.q-{number}"})
            for number in range(neighbour.many(200))
        )
    )
