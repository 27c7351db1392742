"""Addresses for answers that are not the asker's, are forged, or lead nowhere."""

from pamqp import commands

from contracts import names
from tests.chaos.noisy_neighbour.act import Kind
from tests.chaos.noisy_neighbour.neighbour import BAD, GOOD, STREAMED, Neighbour

ADDRESSES = Kind("addresses")


async def ask_to(neighbour: Neighbour, *addresses: str | bytes) -> None:
    """Good, streamed and refused requests whose answers would go to each of these."""
    bodies = (GOOD, STREAMED, BAD)
    await neighbour.ask_each(*((body, {"reply_to": one}) for one in addresses for body in bodies))


@ADDRESSES.act("answers to the ordinary automation's reply queue")
async def anothers_queue(neighbour: Neighbour) -> None:
    other = neighbour.ordinary.bot
    await ask_to(neighbour, neighbour.ordinary.kept, f"replies.{other}", f"replies.{other}.", other)


@ADDRESSES.act("answers to queues of Keyway's own")
async def our_queues(neighbour: Neighbour) -> None:
    own, other = neighbour.name, neighbour.ordinary.bot
    queues = (names.DEAD_QUEUE, names.UNANSWERED_QUEUE, names.ACCOUNTING_QUEUE, "requests", "events")
    await ask_to(
        neighbour, *queues, *(f"{kind}.{bot}" for kind in ("requests", "leases") for bot in (own, other))
    )


@ADDRESSES.act("answers to names that begin like its own")
async def nearly_its_own(neighbour: Neighbour) -> None:
    name = neighbour.name
    odd = (
        f"replies.{name}x",
        f"replies.{name}-x.a",
        f"replies.{name}\n",
        f"replies.{name}.",
        f"xreplies.{name}.a",
    )
    await ask_to(neighbour, *odd, f"replies.{name}.\n", f"replies.{name}.\0", f"replies.{name}." + "x" * 200)


@ADDRESSES.act("forged addresses of direct replies", costs_apart=True)
async def forged_direct(neighbour: Neighbour) -> None:
    odd = ("forged", "x==", "Zm9yZ2Vk.Zm9yZ2Vk", "g2dkAA==.x", "", "." * 100)
    await ask_to(neighbour, *(f"{names.DIRECT_REPLY_TO}.{one}" for one in odd))


@ADDRESSES.act("two hundred forged addresses of direct replies", costs_apart=True)
async def many_forged_direct(neighbour: Neighbour) -> None:
    await ask_to(
        neighbour, *(f"{names.DIRECT_REPLY_TO}.forged.{number}==" for number in range(neighbour.many(70)))
    )


@ADDRESSES.act("other names that begin with amq.")
async def reserved(neighbour: Neighbour) -> None:
    await ask_to(neighbour, "amq.gen-x", "amq.", "amq.rabbitmq.trace", "amq.rabbitmq.reply-tox")
    # Without a consumer of it.
    assert await neighbour.refused_with("requests", neighbour.name, reply_to=names.DIRECT_REPLY_TO) == 406


@ADDRESSES.act("addresses that are no text, or as long as they may be")
async def odd_text(neighbour: Neighbour) -> None:
    await ask_to(neighbour, b"\xff\xfe", "x" * 255, "\0", " ", "$set", b"replies.\xed\xa0\x80", "🔑" * 60)


@ADDRESSES.act("a direct address whose client has gone")
async def gone_client(neighbour: Neighbour) -> None:
    for _ in range(10):
        connection = await neighbour.open()
        consume = commands.Basic.Consume(queue=names.DIRECT_REPLY_TO, no_ack=True)
        await connection.ask(consume, commands.Basic.ConsumeOk)
        bodies = (GOOD, STREAMED, BAD)
        await connection.publish_all(
            [neighbour.request_wire(body, reply_to=names.DIRECT_REPLY_TO) for body in bodies]
        )
        await connection.hang_up()


@ADDRESSES.act("a queue that is nowhere, two hundred times")
async def nowhere(neighbour: Neighbour) -> None:
    await ask_to(
        neighbour, *(f"replies.{neighbour.name}.gone-{number}" for number in range(neighbour.many(60)))
    )
