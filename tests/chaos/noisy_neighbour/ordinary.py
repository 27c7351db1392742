"""The ordinary automation: 20 requests a second of four sorts, and all that comes back for them."""

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from itertools import count
from typing import Any, Self

import orjson
from aio_pika import DeliveryMode, Message, connect
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage

from contracts import names
from contracts.messages import GenerationChunk, GenerationResult
from tests.chaos.noisy_neighbour.books import GrowingBooks
from tests.harness import PATIENCE_S, World, eventually

PER_SECOND = 20
#: Of five requests: a stream, one whose answer is kept in a durable queue, two plain ones, and one of a
#: client that has just connected, whose address for direct replies no worker knows yet.
SORTS = ("stream", "plain", "durable", "plain", "newcomer")
#: The alias of its one key.
KEY = "Primary"
#: How the ids of its requests begin.
ID_PREFIX = "o-"
#: How long an answer may take on a machine that is busy with other things, in seconds.
ANSWER_S = PATIENCE_S


@dataclass(frozen=True, slots=True)
class Pace:
    """How it asks beside an act: this often at least, and that often a second while the act goes on after."""

    at_least: int
    later_per_second: float


QUICK, LONG = Pace(len(SORTS), 5), Pace(2 * len(SORTS), PER_SECOND)


@dataclass(frozen=True, slots=True)
class Reply:
    """A message that came for a request."""

    chunk: GenerationChunk | None
    result: GenerationResult | None
    redelivered: bool


