"""The blocking client: the same promises, for programs without an event loop."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from contracts import GenerationError, Progress, PublishError, SyncKeyway
from contracts.errors import ClientClosedError, NoKeysError
from tests.harness import PATIENCE_S, World
from tests.responder import Responder

T = TypeVar("T")
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "one two three"}]}


async def in_thread(work: Callable[[], T]) -> T:
    """Run a blocking program, as it would run by itself."""
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.to_thread(work)


async def test_a_program_without_a_loop_asks_streams_and_collects(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")

    def program() -> tuple[Any, ...]:
        with SyncKeyway(shared.url_of(bot)) as keyway:
            result = keyway.generate("/chat/completions", CHAT, user="u-42")
            with keyway.stream("/chat/completions", CHAT) as stream:
                chunks = list(stream)
            again = keyway.stream("/chat/completions", CHAT)
            indices = [chunk.index for chunk in again]
            again.close()
            asked = [keyway.submit("/moderations", name="nightly", input=str(n)) for n in range(3)]
            coming = zip(asked, keyway.results("nightly"), strict=False)
            collected = [kept.request_id for _, kept in coming]
            return result, stream, chunks, indices, asked, collected

    result, stream, chunks, indices, asked, collected = await in_thread(program)
    assert result.status == "succeeded"
    assert "one two three" in "".join(
        choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.data["choices"]
    )
    assert stream.result.request_id == stream.request_id
    assert indices == list(range(len(indices)))
    assert len(indices) > 3
    assert sorted(collected) == sorted(asked)
    assert (await shared.accounted(bot, 6))[0]["user_id"] == "u-42"


async def test_a_stream_that_is_left_is_closed(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with Responder(unserved, bot) as worker:
        left = threading.Event()

        def program() -> None:
            with SyncKeyway(unserved.url_of(bot)) as keyway:
                for _ in keyway.stream("/responses", input="hello"):
                    break
                left.wait(60)

        running = asyncio.ensure_future(in_thread(program))
        asked = await worker.take()
        await asked.chunks(0, 1)
        await asked.until_nobody_listens()
        left.set()
        await running


async def test_errors_are_the_same(shared: World) -> None:
    bot = await shared.add_automation()

    def program() -> None:
        with SyncKeyway(shared.url_of(bot)) as keyway:
            with pytest.raises(NoKeysError):
                keyway.generate("/moderations", input="hello")
            with pytest.raises(GenerationError), keyway.stream("/responses", input="hello") as stream:
                list(stream)
            with pytest.raises(ValueError, match="can't name a reply queue"):
                keyway.submit("/moderations", name="a b", input="hello")
        with pytest.raises(ClientClosedError):
            keyway.generate("/moderations", input="hello")
        wrong = shared.url_of(bot).replace(f"{bot}:", f"{bot}:wrong")
        with pytest.raises(PublishError, match="it refuses the user or token"), SyncKeyway(wrong):
            pass

    await in_thread(program)
    assert "keyway" not in {thread.name for thread in threading.enumerate()}


async def test_one_client_serves_many_threads(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")

    def program() -> set[str]:
        with SyncKeyway(shared.url_of(bot)) as keyway, ThreadPoolExecutor(20) as threads:
            asked = [threads.submit(keyway.generate, "/moderations", input=str(n)) for n in range(100)]
            return {one.result().request_id for one in asked}

    assert len(await in_thread(program)) == 100


async def test_calls_of_other_threads_end_when_the_client_is_closed(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with Responder(unserved, bot) as worker:
        asked = threading.Event()

        def program() -> BaseException | None:
            with ThreadPoolExecutor(1) as threads:
                with SyncKeyway(unserved.url_of(bot)) as keyway:
                    asking = threads.submit(keyway.generate, "/moderations", input="hello")
                    asked.wait(60)
                return asking.exception(60)

        running = asyncio.ensure_future(in_thread(program))
        await worker.take()
        asked.set()
        assert isinstance(await running, ClientClosedError)


async def test_many_prompts_report_their_progress(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    seen: list[Progress] = []

    def program() -> list[Any]:
        bodies = [{"input": f"text {number}"} for number in range(30)]
        with SyncKeyway(shared.url_of(bot)) as keyway:
            return keyway.generate_many("/moderations", bodies, concurrency=5, on_progress=seen.append)

    results = await in_thread(program)
    assert [result.status for result in results] == ["succeeded"] * 30
    assert seen == [Progress(done, 0, 30) for done in range(1, 31)]


async def test_results_that_are_collected_in_the_clients_own_thread_are_given_back_without_a_deadlock(
    unserved: World,
) -> None:
    bot = await unserved.add_automation()
    async with Responder(unserved, bot) as worker:

        def program() -> list[str]:
            with SyncKeyway(unserved.url_of(bot)) as keyway:
                submitted = [keyway.submit("/moderations", name="q", input="hello") for _ in range(2)]
                asyncio.run_coroutine_threadsafe(answer(), loop).result()
                dropped = [keyway.results("q")]
                next(dropped[0])
                # The last reference goes in the client's thread, as when it collects garbage.
                assert keyway._thread is not None
                keyway._thread.call_soon(dropped.clear)
                again = [result.request_id for _, result in zip(submitted, keyway.results("q"), strict=False)]
                assert dropped == []
                return [*submitted, *again]

        async def answer() -> None:
            for _ in range(2):
                asked = await worker.take()
                await asked.result()

        loop = asyncio.get_running_loop()
        first, second, *again = await in_thread(program)
    assert sorted(again) == sorted([first, second])


async def test_a_callback_that_calls_its_client_is_told_so_instead_of_waiting_for_itself(
    shared: World,
) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")

    def program() -> None:
        with SyncKeyway(shared.url_of(bot)) as keyway:

            def call(_: Progress) -> None:
                keyway.generate("/chat/completions", CHAT)

            keyway.generate_many("/chat/completions", [CHAT], on_progress=call)

    with pytest.raises(RuntimeError, match="in its own thread"):
        await in_thread(program)
