"""A client may be closed, and its calls cancelled, at any moment."""

import asyncio

from tests.harness import PATIENCE_S, World, eventually


async def test_a_client_closes_whatever_its_heartbeat_is_about(unserved: World) -> None:
    bot = await unserved.add_automation()
    for moment in range(150):
        async with asyncio.timeout(PATIENCE_S):
            async with unserved.client(bot):
                for _ in range(moment):
                    await asyncio.sleep(0)


async def test_calls_may_be_cancelled_at_any_moment(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with unserved.client(bot) as keyway:

        async def ask() -> None:
            await keyway.generate("/moderations", input="hello")

        async def stream() -> None:
            async with keyway.stream("/responses", input="hello") as chunks:
                await anext(chunks)

        async def submit() -> None:
            for number in range(100):
                await keyway.submit("/moderations", name=f"q-{number % 3}", input="hello")

        async def collect() -> None:
            async for _ in keyway.results("q-0"):
                pass

        for moment in range(60):
            calls = [asyncio.ensure_future(call) for call in (ask(), ask(), stream(), submit(), collect())]
            await asyncio.sleep(moment / 5000)
            for call in calls:
                call.cancel()
            async with asyncio.timeout(PATIENCE_S):
                outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} <= {asyncio.CancelledError}
        assert len(keyway._under_way) == 0

        async def channels_are_closed() -> bool:
            connection = keyway._connection._connection
            kept = 1 + len(keyway._own_channels._idle)
            return connection is not None and len(connection.channels) <= kept

        await eventually(channels_are_closed, "all channels closed but those that are kept")
