"""An ordinary automation notices nothing of one beside it that does whatever its service token allows."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from tests.chaos.noisy_neighbour.act import Act
from tests.chaos.noisy_neighbour.catalogue import ACTS
from tests.chaos.noisy_neighbour.lying_provider import LyingProvider, lying_provider
from tests.chaos.noisy_neighbour.neighbour import new_neighbour
from tests.chaos.noisy_neighbour.ordinary import KEY, LONG, QUICK, Ordinary
from tests.chaos.noisy_neighbour.services_watch import ServicesWatch
from tests.harness import World, new_world

pytestmark = pytest.mark.together

LEAST_ACTS = 60
WORKERS = 2


@dataclass(frozen=True)
class Neighbourhood:
    """One running Keyway, the ordinary automation in it, and who looks at the services."""

    world: World
    ordinary: Ordinary
    provider: LyingProvider
    watch: ServicesWatch


@pytest.fixture(scope="module")
async def neighbourhood(
    backing: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Neighbourhood]:
    """Workers, accounting and leasing for all acts that this process is given."""
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(new_world(backing, tmp_path_factory.mktemp("noisy")))
        world.environment["KEYWAY_METRICS_PORT"] = "0"
        bot = await world.add_automation()
        await world.add_key(bot, KEY, {"latency_ms": 20})
        await world.start_accounting()
        await world.start_leasing()
        for _ in range(WORKERS):
            await world.start_worker()
        ordinary = await stack.enter_async_context(Ordinary(world, bot))
        # So that every worker has answered it once: what is new to a worker takes longer.
        for _ in range(WORKERS * LONG.at_least):
            ordinary.ask()
        await ordinary.have_answers()
        await ordinary.assert_books(since=0)
        provider = await stack.enter_async_context(lying_provider())
        watch = ServicesWatch(world, bot)
        yield Neighbourhood(world, ordinary, provider, watch)
        await world.assert_books_equal_journal(bot)


def test_there_are_sixty_acts_each_of_its_own_name() -> None:
    assert len({act.name for act in ACTS}) == len(ACTS) >= LEAST_ACTS


@pytest.mark.parametrize("act", ACTS, ids=lambda act: f"{act.kind}: {act.name}")
async def test_an_ordinary_automation_notices_nothing_of(
    act: Act, neighbourhood: Neighbourhood, is_long: bool
) -> None:
    pace = LONG if is_long else QUICK
    world, ordinary, watch = neighbourhood.world, neighbourhood.ordinary, neighbourhood.watch
    async with new_neighbour(world, ordinary, neighbourhood.provider, act, is_quick=not is_long) as neighbour:
        since = len(ordinary.asked)
        await watch.begin(may_cost_apart=act.costs_apart)
        asking = asyncio.create_task(ordinary.keep_asking(pace))
        try:
            await act.do(neighbour)
            await ordinary.have_asked(since + pace.at_least)
            await neighbour.have_leftovers_done()
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await watch.assert_calm()
            await ordinary.have_answers(since)
    await watch.nothing_in_hand()
    await watch.assert_calm()
    ordinary.assert_answered_once(since)
    await ordinary.assert_books(since)
