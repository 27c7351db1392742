"""What a token's holder may do to its own connections, and to the broker's port."""

import asyncio
from collections.abc import Awaitable, Callable

from pamqp import commands

from contracts import names
from tests.chaos.noisy_neighbour.act import Kind
from tests.chaos.noisy_neighbour.amqp_bytes import PROTOCOL_HEADER, RawConnection, method, refusal_of
from tests.chaos.noisy_neighbour.neighbour import Neighbour

CONNECTIONS = Kind("connections")
MANY = 100
MOST_CHANNELS = 2047


async def side_by_side(times: int, make: Callable[[], Awaitable[object]]) -> None:
    await asyncio.gather(*(make() for _ in range(times)))


@CONNECTIONS.act("a hundred handshakes that are never finished")
async def half_a_handshake(neighbour: Neighbour) -> None:
    async def begin() -> None:
        connection = await neighbour.dial()
        connection.send(PROTOCOL_HEADER)
        await connection.answer(commands.Connection.Start)

    await side_by_side(neighbour.many(MANY), begin)


@CONNECTIONS.act("a hundred sockets on which nothing is said")
async def silent_sockets(neighbour: Neighbour) -> None:
    await side_by_side(neighbour.many(MANY), neighbour.dial)


@CONNECTIONS.act("garbage in place of a protocol header")
async def garbage_header(neighbour: Neighbour) -> None:
    for garbage in (b"\xff" * 64, b"AMQP\x09\x09\x09\x09", b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n"):
        connection = await neighbour.dial()
        connection.send(garbage)
        assert await connection.reader.read(4) in {b"AMQP", b""}


@CONNECTIONS.act("a wrong password, fifty times")
async def wrong_password(neighbour: Neighbour) -> None:
    token = neighbour.world.tokens[neighbour.name].get_secret_value()
    wrong = neighbour.url.replace(token, "wrong")

    async def sign_in() -> None:
        assert await refusal_of(RawConnection.open(wrong)) in {0, 403}

    await side_by_side(neighbour.many(50), sign_in)


@CONNECTIONS.act("two hundred connections that are signed in, and dropped without a word")
async def dropped(neighbour: Neighbour) -> None:
    for _ in range(neighbour.many(10)):
        opened = await asyncio.gather(*(neighbour.open() for _ in range(20)))
        for connection in opened:
            await connection.hang_up()


@CONNECTIONS.act("a connection dropped in the middle of each of two hundred messages")
async def dropped_amid_a_message(neighbour: Neighbour) -> None:
    async def drop() -> None:
        connection = await neighbour.open()
        connection.send(neighbour.request_wire()[:-20])
        await connection.flush()
        await connection.hang_up()

    for _ in range(neighbour.many(10)):
        await side_by_side(20, drop)


@CONNECTIONS.act("2,047 channels on one connection, and one more")
async def all_channels(neighbour: Neighbour) -> None:
    connection = await neighbour.open(channel=False)
    numbers = range(1, MOST_CHANNELS + 1)
    connection.send(*(method(commands.Channel.Open(), number) for number in numbers))
    for _ in numbers:
        await connection.answer(commands.Channel.OpenOk)
    assert await refusal_of(connection.channel(MOST_CHANNELS + 1)) in {504, 530}


@CONNECTIONS.act("five hundred consumers of one queue")
async def many_consumers(neighbour: Neighbour) -> None:
    connection = await neighbour.declare(exclusive=True)
    for number in range(neighbour.many(500)):
        consume = commands.Basic.Consume(queue=neighbour.reply_queue, consumer_tag=f"c-{number}", no_ack=True)
        await connection.ask(consume, commands.Basic.ConsumeOk)
    await neighbour.ask(times=neighbour.many(100), reply_to=neighbour.reply_queue)


@CONNECTIONS.act("two thousand times basic.get from an empty queue")
async def get_loop(neighbour: Neighbour) -> None:
    connection = await neighbour.declare(exclusive=True)
    for _ in range(neighbour.many(2000)):
        await connection.ask(commands.Basic.Get(queue=neighbour.reply_queue), commands.Basic.GetEmpty)


@CONNECTIONS.act("transactions: five hundred requests rolled back, and some never committed")
async def transactions(neighbour: Neighbour) -> None:
    connection = await neighbour.open()
    await connection.ask(commands.Tx.Select(), commands.Tx.SelectOk)
    for _ in range(5):
        connection.send(*(neighbour.request_wire() for _ in range(100)))
        await connection.ask(commands.Tx.Rollback(), commands.Tx.RollbackOk)
    connection.send(*(neighbour.request_wire() for _ in range(100)))


@CONNECTIONS.act("acknowledgements of what was never delivered")
async def unknown_tags(neighbour: Neighbour) -> None:
    for command in (
        commands.Basic.Ack(delivery_tag=2**62, multiple=True),
        commands.Basic.Nack(delivery_tag=1),
        commands.Basic.Reject(delivery_tag=2**40),
    ):
        connection = await neighbour.open()
        connection.send_method(command)
        assert await connection.refusal() == 406


@CONNECTIONS.act("the broker told to hold its deliveries back")
async def flow(neighbour: Neighbour) -> None:
    connection = await neighbour.open()
    connection.send_method(commands.Channel.Flow(active=False))
    assert await connection.refusal() == 540


@CONNECTIONS.act("a socket that is never read, with the answers to a thousand requests on their way")
async def never_read(neighbour: Neighbour) -> None:
    connection = await neighbour.open()
    consume = commands.Basic.Consume(queue=names.DIRECT_REPLY_TO, no_ack=True)
    await connection.ask(consume, commands.Basic.ConsumeOk)
    connection.pause_reading()
    connection.send(
        *(neighbour.request_wire(b"{}", reply_to=names.DIRECT_REPLY_TO) for _ in range(neighbour.many(1000)))
    )
    await connection.flush()
