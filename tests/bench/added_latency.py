"""How much later an answer comes through Keyway than from the provider itself, with one request in flight.

    python -m tests.bench.added_latency [--quick]

direct: the provider over HTTP. echo: a bare round trip over AMQP on the same type of queue, which answers
with a constant. Each is asked 50 times a second, in turns, so that a busy machine slows all. It is an open
loop: were one answer late, the next request would not wait for it, and its own delay would count.
"""

import statistics
from contextlib import AsyncExitStack

from tests.bench.latencies import Latencies
from tests.bench.pacing import Load
from tests.bench.part import Bench, Finding, Goal, Report, columns, provider, run_alone
from tests.bench.peers import PEERS, own_worker, send

RATE = 50
REQUESTS, ROUNDS = 250, 5
QUICK_REQUESTS, QUICK_ROUNDS = 150, 2
#: Peers that are measured too, so that the figures can be told apart from the machine's.
BESIDE = ("naive", "portkey", "litellm")
P50 = Goal("added latency, one in flight, p50", 5, "ms")
P99 = Goal("added latency, one in flight, p99", 15, "ms")
RATIO = Goal("added latency p50, to a bare AMQP round trip", 1.8)


async def run(bench: Bench, *, requests: int, rounds: int) -> dict[str, list[Load]]:
    """The turns of each, in order."""
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(bench.world())
        base_url = await stack.enter_async_context(provider(bench.folder))
        commands: dict[str, tuple[str, ...]] = {
            "direct": ("tests.bench.http_load", f"{base_url}/chat/completions")
        }
        echo = await stack.enter_async_context(own_worker(world, base_url, "echo"))
        commands["echo"] = echo.load
        for name in ("keyway", *(() if bench.quick else BESIDE)):
            bench.step(f"added latency: starting {name}")
            commands[name] = (await stack.enter_async_context(PEERS[name](bench, world, base_url))).load
        for name, command in commands.items():
            bench.step(f"added latency: warming up {name}")
            await send(world, command, f"--requests={requests}", "--in-flight=4")
        turns: dict[str, list[Load]] = {name: [] for name in commands}
        for number in range(rounds):
            for name, command in commands.items():
                bench.step(f"added latency: {name}, round {number + 1} of {rounds}")
                turns[name].append(await send(world, command, f"--requests={requests}", f"--rate={RATE}"))
    return turns


def added_ms(ours: list[Load], theirs: list[Load], percent: float) -> float:
    """The median over the turns of how much more a percentile of ours is."""
    return statistics.median(
        Latencies.decoded([one.latencies]).percentile_ms(percent)
        - Latencies.decoded([other.latencies]).percentile_ms(percent)
        for one, other in zip(ours, theirs, strict=True)
    )


def summary(turns: dict[str, list[Load]]) -> Report:
    """The turns as a report."""
    rows: list[tuple[str, ...]] = [("", "p50 ms", "p99 ms", "added p50", "added p99")]
    figures = {}
    for name, loads in turns.items():
        latencies = Latencies.decoded(load.latencies for load in loads)
        figure = {
            "p50_ms": latencies.percentile_ms(50),
            "p99_ms": latencies.percentile_ms(99),
            "added_p50_ms": added_ms(loads, turns["direct"], 50),
            "added_p99_ms": added_ms(loads, turns["direct"], 99),
        }
        figures[name] = figure
        rows.append((name, *(f"{value:.2f}" for value in figure.values())))
    keyway, echo = figures["keyway"], figures["echo"]
    findings = [
        Finding(P50, keyway["added_p50_ms"]),
        Finding(P99, keyway["added_p99_ms"]),
        Finding(RATIO, keyway["added_p50_ms"] / echo["p50_ms"]),
    ]
    return Report(
        f"Latency of lone requests, {RATE} a second, instant provider", columns(rows), findings, figures
    )


async def report(bench: Bench) -> Report:
    """Keyway, the provider itself, and a bare round trip; in the long form some peers too."""
    requests, rounds = (QUICK_REQUESTS, QUICK_ROUNDS) if bench.quick else (REQUESTS, ROUNDS)
    return summary(await run(bench, requests=requests, rounds=rounds))


if __name__ == "__main__":
    run_alone(report, "tests.bench.added_latency", __doc__ or "")
