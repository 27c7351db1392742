"""What a service says of the queues that it should consume."""

from typing import Any

import aiohttp

from tests.harness import Service, eventually
from tests.scraped import metrics_url


async def readyz(service: Service) -> tuple[int, dict[str, Any]]:
    url = metrics_url(service).replace("/metrics", "/readyz")
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.json()


async def ready(service: Service) -> None:
    async def is_ready() -> bool:
        return (await readyz(service))[0] == 200

    await eventually(is_ready, "a service that is ready")


def troubles(service: Service, queue: str) -> list[dict[str, Any]]:
    """What a service logged of a queue that it could not consume."""
    events = service.events()
    return [e for e in events if e["event"] == "queues_not_consumed" and queue in e["queues"]]
