"""How much later than over HTTP the first chunk of a stream comes through the queue.

    python -m tests.bench.first_chunk [--quick]

Both ask the same simulated provider, one stream at a time and in turns, so that a busy machine slows both.
HTTP is the OpenAI SDK at the provider itself; the queue is the client, RabbitMQ and one worker with
everything on.
"""

import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionUserMessageParam

from contracts import Keyway
from tests.bench.part import Bench, Finding, Goal, Report, columns, run_alone

PROMPT = "Say in one sentence what a message broker is good for."
MODEL = "gpt-4o-mini"
WARM_UP = 20
STREAMS, QUICK_STREAMS = 200, 50
ADDED = Goal("first chunk of a stream later than over HTTP, p50", 10, "ms")


def messages() -> list[ChatCompletionUserMessageParam]:
    return [{"role": "user", "content": PROMPT}]


async def over_http(client: AsyncOpenAI) -> float:
    """Milliseconds to the first chunk; the stream is read to its end."""
    began = time.perf_counter()
    stream = await client.chat.completions.create(model=MODEL, messages=messages(), stream=True)
    await anext(aiter(stream))
    took_ms = (time.perf_counter() - began) * 1000
    async for _ in stream:
        pass
    return took_ms


async def through_queue(keyway: Keyway) -> float:
    """The same through the queue."""
    began = time.perf_counter()
    body: dict[str, Any] = {"model": MODEL, "messages": messages()}
    async with keyway.stream("/chat/completions", body) as stream:
        await anext(stream)
        took_ms = (time.perf_counter() - began) * 1000
        async for _ in stream:
            pass
    return took_ms


def percentile(latencies: Sequence[float], percent: int) -> float:
    return statistics.quantiles(latencies, n=100)[percent - 1]


async def report(bench: Bench) -> Report:
    """One stream at a time, in turns."""
    streams = QUICK_STREAMS if bench.quick else STREAMS
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(bench.world())
        bot = await world.add_automation()
        await world.add_key(bot, "Primary")
        await world.start_accounting()
        await world.start_worker()
        api_key = world.api_keys[-1]
        http = await stack.enter_async_context(
            AsyncOpenAI(api_key=api_key, base_url=world.simulator.base_url, max_retries=0)
        )
        keyway = await stack.enter_async_context(world.client(bot))
        bench.step(f"first chunk: {streams} streams")
        for _ in range(WARM_UP):
            await over_http(http)
            await through_queue(keyway)
        direct, queued = [], []
        for _ in range(streams):
            direct.append(await over_http(http))
            queued.append(await through_queue(keyway))
    rows: list[tuple[str, ...]] = [("", "p50 ms", "p99 ms")]
    for name, latencies in (("over HTTP", direct), ("through the queue", queued)):
        rows.append((name, f"{percentile(latencies, 50):.2f}", f"{percentile(latencies, 99):.2f}"))
    added = percentile(queued, 50) - percentile(direct, 50)
    figures = {"direct_p50_ms": percentile(direct, 50), "queued_p50_ms": percentile(queued, 50)}
    title = f"Time to the first chunk of {streams} streams"
    return Report(title, columns(rows), [Finding(ADDED, added)], figures)


if __name__ == "__main__":
    run_alone(report, "tests.bench.first_chunk", __doc__ or "")
