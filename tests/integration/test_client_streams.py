"""The client's streams: each chunk once and in order, whatever comes, and closed when nobody takes them."""

import asyncio
import gc
from typing import Any

import pytest

from contracts import GenerationChunk, GenerationStream, Keyway, PublishError, ReplyTimeoutError
from contracts import inbox as inbox_module
from contracts import own_channels as own_channels_module
from contracts.errors import (
    BrokenStreamError,
    ClientClosedError,
    InvalidReplyError,
    KeysExhaustedError,
    SlowConsumerError,
)
from tests.harness import World, eventually
from tests.responder import Asked, Responder, failure


def ask(keyway: Keyway, **options: Any) -> GenerationStream:
    return keyway.stream("/chat/completions", model="gpt-4o-mini", messages=[], **options)


async def all_of(stream: GenerationStream) -> list[tuple[int, bool]]:
    return [(chunk.index, chunk.restarted) async for chunk in stream]


async def take_two(stream: GenerationStream) -> None:
    """Take two chunks and break, without closing."""
    taken = 0
    async for _ in stream:
        taken += 1
        if taken == 2:
            break


async def test_the_chunks_come_in_order_and_then_the_result(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with (
        Responder(unserved, bot) as worker,
        unserved.client(bot) as keyway,
        ask(keyway, request_id="s-1") as stream,
    ):
        asked = await worker.take()
        assert asked.request_id == stream.request_id == "s-1"
        assert asked.body["body"] == {"model": "gpt-4o-mini", "messages": [], "stream": True}
        await asked.chunks(0, 1, 2)
        first = await anext(stream)
        assert first == GenerationChunk(request_id="s-1", index=0, data={"n": 0})
        assert stream.result is None
        await asked.result(response={"id": "x"})
        assert await all_of(stream) == [(1, False), (2, False)]
        assert stream.result is not None
        assert stream.result.response == {"id": "x"}
        assert await all_of(stream) == []


async def test_what_comes_twice_is_given_once_and_a_new_start_is_marked(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with Responder(unserved, bot) as worker, unserved.client(bot) as keyway, ask(keyway) as stream:
        asked = await worker.take()
        await asked.chunks(0, 1, 1, 0, 2)
        await asked.chunk(0, restarted=True)
        await asked.chunks(1, 1)
        await asked.result()
        expected = [(0, False), (1, False), (2, False), (0, True), (1, False)]
        assert await all_of(stream) == expected


async def test_a_missing_chunk_is_an_error_and_the_stream_is_over(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with Responder(unserved, bot) as worker, unserved.client(bot) as keyway:
        stream = ask(keyway)
        async with stream:
            asked = await worker.take()
            await asked.chunks(0, 2)
            assert (await anext(stream)).index == 0
            with pytest.raises(BrokenStreamError, match=r"chunk 1 of request .* is missing: chunk 2 came"):
                await anext(stream)
            assert await all_of(stream) == []
            await asked.until_nobody_listens()


async def test_a_failed_result_is_raised_after_the_chunks_that_came(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with Responder(unserved, bot) as worker, unserved.client(bot) as keyway, ask(keyway) as stream:
        asked = await worker.take()
        await asked.chunk(0)
        await asked.result(**failure("keys_exhausted", retry_at="2126-01-01T00:00:00Z", retryable=True))
        assert (await anext(stream)).index == 0
        with pytest.raises(KeysExhaustedError) as raised:
            await anext(stream)
    assert raised.value.retryable
    assert raised.value.retry_at is not None
    assert stream.result == raised.value.result


async def test_a_result_without_chunks_ends_the_stream(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with Responder(unserved, bot) as worker, unserved.client(bot) as keyway, ask(keyway) as stream:
        await (await worker.take()).result(replayed=True, response={"id": "x"})
        assert await all_of(stream) == []
        assert stream.result is not None
        assert stream.result.replayed


@pytest.mark.parametrize(
    ("message_type", "body"),
    [("generation.chunk.v1", b"{"), ("generation.result.v1", b"{}"), ("key.lease.v1", b"{}")],
)
async def test_an_unreadable_message_fails_its_stream_alone(
    unserved: World, message_type: str, body: bytes
) -> None:
    bot = await unserved.add_automation()
    async with (
        Responder(unserved, bot) as worker,
        unserved.client(bot) as keyway,
        ask(keyway) as good,
        ask(keyway) as bad,
    ):
        first, second = await worker.take(), await worker.take()
        by_id = {first.request_id: first, second.request_id: second}
        await by_id[bad.request_id].send(message_type, body)
        with pytest.raises(InvalidReplyError) as raised:
            await anext(bad)
        assert (raised.value.request_id, raised.value.body) == (bad.request_id, body)
        await by_id[good.request_id].chunk(0)
        await by_id[good.request_id].result()
        assert await all_of(good) == [(0, False)]


async def close_it(stream: GenerationStream, asked: Asked) -> None:
    await stream.aclose()


async def break_off(stream: GenerationStream, asked: Asked) -> None:
    async for _ in stream:
        break


async def cancel_it(stream: GenerationStream, asked: Asked) -> None:
    await anext(stream)
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.parametrize("leave", [close_it, break_off, cancel_it])
async def test_nobody_listens_any_more_after_a_stream_is_left(unserved: World, leave: Any) -> None:
    bot = await unserved.add_automation()
    async with Responder(unserved, bot) as worker, unserved.client(bot) as keyway:
        stream = ask(keyway)
        asking = asyncio.ensure_future(anext(stream))
        asked = await worker.take()
        await asked.chunks(0, 1)
        await asking
        await leave(stream, asked)
        del stream
        gc.collect()
        await asked.until_nobody_listens()
        assert len(keyway._under_way) == 0


async def test_a_stream_that_ends_in_order_leaves_its_channel_to_the_next(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with Responder(unserved, bot) as worker, unserved.client(bot) as keyway:
        addresses = []
        for _ in range(3):
            async with ask(keyway) as stream:
                asked = await worker.take()
                await asked.chunk(0)
                await asked.result()
                assert await all_of(stream) == [(0, False)]
            # What is late for one stream is not for the next.
            await asked.chunk(1)
            addresses.append(asked.message.reply_to)
        assert len(set(addresses)) == 1


async def test_a_stream_whose_channel_is_lost_is_asked_again_under_its_id(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with Responder(unserved, bot) as worker, unserved.client(bot) as keyway, ask(keyway) as stream:
        asked = await worker.take()
        await asked.chunks(0, 1)
        assert [(await anext(stream)).index for _ in range(2)] == [0, 1]
        more = asyncio.ensure_future(all_of(stream))
        await unserved.close_connections(bot)
        again = await worker.take()
        assert (again.request_id, again.body) == (asked.request_id, asked.body)
        assert again.message.reply_to != asked.message.reply_to
        await again.chunk(0, restarted=True)
        await again.chunks(1, 2)
        await again.result(replayed=True)
        assert await more == [(0, True), (1, False), (2, False)]


async def test_a_stream_that_ended_unseen_and_is_not_repeated_is_an_error(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with Responder(unserved, bot) as worker, unserved.client(bot) as keyway, ask(keyway) as stream:
        asked = await worker.take()
        await asked.chunk(0)
        await anext(stream)
        more = asyncio.ensure_future(all_of(stream))
        await unserved.close_connections(bot)
        await (await worker.take()).result(replayed=True)
        with pytest.raises(BrokenStreamError, match="its chunks are gone"):
            await more
        assert stream.result is not None


async def test_a_stream_that_is_not_taken_is_closed_when_too_much_waits(
    unserved: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "MAX_WAITING", 20)
    bot = await unserved.add_automation()
    async with Responder(unserved, bot) as worker, unserved.client(bot) as keyway:
        async with ask(keyway) as stream:
            asked = await worker.take()
            await asked.chunks(*range(21))
            await asked.until_nobody_listens()
            with pytest.raises(SlowConsumerError, match="more than 20 chunks"):
                await anext(stream)
        async with ask(keyway) as stream:
            asked = await worker.take()
            await asked.chunks(*range(19))
            await asked.result()
            assert len(await all_of(stream)) == 19


async def test_streams_wait_for_a_slot_when_there_are_too_many(
    unserved: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_channels_module, "MOST_LENT", 2)
    bot = await unserved.add_automation()
    async with (
        Responder(unserved, bot) as worker,
        unserved.client(bot) as keyway,
        ask(keyway) as first,
        ask(keyway),
    ):
        third = ask(keyway)
        waiting = asyncio.ensure_future(anext(third))
        asked = [await worker.take(), await worker.take()]
        assert third.request_id not in {one.request_id for one in asked}
        await first.aclose()
        asked.append(await worker.take())
        assert asked[-1].request_id == third.request_id
        await asked[-1].chunk(0)
        await waiting
        await third.aclose()


async def test_an_id_is_under_way_once(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with Responder(unserved, bot) as worker, unserved.client(bot) as keyway:
        async with ask(keyway, request_id="s-1") as stream:
            asked = await worker.take()
            with pytest.raises(ValueError, match="s-1 is under way already"):
                async with ask(keyway, request_id="s-1"):
                    pass
            with pytest.raises(ValueError, match="s-1 is under way already"):
                await keyway.generate("/moderations", input="hello", request_id="s-1")
            await asked.result()
            assert await all_of(stream) == []
        async with ask(keyway, request_id="s-1"):
            await worker.take()


async def test_silence_is_an_error_after_the_timeout(
    unserved: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contracts.stream.ANSWER_GRACE_S", 0.1)
    bot = await unserved.add_automation()
    async with (
        Responder(unserved, bot) as worker,
        unserved.client(bot) as keyway,
        ask(keyway, timeout=1.0) as stream,
    ):
        asked = await worker.take()
        with pytest.raises(ReplyTimeoutError, match="within 1 s"):
            await anext(stream)
        await asked.until_nobody_listens()


async def test_a_client_that_is_closed_ends_its_streams(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with Responder(unserved, bot) as worker:
        async with unserved.client(bot) as keyway:
            stream = ask(keyway)
            waiting = asyncio.ensure_future(anext(stream))
            await worker.take()
        with pytest.raises(ClientClosedError):
            await waiting
        with pytest.raises(ClientClosedError):
            await anext(ask(keyway))


async def test_an_unknown_automation_is_an_error_at_once(unserved: World) -> None:
    url = unserved.settings.amqp_url.get_secret_value()
    async with Keyway(url, automation_id="nobody") as keyway:
        with pytest.raises(PublishError, match="no automation nobody"):
            async with ask(keyway):
                pass


async def test_hundreds_of_streams_at_once_and_left_ones_leave_no_channel_behind(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")

    async def read(keyway: Keyway, number: int) -> str:
        messages = [{"role": "user", "content": f"stream {number}"}]
        stream = keyway.stream("/chat/completions", model="gpt-4o-mini", messages=messages, timeout=120)
        words = []
        async with stream:
            async for chunk in stream:
                words += [choice["delta"].get("content") or "" for choice in chunk.data["choices"]]
                if number % 10 == 0:
                    break
        return "".join(words)

    async with shared.client(bot) as keyway:
        texts = await asyncio.gather(*(read(keyway, number) for number in range(200)))
        assert all(f"stream {number}" in text for number, text in enumerate(texts) if number % 10)

        async def few_channels() -> bool:
            connection = keyway._connection._connection
            return connection is not None and len(connection.channels) <= own_channels_module.MAX_IDLE + 2

        await eventually(few_channels, "the channels closed")


async def test_a_stream_that_is_left_stops_the_providers_call(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", {"latency_ms": 60_000})
    async with shared.client(bot) as keyway:
        messages = [{"role": "user", "content": "word " * 500}]
        await take_two(keyway.stream("/chat/completions", model="gpt-4o-mini", messages=messages))
        (row,) = await shared.accounted(bot, 1)
        assert row["outcome"] == "cancelled"


async def test_a_stream_goes_on_though_its_connection_is_closed(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", {"latency_ms": 60_000})
    text = "word " * 200
    async with shared.client(bot) as keyway:
        messages = [{"role": "user", "content": text}]
        async with keyway.stream("/chat/completions", model="gpt-4o-mini", messages=messages) as stream:
            await anext(stream)
            words: list[str] = []
            restarts = 0
            closing = asyncio.ensure_future(shared.close_connections(bot))
            await shared.script(bot, "Primary")
            async for chunk in stream:
                if chunk.restarted:
                    words, restarts = [], restarts + 1
                words += [choice["delta"].get("content") or "" for choice in chunk.data["choices"]]
            await closing
    assert restarts >= 1
    assert text in "".join(words)
    assert stream.result is not None