class Ordinary:
    """An automation that does nothing odd, on a connection that does not come back by itself."""

    def __init__(self, world: World, bot: str) -> None:
        self._world, self.bot = world, bot
        self.kept = f"replies.{bot}.kept"
        self.asked: dict[str, str] = {}
        self.replies: defaultdict[str, list[Reply]] = defaultdict(list)
        self.unexpected: list[str] = []
        self._books = GrowingBooks(world, bot, KEY)
        self._publishing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._connection = await connect(self._world.url_of(self.bot))
        self._channel = await self._listening(self._connection)
        queue = await self._channel.declare_queue(
            self.kept, durable=True, arguments={"x-queue-type": "quorum"}
        )
        await queue.consume(self._take_kept)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    def next_ids(self, wanted: int) -> list[str]:
        """The ids of the requests that it makes next."""
        return [f"{ID_PREFIX}{number:06}" for number in range(len(self.asked), len(self.asked) + wanted)]

    def ask(self) -> None:
        """Begin to publish one request."""
        (request_id,) = self.next_ids(1)
        sort = self.asked[request_id] = SORTS[len(self.asked) % len(SORTS)]
        publishing = self._publish_as_newcomer if sort == "newcomer" else self._publish
        task = asyncio.create_task(publishing(request_id, sort))
        self._publishing.add(task)
        task.add_done_callback(self._published)

    async def keep_asking(self, pace: Pace) -> None:
        """Ask at this pace, until cancelled."""
        for asked in count(1):
            self.ask()
            per_second = PER_SECOND if asked < pace.at_least else pace.later_per_second
            await asyncio.sleep(1 / per_second)

    async def have_asked(self, wanted: int) -> None:
        """Wait until it has made so many requests in all."""

        async def there() -> bool:
            return len(self.asked) >= wanted

        await eventually(there, f"{wanted} requests", within_s=ANSWER_S)

    async def have_answers(self, since: int = 0) -> None:
        """Wait until each of its requests from number `since` on is answered."""

        async def there() -> bool:
            return not self.unanswered(since)

        try:
            await eventually(there, "an answer to each request", within_s=ANSWER_S)
        except AssertionError as late:
            unanswered = self.unanswered(since)
            raise AssertionError(f"{late}: {unanswered[:5]} and {len(unanswered)} in all") from None

    def unanswered(self, since: int) -> list[str]:
        return [asked for asked in list(self.asked)[since:] if not self._results(asked)]

    def assert_answered_once(self, since: int) -> None:
        """Each request from number `since` on has one good answer, in order, given the first time."""
        assert not self.unexpected, self.unexpected[:5]
        strangers = self.replies.keys() - self.asked.keys()
        assert not strangers, f"answers to what it never asked: {sorted(strangers)[:5]}"
        doubled = [asked for asked in self.asked if len(self._results(asked)) > 1]
        assert not doubled, f"answered more than once: {doubled}"
        for request_id in list(self.asked)[since:]:
            self._assert_good(request_id)

    async def assert_books(self, since: int) -> None:
        """The provider was called once for each request from number `since` on, and the books equal that."""
        await self._books.assert_grown_by(list(self.asked)[since:])

    def _assert_good(self, request_id: str) -> None:
        replies = self.replies[request_id]
        assert not any(reply.redelivered for reply in replies), f"{request_id}: an answer came again"
        result = replies[-1].result
        assert result is not None, f"{request_id}: something came after the result"
        assert (result.status, result.replayed) == ("succeeded", False), f"{request_id}: {result}"
        assert result.request_id == request_id
        assert result.automation_id == self.bot
        assert [attempt.outcome for attempt in result.attempts] == ["ok"], f"{request_id}: {result.attempts}"
        chunks = [reply.chunk for reply in replies[:-1] if reply.chunk is not None]
        assert [chunk.index for chunk in chunks] == list(range(len(replies) - 1)), request_id
        assert not any(chunk.restarted for chunk in chunks), f"{request_id}: the stream began again"
        assert bool(chunks) == (self.asked[request_id] == "stream"), f"{request_id}: {len(chunks)} chunks"

    def _results(self, request_id: str) -> list[GenerationResult]:
        return [reply.result for reply in self.replies.get(request_id, ()) if reply.result is not None]

    async def _listening(self, connection: AbstractConnection) -> AbstractChannel:
        """A channel that takes direct replies, and publishes."""
        channel = await connection.channel(on_return_raises=True)
        direct = await channel.get_queue(names.DIRECT_REPLY_TO, ensure=False)
        await direct.consume(self._take, no_ack=True)
        return channel

    async def _publish_as_newcomer(self, request_id: str, sort: str) -> None:
        async with await connect(self._world.url_of(self.bot)) as connection:
            await self._publish(request_id, sort, await self._listening(connection))

            async def answered() -> bool:
                return bool(self._results(request_id))

            await eventually(answered, f"an answer to {request_id}", within_s=ANSWER_S)

    async def _publish(self, request_id: str, sort: str, channel: AbstractChannel | None = None) -> None:
        message = Message(
            request_body(f"request {request_id}", stream=sort == "stream"),
            type=names.GENERATION_REQUEST,
            content_type="application/json",
            message_id=request_id,
            correlation_id=request_id,
            reply_to=self.kept if sort == "durable" else names.DIRECT_REPLY_TO,
            delivery_mode=DeliveryMode.PERSISTENT,
        )
        requests = await (channel or self._channel).get_exchange(names.REQUESTS_EXCHANGE, ensure=False)
        await requests.publish(message, self.bot, timeout=ANSWER_S)

    def _published(self, task: "asyncio.Task[None]") -> None:
        self._publishing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.unexpected.append(f"a publish failed: {error!r}")

    async def _take(self, message: AbstractIncomingMessage) -> None:
        request_id = message.correlation_id or ""
        try:
            if message.type == names.GENERATION_CHUNK:
                reply = Reply(
                    GenerationChunk.model_validate_json(message.body), None, bool(message.redelivered)
                )
            else:
                reply = Reply(
                    None, GenerationResult.model_validate_json(message.body), bool(message.redelivered)
                )
        except ValueError as error:
            self.unexpected.append(f"{message.type} for {request_id}: {error}")
            return
        self.replies[request_id].append(reply)

    async def _take_kept(self, message: AbstractIncomingMessage) -> None:
        await self._take(message)
        await message.ack()


def request_body(content: str, **fields: Any) -> bytes:
    """The body of a chat completion's request."""
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": content}], **fields}
    return orjson.dumps({"path": "/chat/completions", "body": body})
