"""Many automations and keys for measuring what size costs: made without RabbitMQ users, which take long."""

import asyncio
import secrets
from datetime import UTC, datetime

from pydantic import SecretStr

from infra.broker import lane
from infra.provision import AUTOMATION_DEFAULTS
from infra.queue_declaration import declare_queue
from tests.bench.part import KEYS, LIMITS, Bench
from tests.harness import World

#: Keys that are added at a time.
AT_A_TIME = 50


async def seed(bench: Bench, world: World, base_url: str, automations: int) -> list[str]:
    """Automations with three keys each, and their lanes.

    Returns:
        The automations' names.
    """
    names = [f"bot-{number:04}" for number in range(automations)]
    now = datetime.now(UTC)
    await world.mongo.automations.insert_many(
        [{"_id": name, **AUTOMATION_DEFAULTS, "created_at": now} for name in names]
    )

    async def add(name: str, alias: str) -> None:
        secret = SecretStr(f"sk-bench-{secrets.token_hex(16)}")
        await world.keys.add(name, alias, secret, limits=LIMITS, base_url=base_url)

    for start in range(0, automations, AT_A_TIME):
        bench.step(f"{automations:,} automations: keys of {start:,}")
        some = names[start : start + AT_A_TIME]
        await asyncio.gather(*(add(name, alias) for name in some for alias in KEYS))
    for number, name in enumerate(names):
        if number % 100 == 0:
            bench.step(f"{automations:,} automations: lane {number:,}")
        await declare_queue(world.connection, lane(name, world.settings))
    return names
