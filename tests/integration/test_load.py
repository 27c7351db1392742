"""Many requests over several automations, keys and workers: all answered, spread, and booked to the token."""

import asyncio
from collections import Counter

from tests.harness import World
from workers.keys.key import Limits

AUTOMATIONS = 5
REQUESTS_EACH = 200
#: Room for all three times over, and little enough that some requests more or less on a key tell.
LIMITS = Limits(requests_per_minute=REQUESTS_EACH)


async def test_a_thousand_requests_are_all_answered_spread_over_the_keys_and_booked(shared: World) -> None:
    bots = [await shared.add_automation() for _ in range(AUTOMATIONS)]
    for bot in bots:
        for alias in ("Primary", "Secondary", "Backup"):
            await shared.add_key(bot, alias, {"completion_tokens": {"min": 5, "max": 400}}, limits=LIMITS)

    async def ask_all(bot: str) -> Counter[str | None]:
        async with shared.client(bot) as keyway:
            results = await asyncio.gather(
                *(
                    keyway.generate(
                        "/chat/completions",
                        model="gpt-4o-mini",
                        messages=[{"role": "user", "content": f"request {number}"}],
                        timeout=120,
                    )
                    for number in range(REQUESTS_EACH)
                )
            )
        assert {result.status for result in results} == {"succeeded"}
        assert len({result.request_id for result in results}) == REQUESTS_EACH
        return Counter(result.key_alias for result in results)

    served = await asyncio.gather(*(ask_all(bot) for bot in bots))
    for bot, by_key in zip(bots, served, strict=True):
        assert sum(by_key.values()) == REQUESTS_EACH
        assert max(by_key.values()) <= 0.45 * REQUESTS_EACH, by_key
        assert len(await shared.journal(bot)) == REQUESTS_EACH
        await shared.assert_books_equal_journal(bot)
