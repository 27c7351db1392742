"""Workers under names of their own, so that a killed one can be told dead and replaced."""

import random
import secrets
import signal
from datetime import UTC, datetime

from tests.harness import Service, World

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


class Fleet:
    """The workers of a world, always as many.

    Args:
        world: where they work.
        wait_for_silence: whether a killed worker is taken for dead only after the time that Keyway waits for
            a sign of life; else it is said to be dead at once, which spares a test that time.
        environment: of each worker.
    """

    def __init__(self, world: World, *, wait_for_silence: bool, **environment: str) -> None:
        self._world = world
        self._wait_for_silence = wait_for_silence
        self._environment = environment
        self._workers: dict[str, Service] = {}
        self.killed = 0

    async def start(self, count: int = 1) -> None:
        """Start so many more."""
        for _ in range(count):
            worker_id = f"worker-{secrets.token_hex(4)}"
            self._workers[worker_id] = await self._world.start_worker(
                clock_offset_s=0, KEYWAY_WORKER_ID=worker_id, **self._environment
            )

    async def replace_one(self) -> None:
        """Kill any of them in the middle of what it does, and start another."""
        worker_id = random.choice(list(self._workers))
        await self._workers.pop(worker_id).stop(signal.SIGKILL)
        self.killed += 1
        if not self._wait_for_silence:
            await self._world.mongo.workers.update_one(
                {"_id": worker_id}, {"$set": {"alive_until": LONG_AGO}}
            )
        await self.start()

    async def assert_all_stop(self) -> None:
        """Each ends in order when it is told to; one that is busy with something takes its grace time."""
        workers = list(self._workers.values())
        assert {await worker.stop() for worker in workers} == {0}

    def assert_none_restarted(self) -> None:
        """Every worker that was not killed is the process that was started."""
        ended = {name: worker.process.returncode for name, worker in self._workers.items()}
        assert set(ended.values()) == {None}, ended
