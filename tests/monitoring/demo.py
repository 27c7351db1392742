"""A load in which everything happens that the rules and the dashboard are about."""

import asyncio
from dataclasses import dataclass
from typing import Any

from aio_pika import Message

from contracts import GenerationError, Keyway, names
from tests.console import Console
from tests.harness import ACTOR, World
from workers.budgets.registry import BudgetRegistry, Subject
from workers.keys.key import Limits

REQUESTS = 10
#: A model that the price list does not know.
UNPRICED = "in-house-model"


@dataclass(frozen=True)
class Demo:
    """Two automations: one with all kinds of keys, one that is out of keys and money."""

    world: World
    console: Console
    busy: str
    poor: str

    @classmethod
    async def set_up(cls, world: World, console: Console) -> "Demo":
        busy, poor = await world.add_automation(), await world.add_automation()
        await world.provisioner.change(busy, {"allow_leases": True}, actor=ACTOR)
        limits = Limits(requests_per_minute=1000, tokens_per_day=10_000_000, max_in_flight=50)
        await world.add_key(busy, "Good", {"error_rate": 0.1, "latency_ms": 10}, limits=limits)
        await world.add_key(busy, "Refused", {"invalid": True})
        await world.add_key(busy, "Spent", {"quota_exhausted": True})
        await world.add_key(poor, "Only")
        # A call of this model costs more than it leaves room for, once it is used.
        budgets = BudgetRegistry(world.mongo, ACTOR)
        await budgets.set(Subject(busy), "month", 10**12)
        return cls(world, console, busy, poor)

    async def wave(self) -> None:
        """Requests that succeed, wait and fail, a lease, a page of the console."""
        async with self.world.client(self.busy) as keyway:
            asks = [self._ask(keyway, "gpt-4o-mini") for _ in range(REQUESTS)]
            await asyncio.gather(*asks, self._ask(keyway, UNPRICED))
            async with await keyway.lease("gpt-4o-mini", estimated_tokens=100):
                pass
        await self.console.admin.get("/api/overview")

    async def go_wrong(self) -> None:
        """The poor automation spends its budget and loses its key; somebody sends what is no request."""
        async with self.world.client(self.poor) as keyway:
            await self._ask(keyway, "gpt-4o-mini")
        (row,) = await self.world.accounted(self.poor, 1)
        budgets = BudgetRegistry(self.world.mongo, ACTOR)
        await budgets.set(Subject(self.poor), "day", int(row["cost_nanousd"]))
        await self.world.keys.set_status(self.poor, "Only", "disabled", "test")
        async with self.world.connection.channel() as channel:
            requests = await channel.get_exchange(names.REQUESTS_EXCHANGE, ensure=False)
            await requests.publish(Message(b"no json"), self.poor)

    async def _ask(self, keyway: Keyway, model: str) -> None:
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
        try:
            await keyway.generate("/chat/completions", body, timeout=120)
        except GenerationError as error:
            raise AssertionError(f"{model}: {error}") from error
