"""What publishing below aio-pika promises: as much as aio-pika's own did."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aio_pika import connect_robust
from aio_pika.abc import AbstractRobustConnection
from aiormq.exceptions import ChannelInvalidStateError, DeliveryError
from pamqp.commands import Basic

from contracts import names
from infra import confirmed_publishing as module
from infra.broker import declare_topology
from infra.confirmed_publishing import ConfirmedPublishing
from tests.builders import make_envelope
from tests.harness import PATIENCE_S, World, eventually
from workers.generation.publishing import UNCONFIRMED, Publisher


@pytest.fixture
async def connection(unserved: World) -> AsyncIterator[AbstractRobustConnection]:
    async with await connect_robust(
        unserved.settings.amqp_url.get_secret_value(), reconnect_interval=0.2
    ) as opened:
        yield opened


async def publishing(connection: AbstractRobustConnection) -> ConfirmedPublishing:
    return ConfirmedPublishing(await connection.channel(publisher_confirms=True, on_return_raises=True))


async def publish(to: ConfirmedPublishing, queue: str, body: bytes, message_id: str | None = None) -> None:
    properties = Basic.Properties(message_id=message_id)
    await to.publish(body, properties, exchange="", routing_key=queue, mandatory=True)


async def publish_nowhere(to: ConfirmedPublishing, message_id: str) -> None:
    """Publish, on the channel that is shared, what is returned."""
    properties = Basic.Properties(message_id=message_id)
    await to.publish(b"", properties, exchange="amq.direct", routing_key="nowhere", mandatory=True)


async def test_each_of_those_under_way_gets_its_own_answer(connection: AbstractRobustConnection) -> None:
    channel = await connection.channel()
    queue = await channel.declare_queue(exclusive=True)
    full = await channel.declare_queue(
        exclusive=True, arguments={"x-max-length": 0, "x-overflow": "reject-publish"}
    )
    to = await publishing(connection)
    answers = await asyncio.gather(
        *(
            publish(to, address, b"%d" % number, f"m-{number}")
            for number, address in enumerate([queue.name, "nowhere", full.name] * 20)
        ),
        return_exceptions=True,
    )
    frames = [getattr(answer, "frame", None) for answer in answers]
    assert [type(frame) for frame in frames] == [type(None), Basic.Return, Basic.Nack] * 20
    assert all(isinstance(answer, DeliveryError) for answer in answers if answer is not None)
    taken = [await queue.get(no_ack=True) for _ in range(20)]
    assert {(message.message_id, message.body) for message in taken} == {
        (f"m-{number}", b"%d" % number) for number in range(0, 60, 3)
    }


async def test_a_message_without_an_id_is_recognised_when_it_comes_back(
    connection: AbstractRobustConnection,
) -> None:
    to = await publishing(connection)
    with pytest.raises(DeliveryError):
        await publish(to, "nowhere", b"{}")


async def test_a_body_of_many_frames_arrives_whole(connection: AbstractRobustConnection) -> None:
    queue = await (await connection.channel()).declare_queue(exclusive=True)
    to = await publishing(connection)
    bodies = [b"", b"x" * 131_064, bytes(range(256)) * 4096]
    for body in bodies:
        await publish(to, queue.name, body)
    assert [(await queue.get(no_ack=True)).body for _ in bodies] == bodies


async def test_what_is_not_confirmed_in_time_is_said_to_be_so_and_the_channel_goes_on(
    connection: AbstractRobustConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = await (await connection.channel()).declare_queue(exclusive=True)
    to = await publishing(connection)
    await publish(to, queue.name, b"before", "before")
    with monkeypatch.context() as patched:
        patched.setattr(module, "CONFIRM_TIMEOUT_S", 0)
        with pytest.raises(TimeoutError):
            await publish(to, queue.name, b"late", "late")
        with pytest.raises(TimeoutError):
            await publish_nowhere(to, "late")
    await publish(to, queue.name, b"in time", "in time")
    assert [(await queue.get(no_ack=True)).body for _ in range(3)] == [b"before", b"late", b"in time"]


async def test_a_channel_that_closes_fails_what_is_under_way_and_its_successor_serves(
    connection: AbstractRobustConnection,
) -> None:
    queue = await (await connection.channel()).declare_queue(exclusive=True)
    to = await publishing(connection)
    await publish(to, queue.name, b"before")
    closing = to.publish(b"", Basic.Properties(), exchange="nowhere", routing_key="", mandatory=True)
    answers = await asyncio.gather(closing, publish(to, queue.name, b"lost"), return_exceptions=True)
    assert [type(answer) for answer in answers] == [ChannelInvalidStateError] * 2

    async def serves() -> bool:
        try:
            await publish(to, queue.name, b"after")
        except UNCONFIRMED:
            return False
        return True

    await eventually(serves, "the channel again")
    assert [(await queue.get(no_ack=True)).body for _ in range(2)] == [b"before", b"after"]


async def test_a_usage_event_is_published_again_when_its_channel_closes_before_the_confirm(
    connection: AbstractRobustConnection,
) -> None:
    await declare_topology(connection)
    channel = await connection.channel()
    queue = await channel.declare_queue(exclusive=True)
    await queue.bind(names.EVENTS_EXCHANGE, "#")
    publisher = await Publisher.open(connection)
    closing = publisher._events.publish(
        b"", Basic.Properties(), exchange="nowhere", routing_key="", mandatory=True
    )
    closed, told = await asyncio.gather(
        closing, publisher.usage(make_envelope(), b'{"event_id": "e-1"}'), return_exceptions=True
    )
    assert (type(closed), told) == (ChannelInvalidStateError, None)
    assert (await queue.get(no_ack=True)).body == b'{"event_id": "e-1"}'
    assert await queue.get(no_ack=True, fail=False) is None


async def test_a_returned_message_is_its_publishers_whoever_else_uses_its_id(
    connection: AbstractRobustConnection,
) -> None:
    channel = await connection.channel()
    queues = [await channel.declare_queue(exclusive=True) for _ in range(20)]
    to = await publishing(connection)
    addresses = [address for queue in queues for address in (queue.name, f"nowhere-{queue.name}")]
    for order in (addresses, addresses[::-1]):
        answers = await asyncio.gather(
            *(publish(to, address, b"same", "one-id") for address in order), return_exceptions=True
        )
        returned = [address for address, answer in zip(order, answers, strict=True) if answer is not None]
        assert all(isinstance(answer, DeliveryError) for answer in answers if answer is not None)
        assert returned == [address for address in order if address.startswith("nowhere-")]
    assert [[(await queue.get(no_ack=True)).body for _ in range(2)] for queue in queues] == [
        [b"same"] * 2
    ] * 20


async def test_each_of_two_publishes_with_one_id_to_one_address_is_returned(
    connection: AbstractRobustConnection,
) -> None:
    to = await publishing(connection)
    answers = await asyncio.gather(
        *(publish(to, "nowhere", b"same", "one-id") for _ in range(3)), return_exceptions=True
    )
    assert [type(getattr(answer, "frame", None)) for answer in answers] == [Basic.Return] * 3


async def test_a_return_that_nobody_waits_for_any_more_is_no_error_and_no_other_publishers(
    connection: AbstractRobustConnection, caplog: pytest.LogCaptureFixture
) -> None:
    queue = await (await connection.channel()).declare_queue(exclusive=True)
    to = await publishing(connection)
    await publish(to, queue.name, b"before")
    given_up = asyncio.create_task(publish_nowhere(to, "one-id"))
    await asyncio.sleep(0)
    given_up.cancel()
    await publish(to, queue.name, b"after", "one-id")
    assert given_up.cancelled()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_return_that_comes_just_when_its_publisher_is_cancelled_ends_no_channel(
    connection: AbstractRobustConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = await (await connection.channel()).declare_queue(exclusive=True)
    to = await publishing(connection)
    await publish(to, queue.name, b"before")
    channel = to._shared
    assert channel is not None
    returnable, has_come = channel._returnable, asyncio.Event()
    read = returnable._read

    async def cancel_first(frame: Basic.Return) -> None:
        given_up.cancel()
        await read(frame)
        has_come.set()

    monkeypatch.setattr(returnable, "_read", cancel_first)
    given_up = asyncio.create_task(publish_nowhere(to, "one-id"))
    async with asyncio.timeout(PATIENCE_S):
        await has_come.wait()
    await publish(to, queue.name, b"after")
    assert to._shared is channel
    assert given_up.cancelled()


async def test_properties_that_fit_into_no_frame_are_refused_before_they_cost_the_connection(
    connection: AbstractRobustConnection,
) -> None:
    queue = await (await connection.channel()).declare_queue(exclusive=True)
    to = await publishing(connection)
    large = Basic.Properties(headers={"large": "x" * 131_072})
    with pytest.raises(ValueError, match="properties have"):
        await to.publish(b"", large, exchange="", routing_key=queue.name, mandatory=True)
    await publish(to, queue.name, b"after")
    assert (await queue.get(no_ack=True)).body == b"after"
