"""A worker that takes the time of each step of a request, and writes it down when it stops.

BENCH_STEPS=FILE python -m tests.bench.timed_worker worker
"""

import atexit
import os
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import Any

import orjson

from workers.cli.main import main
from workers.generation.journal import Journal
from workers.generation.publishing import Publisher
from workers.generation.replies import Replies
from workers.generation.request import RequestHandler
from workers.generation.upstream import Upstream
from workers.keys.pool import KeyPool

#: In the order of a request's life.
STEPS: dict[str, tuple[type, str]] = {
    "reserve a key": (KeyPool, "reserve"),
    "claim": (Journal, "claim"),
    "call the provider": (Upstream, "call"),
    "record the result": (Journal, "record"),
    "reply, confirmed": (Replies, "result"),
    "usage event, beside the reply": (Publisher, "usage"),
    "all of it": (RequestHandler, "handle"),
}
taken_ms: dict[str, list[float]] = defaultdict(list)


def timed(name: str, step: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """The step, with its time taken."""

    @wraps(step)
    async def measured(*arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return await step(*arguments, **named)
        finally:
            taken_ms[name].append((time.perf_counter() - began) * 1000)

    return measured


def write_down() -> None:
    """Leave the times for who started this."""
    Path(os.environ["BENCH_STEPS"]).write_bytes(orjson.dumps(taken_ms))


if __name__ == "__main__":
    for name, (owner, method) in STEPS.items():
        setattr(owner, method, timed(name, getattr(owner, method)))
    atexit.register(write_down)
    main()
