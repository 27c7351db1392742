"""What the broker itself refuses: each is tried, and its refusal asserted."""

from typing import Any

from pamqp import commands
from pamqp.base import Frame

from contracts import names
from tests.chaos.noisy_neighbour.act import Kind
from tests.chaos.noisy_neighbour.amqp_bytes import ACCESS_REFUSED, PRECONDITION_FAILED
from tests.chaos.noisy_neighbour.neighbour import Neighbour

DOOR = Kind("the door")


async def refused(neighbour: Neighbour, *tried: Frame) -> None:
    """Each of these is refused for want of permission."""
    for command in tried:
        connection = await neighbour.open()
        connection.send_method(command)
        assert await connection.refusal() == ACCESS_REFUSED, command


@DOOR.act("publishing to the ordinary automation's lane, leases and reply queue")
async def foreign_publishes(neighbour: Neighbour) -> None:
    other = neighbour.ordinary.bot
    for exchange, key in (
        ("requests", other),
        ("requests", f"leases.{other}"),
        ("", names.lane_queue(other)),
        ("", neighbour.ordinary.kept),
        ("", names.ACCOUNTING_QUEUE),
        ("dead", neighbour.name),
        ("amq.topic", neighbour.name),
    ):
        assert await neighbour.refused_with(exchange, key) == ACCESS_REFUSED, (exchange, key)


@DOOR.act("publishing events that only services publish")
async def foreign_events(neighbour: Neighbour) -> None:
    for key in (
        f"usage.recorded.{neighbour.name}",
        f"config.changed.{neighbour.ordinary.bot}",
        f"key.status_changed.{neighbour.ordinary.bot}",
        f"heartbeat.{neighbour.ordinary.bot}",
        f"usage.reported.{neighbour.ordinary.bot}",
        "#",
        "",
    ):
        assert await neighbour.refused_with("events", key) == ACCESS_REFUSED, key


@DOOR.act("messages that say they are from another user")
async def forged_user(neighbour: Neighbour) -> None:
    for user in (neighbour.ordinary.bot, "keyway_admin", "", b"\xff\xfe"):
        code = await neighbour.refused_with("requests", neighbour.name, user_id=user)
        assert code == PRECONDITION_FAILED, (user, code)


@DOOR.act("consuming, emptying and deleting queues that are not its own")
async def foreign_queues(neighbour: Neighbour) -> None:
    other = neighbour.ordinary.bot
    for queue in (
        names.lane_queue(other),
        names.lane_queue(neighbour.name),
        names.lease_queue(neighbour.name),
        names.ACCOUNTING_QUEUE,
        names.DEAD_QUEUE,
        names.UNANSWERED_QUEUE,
        neighbour.ordinary.kept,
    ):
        await refused(
            neighbour,
            commands.Basic.Consume(queue=queue),
            commands.Basic.Get(queue=queue),
            commands.Queue.Purge(queue=queue),
            commands.Queue.Delete(queue=queue),
        )


@DOOR.act("exchanges and bindings that are not its own")
async def foreign_exchanges(neighbour: Neighbour) -> None:
    await neighbour.declare("ear")
    ear = f"replies.{neighbour.name}.ear"
    await refused(
        neighbour,
        commands.Exchange.Delete(exchange="requests"),
        commands.Exchange.Declare(exchange="mine"),
        commands.Exchange.Declare(exchange="requests", exchange_type="fanout"),
        commands.Exchange.Bind(destination="requests", source="events", routing_key="#"),
        commands.Queue.Bind(queue=ear, exchange="requests", routing_key="#"),
        commands.Queue.Bind(queue=ear, exchange="events", routing_key="#"),
        commands.Queue.Bind(queue=names.ACCOUNTING_QUEUE, exchange="events", routing_key="#"),
    )


@DOOR.act("queues of its own whose dead letters would go where it may not write")
async def foreign_dead_letters(neighbour: Neighbour) -> None:
    for exchange in ("dead", "", "amq.topic"):
        arguments: dict[str, Any] = {"x-dead-letter-exchange": exchange, "x-dead-letter-routing-key": "dead"}
        queue = f"replies.{neighbour.name}.{exchange or 'default'}"
        await refused(neighbour, commands.Queue.Declare(queue=queue, arguments=arguments))
