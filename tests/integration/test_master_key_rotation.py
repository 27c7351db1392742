"""A new master key takes over while requests are served, and none fails."""

import asyncio

from pydantic import SecretStr

from infra.vault import Vault
from tests.harness import ACTOR, World, eventually
from workers.keys.registry import KeyRegistry

NEW = "new:bmV3LW1hc3Rlci1rZXktZm9yLXRlc3RzLTMyLWJ5dGU="
AUTOMATIONS, KEYS_EACH = 3, 8
#: How many keys a first run does before it is stopped.
DONE_FIRST = 5


class Load:
    """Requests of several automations, one after the other each, until it is told to stop."""

    def __init__(self, world: World, bots: list[str]) -> None:
        self._world, self._bots = world, bots
        self.statuses: list[str] = []
        self._over = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as asking:
            for bot in self._bots:
                asking.create_task(self._ask(bot))

    async def _ask(self, bot: str) -> None:
        async with self._world.client(bot) as keyway:
            while not self._over.is_set():
                result = await keyway.generate("/moderations", input="hello", timeout=120)
                self.statuses.append(result.status)

    async def more(self, count: int) -> None:
        """Wait for so many further answers."""
        wanted = len(self.statuses) + count

        async def there() -> bool:
            return len(self.statuses) >= wanted

        await eventually(there, f"{count} further answers")

    def stop(self) -> None:
        self._over.set()


async def test_no_request_fails_while_the_master_key_is_rotated(world: World) -> None:
    old = world.environment["KEYWAY_MASTER_KEYS"]
    bots = [await world.add_automation() for _ in range(AUTOMATIONS)]
    for bot in bots:
        for number in range(KEYS_EACH):
            await world.add_key(bot, f"key-{number}")
    load = Load(world, bots)
    # 1. Every process knows the new key before anything is encrypted under it.
    first = await world.start_worker(KEYWAY_MASTER_KEYS=f"{old},{NEW}")
    async with asyncio.TaskGroup() as running:
        running.create_task(load.run())
        await load.more(20)
        # 2. The new key comes first; processes of both orders run side by side meanwhile.
        second = await world.start_worker(KEYWAY_MASTER_KEYS=f"{NEW},{old}")
        # 3. Every API key is brought under it, by a run that is stopped and one that goes on.
        vault = Vault({name: SecretStr(key) for name, _, key in (k.partition(":") for k in (NEW, old))})
        total = AUTOMATIONS * KEYS_EACH
        async for done, _ in KeyRegistry(world.mongo, vault, ACTOR).re_encrypt():
            if done == DONE_FIRST:
                break
        status, _, stderr = await world.cli("keys", "re-encrypt", KEYWAY_MASTER_KEYS=f"{NEW},{old}")
        assert status == 0, stderr
        assert f"Re-encrypted {total - DONE_FIRST} keys." in stderr
        assert await world.mongo.keys.count_documents({"secret.master_key": {"$ne": "new"}}) == 0
        await load.more(20)
        # 4. The old one is gone.
        await world.start_worker(KEYWAY_MASTER_KEYS=NEW)
        assert await first.stop() == 0
        assert await second.stop() == 0
        await load.more(20)
        load.stop()
    assert set(load.statuses) == {"succeeded"}
    calls = [call for bot in bots for call in await world.journal(bot)]
    assert {call["http_status"] for call in calls} == {200}
