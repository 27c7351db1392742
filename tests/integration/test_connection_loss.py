"""Connections that the broker closes come back by themselves, and nothing is lost with them."""

import asyncio
from typing import Any
from urllib.parse import quote

from contracts import GenerationResult, Keyway
from tests.harness import World, eventually


async def ask(keyway: Keyway, number: int) -> GenerationResult:
    messages: list[dict[str, Any]] = [{"role": "user", "content": f"request {number}"}]
    return await keyway.generate("/chat/completions", model="gpt-4o-mini", messages=messages, timeout=120)


async def close_connections(world: World) -> int:
    """Close every connection of the vhost, as an operator on the management page can."""
    listed = await world.admin.call("GET", "vhosts/{vhost}/connections")
    for connection in listed:
        name = quote(connection["name"], safe="")
        # One for trials may be gone meanwhile.
        await world.admin.call("DELETE", f"connections/{name}", may_be_missing=True)
    return len(listed)


async def test_requests_under_way_are_all_answered_though_every_connection_is_closed(world: World) -> None:
    bot = await world.add_automation()
    await world.add_key(bot, "Primary")
    await world.start_accounting()
    await world.start_worker()
    async with world.client(bot) as keyway:
        await ask(keyway, 0)

        async def all_are_listed() -> bool:
            return len(await world.admin.call("GET", "vhosts/{vhost}/connections")) >= 4

        await eventually(all_are_listed, "the connections in the management API")
        await world.script(bot, "Primary", held=True)
        asking = [asyncio.create_task(ask(keyway, number)) for number in range(1, 41)]

        async def under_way() -> bool:
            return await world.simulator.in_flight() > 0

        await eventually(under_way, "calls under way")
        assert await close_connections(world) >= 4
        await world.script(bot, "Primary")
        results = await asyncio.gather(*asking)
    assert {result.status for result in results} == {"succeeded"}
    assert len(await world.journal(bot)) == 41
    await world.assert_books_equal_journal(bot)
