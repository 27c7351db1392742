"""How much later than over HTTP the first chunk of a stream comes through the queue.

    python -m tests.bench.first_chunk [--streams 200]

Both ask the same simulated provider, one stream at a time and in turns, so that a busy machine slows both.
HTTP is the OpenAI SDK at the provider itself; the queue is the client, RabbitMQ and one worker with
everything on. It uses the services that `worker_cpu` uses.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionUserMessageParam

from contracts import Keyway
from infra.local.stack import backing_services
from tests.harness import new_world

PROMPT = "Say in one sentence what a message broker is good for."
MODEL = "gpt-4o-mini"
WARM_UP = 20
#: What issue and docs ask for, at the median, in milliseconds.
GOAL_MS = 10.0


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


async def run(streams: int) -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keyway-bench-")))
        services = await stack.enter_async_context(backing_services(folder / "backing"))
        world = await stack.enter_async_context(new_world(services.environment, folder))
        bot = await world.add_automation()
        await world.add_key(bot, "Primary")
        await world.start_accounting()
        await world.start_worker()
        api_key = world.api_keys[-1]
        http = await stack.enter_async_context(
            AsyncOpenAI(api_key=api_key, base_url=world.simulator.base_url, max_retries=0)
        )
        keyway = await stack.enter_async_context(world.client(bot))
        for _ in range(WARM_UP):
            await over_http(http)
            await through_queue(keyway)
        direct, queued = [], []
        for _ in range(streams):
            direct.append(await over_http(http))
            queued.append(await through_queue(keyway))
    sys.stdout.write(f"time to the first chunk of {streams} streams, in ms\n")
    for name, latencies in (("over HTTP", direct), ("through the queue", queued)):
        p50, p99 = percentile(latencies, 50), percentile(latencies, 99)
        sys.stdout.write(f"  {name:<18} p50 {p50:6.2f}   p99 {p99:6.2f}\n")
    added = percentile(queued, 50) - percentile(direct, 50)
    sys.stdout.write(f"  added at p50       {added:6.2f}   (goal: {GOAL_MS:g})\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Time to the first chunk, over HTTP and through the queue.")
    parser.add_argument("--streams", type=int, default=200, help="how many of each are measured")
    asyncio.run(run(parser.parse_args().streams))


if __name__ == "__main__":
    main()
