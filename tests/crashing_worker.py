"""A worker that ends without a warning at one step of a request, as by `kill -9`.

python -m tests.crashing_worker STEP [MUTATION]

A step is a moment at which the task of a request is suspended, or goes on after that. So each awaited step
has one at which what it waits for is not done, and one at which it is. It is named by what is awaited, from
the outside to the inside, and by how many steps had that name before. With the step `none`, the worker lives,
and tells the steps in a log line. A mutation is a defect of the request's life: the tests show that what
judges them finds it.
"""

import json
import os
import runpy
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from contracts.errors import ErrorCode
from infra.deliveries import Delivery
from workers.generation.answers import Answer, Failure
from workers.generation.automation import Automation
from workers.generation.journal import Record
from workers.generation.reading import Envelope
from workers.generation.request import RequestHandler
from workers.generation.result import FIRST, Error
from workers.generation.upstream import Upstream
from workers.generation.work import Result, Work

#: The exit status of a worker that crashed as it was told to.
CRASHED = 99
TOLD = "request_steps"
#: The step at which no worker ends.
NO_STEP = "none"
#: Why a request ends as `internal` that is told to.
FAILED_INSIDE = "told to by a test"

T = TypeVar("T")


class Steps(Awaitable[T], Generic[T]):
    """Drives a coroutine from step to step.

    Args:
        coroutine: of one request.
        reached: told each step as it comes.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T], reached: Callable[[str], None]) -> None:
        self._coroutine = coroutine
        self._reached = reached

    def __await__(self) -> Generator[Any, Any, T]:
        """Run the coroutine to its end."""
        resume: Callable[[], Any] = partial(self._coroutine.send, None)
        while True:
            try:
                waited_for = resume()
            except StopIteration as end:
                returned: T = end.value
                return returned
            name = where(self._coroutine)
            self._reached(f"{name}: waits")
            try:
                yield waited_for
            except BaseException as error:  # noqa: BLE001  # the coroutine gets it
                resume = partial(self._coroutine.throw, error)
            else:
                resume = partial(self._coroutine.send, None)
            self._reached(f"{name}: done")


def where(coroutine: Any) -> str:
    """What a suspended coroutine waits in, from the outside to the inside."""
    names = []
    while (code := getattr(coroutine, "cr_code", None)) is not None:
        names.append(code.co_qualname)
        coroutine = coroutine.cr_await
    return " > ".join(names)


def crash_at(step: str) -> None:
    """Have this process end at a step of its requests."""
    steps: list[str] = []
    counts: Counter[str] = Counter()

    def reached(name: str) -> None:
        counts[name] += 1
        steps.append(f"{name} {counts[name]}")
        if steps[-1] == step:
            os._exit(CRASHED)

    handle, stream = RequestHandler.handle, Upstream.stream

    async def handle_in_steps(
        self: RequestHandler, message: Delivery, automation: Automation, *, ended: Error | None = None
    ) -> None:
        await Steps(handle(self, message, automation, ended=ended), reached)
        sys.stdout.write(json.dumps({"event": TOLD, "steps": steps}) + "\n")
        sys.stdout.flush()

    # A task of its own passes a stream on, while the request's task waits.
    async def stream_in_steps(self: Upstream, *call: Any, **how: Any) -> Answer | Failure:
        return await Steps(stream(self, *call, **how), reached)

    RequestHandler.handle = handle_in_steps  # type: ignore[method-assign]
    Upstream.stream = stream_in_steps  # type: ignore[method-assign]


def acknowledge_before_the_record() -> None:
    """Have a delivery acknowledged before its result is kept."""
    original = RequestHandler._record

    async def record(self: RequestHandler, work: Work, record: Record) -> bool:
        await work.message.ack()
        return await original(self, work, record)

    async def acknowledge(self: RequestHandler, message: Delivery, envelope: Envelope) -> None:
        """Do nothing: it is acknowledged already."""

    RequestHandler._record = record  # type: ignore[method-assign]
    RequestHandler._acknowledge = acknowledge  # type: ignore[method-assign]


def reply_before_the_record() -> None:
    """Have a result sent before it is kept."""
    original = RequestHandler._record

    async def record(self: RequestHandler, work: Work, record: Record) -> bool:
        await self._replies.result(work.request.envelope, record.result, FIRST)
        return await original(self, work, record)

    async def send(self: RequestHandler, work: Work, result: Result) -> None:
        """Do nothing: it is sent already."""

    RequestHandler._record = record  # type: ignore[method-assign]
    RequestHandler._send = send  # type: ignore[method-assign]


def fail_inside() -> None:
    """Have each request end as `internal`."""

    def fail(self: RequestHandler, work: Work) -> Error:
        return Error(ErrorCode.INTERNAL, FAILED_INSIDE)

    RequestHandler._poison = fail  # type: ignore[method-assign]


MUTATIONS = MappingProxyType(
    {
        "acknowledge_before_the_record": acknowledge_before_the_record,
        "reply_before_the_record": reply_before_the_record,
        "fail_inside": fail_inside,
    }
)


def main() -> None:
    step, *mutations = sys.argv[1:]
    for mutation in mutations:
        MUTATIONS[mutation]()
    crash_at(step)
    sys.argv = ["workers.cli.main", "worker"]
    runpy.run_module("workers.cli.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
