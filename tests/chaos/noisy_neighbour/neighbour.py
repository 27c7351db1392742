"""The noisy neighbour: what an automation's service token reaches, for acts to misuse."""

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from pamqp import commands

from contracts import names
from tests.chaos.noisy_neighbour.act import Act
from tests.chaos.noisy_neighbour.amqp_bytes import RawConnection, message, method, refusal_of
from tests.chaos.noisy_neighbour.lying_provider import LyingProvider
from tests.chaos.noisy_neighbour.ordinary import Ordinary, request_body
from tests.harness import PATIENCE_S, World, eventually

#: What an operator allows the neighbour: short deadlines, so that an act is over soon.
SETTINGS = {"deadline_s": 4, "call_timeout_s": 1}
#: How long what an act leaves behind may take to be dealt with, in seconds.
LEFTOVERS_S = PATIENCE_S
GOOD = request_body("hello")
STREAMED = request_body("hello", stream=True)
#: How often a provider that lies is asked for an answer and for a stream; in the quick form until it has said
#: all that it says.
LIES = 5
#: Refused at sight, and dead-lettered.
BAD = b"{}"


@dataclass
class Neighbour:
    """One automation beside the ordinary one, for one act."""

    world: World
    name: str
    ordinary: Ordinary
    #: In the quick form, where a flood is a tenth of what it is called.
    is_quick: bool = False
    _connections: list[RawConnection] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.world.url_of(self.name)

    def many(self, count: int) -> int:
        """So many of something, or in the quick form a tenth of them."""
        return count // 10 if self.is_quick else count

    @property
    def reply_queue(self) -> str:
        return f"replies.{self.name}.noise"

    async def dial(self) -> RawConnection:
        """A connection on which nothing was said."""
        return self._kept(await RawConnection.dial(self.url))

    async def open(self, *, channel: bool = True) -> RawConnection:
        """A connection that is signed in, with channel 1."""
        connection = self._kept(await RawConnection.open(self.url))
        if channel:
            await connection.channel()
        return connection

    def request_wire(self, body: bytes = GOOD, *, channel: int = 1, **properties: Any) -> bytes:
        """The frames of a request to its own lane."""
        return message(names.REQUESTS_EXCHANGE, self.name, body, properties, channel)

    def publish_method(self) -> bytes:
        """The first of these frames."""
        return method(commands.Basic.Publish(exchange=names.REQUESTS_EXCHANGE, routing_key=self.name), 1)

    async def ask(self, body: bytes = GOOD, *, times: int = 1, **properties: Any) -> None:
        """Publish to its own lane, and wait for the broker's confirms."""
        await self.ask_each(*[(body, properties)] * times)

    async def ask_each(self, *messages: tuple[bytes, Mapping[str, Any]]) -> None:
        """The same of several messages, each with its body and properties."""
        await self.publish(names.REQUESTS_EXCHANGE, self.name, *messages)

    async def ask_for_keys(self, *messages: tuple[bytes, Mapping[str, Any]]) -> None:
        """Publish to its own queue of direct key requests."""
        await self.publish(names.REQUESTS_EXCHANGE, f"leases.{self.name}", *messages)

    async def tell(self, event: str, *messages: tuple[bytes, Mapping[str, Any]]) -> None:
        """Publish events: `heartbeat` or `usage.reported`."""
        await self.publish(names.EVENTS_EXCHANGE, f"{event}.{self.name}", *messages)

    async def publish(self, exchange: str, key: str, *messages: tuple[bytes, Mapping[str, Any]]) -> None:
        """Publish on a connection of its own, and wait for the broker's confirms."""
        connection = await self.open()
        await connection.publish_all([message(exchange, key, *one) for one in messages])

    async def declare(self, name: str = "noise", **properties: Any) -> RawConnection:
        """A queue of its own, `replies.<it>.<name>`; arguments as `arguments`."""
        connection = await self.open()
        declare = commands.Queue.Declare(queue=f"replies.{self.name}.{name}", **properties)
        await connection.ask(declare, commands.Queue.DeclareOk)
        return connection

    async def delete_full_queue(self) -> None:
        """Wait until a worker has found its reply queue full and will try again, and delete it then."""

        async def found_full() -> bool:
            return any(
                event["event"] == "reply_delayed" and event.get("automation_id") == self.name
                for service in self.world.services
                for event in service.events()
            )

        await eventually(found_full, "a worker that finds the reply queue full")
        await (await self.open()).ask(commands.Queue.Delete(queue=self.reply_queue), commands.Queue.DeleteOk)

    async def hear_lies(self, forms: int) -> None:
        """Ask its provider often enough to hear so many forms of a lie, answered to a queue of its own."""
        times = -(-forms // 2) if self.is_quick else LIES
        await self.declare(durable=True)
        await self.ask_each(*((body, {"reply_to": self.reply_queue}) for body in (GOOD, STREAMED) * times))

    async def refused_with(self, exchange: str, routing_key: str, **properties: Any) -> int | None:
        """The code with which the broker refuses a publish of a good request, or None if it takes it."""
        return await refusal_of(self.publish(exchange, routing_key, (GOOD, properties)))

    async def waiting(self) -> int:
        """How many of its requests and key requests still wait."""
        waiting = 0
        async with self.world.connection.channel() as channel:
            for queue in (names.lane_queue(self.name), names.lease_queue(self.name), names.ACCOUNTING_QUEUE):
                declared = await channel.declare_queue(queue, passive=True)
                waiting += declared.declaration_result.message_count or 0
        return waiting

    async def have_leftovers_done(self) -> None:
        """Wait until nothing that it published waits or is being done."""

        async def done() -> bool:
            # A stream that nobody takes any more stays so, without an owner.
            running = {"automation_id": self.name, "status": "running", "owner": {"$ne": None}}
            return not await self.waiting() and not await self.world.mongo.requests.count_documents(running)

        await eventually(done, "nothing left of the act", within_s=LEFTOVERS_S, every_s=0.1)

    async def leave(self) -> None:
        """Hang up every connection that is still open."""
        for connection in self._connections:
            await connection.hang_up()

    def _kept(self, connection: RawConnection) -> RawConnection:
        self._connections.append(connection)
        return connection


@asynccontextmanager
async def new_neighbour(
    world: World, ordinary: Ordinary, provider: LyingProvider, act: Act, *, is_quick: bool
) -> AsyncIterator[Neighbour]:
    """An automation for one act; its one key is at the simulator, or at a provider that lies."""
    name = f"noisy-{secrets.token_hex(4)}"
    await world.add_automation(name, **SETTINGS, allow_leases=act.lends)
    await world.add_key(name, "Primary", base_url=provider.url_of(act.lie) if act.lie else None)
    neighbour = Neighbour(world, name, ordinary, is_quick)
    try:
        yield neighbour
    finally:
        await neighbour.leave()
