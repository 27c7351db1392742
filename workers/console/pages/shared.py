"""What many open pages show: read once for all who ask within a second or so."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from infra.alerts import list_alerts
from infra.mongo import Document
from workers.console.automations import AutomationView
from workers.console.lanes import Lane
from workers.console.request_log import Page, RequestFilter
from workers.console.services import Services

T = TypeVar("T")

#: What was read is good for so long, in seconds.
FRESH_S = 1.5
#: Requests of the live tail.
TAIL = 30
#: Open alerts that are shown, the newest.
MOST_ALERTS = 20


class Shared(Generic[T]):
    """One read for all who ask while it is fresh; nothing is read while nobody asks."""

    def __init__(self, read: Callable[[], Awaitable[T]], fresh_s: float = FRESH_S) -> None:
        """Take what reads, and how long its answer is good for, in seconds."""
        self._read = read
        self._fresh_s = fresh_s
        self._reading = asyncio.Lock()
        self._read_at = float("-inf")
        self._last: T | None = None

    async def __call__(self) -> T:
        """What was read last, if it is fresh, else what is read now; it raises what reading raises."""
        async with self._reading:
            if self._last is None or time.monotonic() - self._read_at > self._fresh_s:
                self._last = await self._read()
                self._read_at = time.monotonic()
            return self._last

    def forget(self) -> None:
        """Read anew the next time, as after a change."""
        self._read_at = float("-inf")


@dataclass(frozen=True, slots=True)
class Served:
    """An automation and its lane."""

    automation: AutomationView
    lane: Lane


class SharedReads:
    """What the pages of one process share."""

    def __init__(self, services: Services) -> None:
        """Take what to read from."""
        self._services = services
        self.automations = Shared(self._served)
        self.tail = Shared(self._tail)
        self.alerts = Shared(self._open_alerts)

    async def _served(self) -> list[Served]:
        views, lanes = await asyncio.gather(self._services.automations.read(), self._services.lanes.list())
        by_id = {lane.automation_id: lane for lane in lanes}
        return [Served(view, by_id[view.automation_id]) for view in views if view.automation_id in by_id]

    async def _tail(self) -> Page:
        return await self._services.requests.search(RequestFilter(), most=TAIL)

    async def _open_alerts(self) -> list[Document]:
        return await list_alerts(self._services.mongo, everything=False, limit=MOST_ALERTS)
