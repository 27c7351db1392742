"""An automation's books beside the provider's journal: compared request by request, as both grow."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pymongo.read_concern import ReadConcern

from infra.mongo import Document
from tests.harness import World, eventually

TOKENS = ("prompt_tokens", "completion_tokens", "total_tokens")
SUMMED = (*TOKENS, "cost_nanousd", "latency_ms")
DIMENSIONS = ("key", "automation", "model")
LEDGER = ("ledger", "rows")


class GrowingBooks:
    """Journal, ledger and totals of an automation with one key; each look begins where the last one ended."""

    def __init__(self, world: World, bot: str, alias: str) -> None:
        self._world, self._bot, self._alias = world, bot, alias
        self._calls = 0
        #: The totals at the last look, by dimension and name; and how many rows the ledger had.
        self._totals: Counter[tuple[str, str]] = Counter()

    async def assert_grown_by(self, asked: Sequence[str]) -> None:
        """Since the last look, these requests were called and booked once each, and nothing else was."""
        journal = await self._world.simulator.journal(f"{self._bot}-{self._alias}")
        calls, self._calls = journal[self._calls :], len(journal)
        assert_one_each("calls at the provider", asked, (call["client_request_id"] for call in calls))
        rows = await self._booked(asked)
        assert_one_each("ledger rows", asked, (row["request_id"] for row in rows))
        row_of = {row["request_id"]: row for row in rows}
        for call in calls:
            assert_same(call, row_of[call["client_request_id"]])
        await self._assert_totals(rows)

    async def _booked(self, asked: Sequence[str]) -> list[Document]:
        """The ledger rows of these requests, once there is one for each."""
        usage = self._world.mongo.usage.with_options(read_concern=ReadConcern("majority"))
        rows: list[Document] = []

        async def there() -> bool:
            found = usage.find({"automation_id": self._bot, "request_id": {"$in": list(asked)}})
            rows[:] = [row async for row in found]
            return len(rows) >= len(asked)

        await eventually(there, f"ledger rows of {len(asked)} requests")
        return rows

    async def _assert_totals(self, rows: Sequence[Document]) -> None:
        """The totals, and the count of all rows, have grown by these rows alone."""
        before, self._totals = self._totals, await self._read_totals()
        grown_by = {"attempts": len(rows)} | {name: sum(row[name] for row in rows) for name in SUMMED}
        expected = {(dimension, name): count for dimension in DIMENSIONS for name, count in grown_by.items()}
        for what, count in (expected | {LEDGER: len(rows)}).items():
            grown = self._totals[what] - before[what]
            assert grown == count, f"{what} grew by {grown}, and should have by {count}"

    async def _read_totals(self) -> Counter[tuple[str, str]]:
        """All of them at one moment."""
        whose = {"automation_id": self._bot}
        read: Counter[tuple[str, str]] = Counter()
        async with self._world.mongo.snapshot() as session:
            read[LEDGER] = await self._world.mongo.usage.count_documents(whose, session=session)
            async for total in self._world.mongo.usage_daily.find(whose, session=session):
                for name in ("attempts", *SUMMED):
                    read[total["dimension"], name] += total[name]
        return read


def assert_one_each(what: str, asked: Sequence[str], found: Iterable[str]) -> None:
    """What was found is of each request once, and of no other."""
    odd = Counter(found)
    odd.subtract(asked)
    assert not any(odd.values()), (
        f"{what}, more or fewer than one: {[one for one in odd.items() if one[1]][:5]}"
    )


def assert_same(call: Mapping[str, Any], row: Mapping[str, Any]) -> None:
    """The provider and the ledger say the same of a call."""
    for name in ("http_status", *TOKENS):
        assert call[name] == row[name], (call["client_request_id"], name, call[name], row[name])
