"""Streamed answers: chunk by chunk as the provider sent them, counted whatever becomes of them."""

import asyncio
import json
import secrets
import signal
from typing import Any, Self

from aio_pika import Message
from aio_pika.abc import AbstractIncomingMessage

from contracts import names
from contracts.messages import GenerationChunk, GenerationResult
from tests.harness import PATIENCE_S, World, eventually

WORDS = "one two three four five six seven eight nine ten"


def chat(text: str = WORDS, **more: Any) -> bytes:
    body = {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": text}],
        "stream": True,
        **more,
    }
    return json.dumps({"path": "/chat/completions", "body": body}).encode()


class Reader:
    """Asks over a channel of its own, and keeps what comes back."""

    def __init__(self, world: World, bot: str, *, direct: bool = True) -> None:
        self._world, self._bot, self._direct = world, bot, direct
        self.reply_to = names.DIRECT_REPLY_TO if direct else f"replies.{bot}.{secrets.token_hex(3)}"
        self.chunks: list[GenerationChunk] = []
        self.results: list[GenerationResult] = []

    async def __aenter__(self) -> Self:
        self.channel = await self._world.connection.channel()
        if self._direct:
            self.queue = await self.channel.get_queue(self.reply_to, ensure=False)
        else:
            self.queue = await self.channel.declare_queue(self.reply_to)
        await self.queue.consume(self._take, no_ack=True)
        self._exchange = await self.channel.get_exchange("requests", ensure=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self.channel.is_closed:
            await self.channel.close()

    async def _take(self, message: AbstractIncomingMessage) -> None:
        if message.type == names.GENERATION_CHUNK:
            self.chunks.append(GenerationChunk.model_validate_json(message.body))
        else:
            assert message.type == names.GENERATION_RESULT
            self.results.append(GenerationResult.model_validate_json(message.body))

    async def ask(self, request_id: str, body: bytes) -> None:
        message = Message(body, message_id=request_id, reply_to=self.reply_to, delivery_mode=2)
        await self._exchange.publish(message, self._bot)

    async def result(self) -> GenerationResult:
        async def there() -> bool:
            return bool(self.results)

        await eventually(there, "the result of a stream")
        return self.results.pop(0)

    async def begun(self) -> None:
        async def there() -> bool:
            return bool(self.chunks)

        await eventually(there, "the first chunk")

    @property
    def text(self) -> str:
        """What the chunks since the last start say."""
        starts = [place for place, chunk in enumerate(self.chunks) if chunk.index == 0]
        choices = [choice for chunk in self.chunks[starts[-1] :] for choice in chunk.data["choices"]]
        return "".join(choice["delta"].get("content") or "" for choice in choices)


async def wait_until_idle(world: World) -> None:
    async def is_idle() -> bool:
        return await world.simulator.in_flight() == 0

    await eventually(is_idle, "the provider's call stopped")


async def test_a_chat_completion_comes_in_chunks_and_its_usage_is_counted_unasked(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    async with Reader(shared, bot) as reader:
        await reader.ask("s-1", chat())
        result = await reader.result()
    assert [chunk.index for chunk in reader.chunks] == list(range(len(reader.chunks)))
    assert len(reader.chunks) > 10
    assert not any(chunk.restarted for chunk in reader.chunks)
    assert not any("usage" in chunk.data for chunk in reader.chunks), "nobody asked for it"
    assert all(chunk.data["choices"] for chunk in reader.chunks)
    assert WORDS in reader.text
    assert (result.status, result.response, result.replayed) == ("succeeded", None, False)
    assert result.model == "gpt-4o-mini-2024-07-18"
    (row,) = await shared.accounted(bot, 1)
    assert result.usage.total_tokens == row["total_tokens"] > 0
    assert (row["outcome"], row["tokens_estimated"]) == ("ok", False)
    await shared.assert_books_equal_journal(bot)


async def test_usage_that_was_asked_for_is_passed_on(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    async with Reader(shared, bot) as reader:
        await reader.ask("s-1", chat(stream_options={"include_usage": True}))
        result = await reader.result()
    assert reader.chunks[-1].data["choices"] == []
    assert reader.chunks[-1].data["usage"]["total_tokens"] == result.usage.total_tokens
    assert reader.chunks[0].data["usage"] is None


async def test_a_response_comes_as_events_and_whole_in_the_result(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    body = {"path": "/responses", "body": {"model": "gpt-4o-mini", "input": WORDS, "stream": True}}
    async with Reader(shared, bot) as reader:
        await reader.ask("s-1", json.dumps(body).encode())
        result = await reader.result()
    types = [chunk.data["type"] for chunk in reader.chunks]
    assert (types[0], types[-1]) == ("response.created", "response.completed")
    assert result.response == reader.chunks[-1].data["response"]
    assert result.response is not None
    assert result.usage.total_tokens == result.response["usage"]["total_tokens"] > 0
    await shared.assert_books_equal_journal(bot)


async def test_what_fails_before_the_first_chunk_is_tried_with_another_key_unseen(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", {"invalid": True})
    await shared.add_key(bot, "Secondary", {"latency_ms": 30})
    async with Reader(shared, bot) as reader:
        await reader.ask("s-1", chat())
        result = await reader.result()
    assert WORDS in reader.text
    assert not any(chunk.restarted for chunk in reader.chunks)
    assert result.key_alias == "Secondary"


async def test_a_stream_that_is_refused_has_no_chunks_and_a_failed_result(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    async with Reader(shared, bot) as reader:
        await reader.ask("s-1", chat(messages="not a list"))
        result = await reader.result()
    assert reader.chunks == []
    assert result.error is not None
    assert result.error.code == "provider_rejected"
    assert result.attempts[0].http_status == 400


async def test_a_stream_that_is_cut_starts_again_and_what_had_come_of_it_is_booked(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", {"cut_stream_rate": 1.0})
    async with Reader(shared, bot) as reader:
        await reader.ask("s-1", chat())
        await reader.begun()
        await shared.script(bot, "Primary")
        result = await reader.result()
    again = [chunk for chunk in reader.chunks if chunk.restarted]
    assert again
    assert {chunk.index for chunk in again} == {0}
    assert result.status == "succeeded"
    assert WORDS in reader.text
    rows = await shared.accounted(bot, 1 + len(again))
    assert [row["outcome"] for row in rows] == ["connection_error"] * len(again) + ["ok"]
    for row in rows[:-1]:
        assert (row["http_status"], row["tokens_estimated"]) == (200, True)
        assert 0 < row["completion_tokens"] <= rows[-1]["completion_tokens"]
        assert row["cost_nanousd"] > 0
    await shared.assert_totals_equal_ledger(bot, "key")


async def test_a_client_that_goes_away_stops_the_call_and_pays_for_what_was_produced(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", {"latency_ms": 60_000})
    async with Reader(shared, bot) as reader:
        await reader.ask("s-1", chat("word " * 500))
        await reader.begun()
        await reader.channel.close()
        await wait_until_idle(shared)
    (row,) = await shared.accounted(bot, 1)
    assert (row["outcome"], row["tokens_estimated"]) == ("cancelled", True)
    assert row["prompt_tokens"] > 0
    assert row["cost_nanousd"] > 0
    await shared.assert_totals_equal_ledger(bot, "key")
    async with shared.connection.channel() as channel:
        lane = await channel.declare_queue(names.lane_queue(bot), passive=True)
        assert lane.declaration_result.message_count == 0
    key = await shared.key(bot, "Primary")
    assert (key["status"], key["day_tokens"]) == ("active", row["total_tokens"])
    # Asked again under its id it is done anew, since there was no answer.
    await shared.script(bot, "Primary")
    async with Reader(shared, bot) as reader:
        await reader.ask("s-1", chat("word " * 500))
        result = await reader.result()
    assert (result.status, result.replayed) == ("succeeded", False)
    assert reader.chunks[0].restarted


async def test_a_reply_queue_that_is_gone_stops_the_call(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", {"latency_ms": 60_000})
    async with Reader(shared, bot, direct=False) as reader:
        await reader.ask("s-1", chat("word " * 500))
        await reader.begun()
        await reader.queue.delete(if_unused=False, if_empty=False)
        await wait_until_idle(shared)
    (row,) = await shared.accounted(bot, 1)
    assert row["outcome"] == "cancelled"


async def test_a_slow_reader_slows_the_provider_down_and_loses_nothing(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    queue_name = f"replies.{bot}.slow"
    async with shared.connection.channel() as channel:
        bounded = {"x-max-length": 5, "x-overflow": "reject-publish"}
        queue = await channel.declare_queue(queue_name, arguments=bounded, auto_delete=True)
        exchange = await channel.get_exchange("requests", ensure=False)
        await exchange.publish(Message(chat(), message_id="s-1", reply_to=queue_name), bot)

        async def is_full() -> bool:
            async with shared.connection.channel() as look:
                found = await look.declare_queue(queue_name, passive=True)
                return (found.declaration_result.message_count or 0) >= 5

        await eventually(is_full, "a reply queue that is full")
        indices = []
        async with asyncio.timeout(PATIENCE_S):
            async with queue.iterator(no_ack=True) as messages:
                async for message in messages:
                    if message.type == names.GENERATION_RESULT:
                        break
                    indices.append(json.loads(message.body)["index"])
    assert indices == list(range(len(indices)))
    assert len(indices) > 10
    assert GenerationResult.model_validate_json(message.body).status == "succeeded"


async def test_a_stream_that_nobody_wants_the_chunks_of_is_done_and_counted(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    async with shared.connection.channel() as channel:
        exchange = await channel.get_exchange("requests", ensure=False)
        await exchange.publish(Message(chat(), message_id="s-1"), bot)
        await shared.accounted(bot, 1)
    await shared.assert_books_equal_journal(bot)


async def test_a_stream_that_is_over_is_repeated_from_the_journal(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    async with Reader(shared, bot) as reader:
        await reader.ask("s-1", chat())
        first = await reader.result()
        told, reader.chunks = reader.chunks, []
        await reader.ask("s-1", chat())
        second = await reader.result()
    assert second == first.model_copy(update={"replayed": True})
    assert reader.chunks[0].restarted
    assert [chunk.data for chunk in reader.chunks] == [chunk.data for chunk in told]
    assert len(await shared.journal(bot)) == 1
    entry = await shared.mongo.requests.find_one({"automation_id": bot})
    assert b"three" not in str(entry).encode(), "chunks are kept encrypted"


async def test_a_stream_whose_worker_dies_starts_again_with_another(world: World) -> None:
    bot = await world.add_automation()
    await world.add_key(bot, "Primary", {"latency_ms": 60_000})
    await world.start_accounting()
    doomed = await world.start_worker()
    async with Reader(world, bot) as reader:
        await reader.ask("s-1", chat("word " * 500))
        await reader.begun()
        await doomed.stop(signal.SIGKILL)
        await world.silence_workers()
        await world.script(bot, "Primary")
        await world.start_worker()
        result = await reader.result()
    assert [chunk.index for chunk in reader.chunks if chunk.restarted] == [0]
    assert result.status == "succeeded"
    assert [row["outcome"] for row in await world.accounted(bot, 2)] == ["ambiguous", "ok"]


async def test_trace_context_goes_with_chunks_result_and_usage(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    trace = {
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "vendor=1",
    }
    seen: dict[str, Any] = {}
    async with shared.connection.channel() as channel:
        queue_name = f"replies.{bot}.traced"
        answers = await channel.declare_queue(queue_name, auto_delete=True)
        usage = await channel.declare_queue(exclusive=True)
        await usage.bind("events", f"usage.recorded.{bot}")

        async def take(message: AbstractIncomingMessage) -> None:
            seen[str(message.type)] = {name: message.headers.get(name) for name in trace}

        await answers.consume(take, no_ack=True)
        await usage.consume(take, no_ack=True)
        exchange = await channel.get_exchange("requests", ensure=False)
        message = Message(chat(), message_id="s-1", reply_to=queue_name, headers=dict(trace))
        await exchange.publish(message, bot)

        async def all_there() -> bool:
            return len(seen) == 3

        await eventually(all_there, "a chunk, the result and its usage")
    assert seen == dict.fromkeys(
        (names.GENERATION_CHUNK, names.GENERATION_RESULT, names.USAGE_RECORDED), trace
    )
