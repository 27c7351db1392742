"""A client may be closed at any moment."""

import asyncio

from tests.harness import World


async def test_a_client_closes_whatever_its_heartbeat_is_about(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with asyncio.timeout(60):
        for moment in range(150):
            async with unserved.client(bot):
                for _ in range(moment):
                    await asyncio.sleep(0)
