"""What a console that is looked at costs the workers: CPU of a request with pages open, and with none.

    python -m tests.bench.console_cost [--requests 1500] [--in-flight 32] [--browsers 4]

Each browser has the live pages open, by websockets of its own, and takes what the console sends every two
seconds. Rounds with and without alternate, and the cheapest of each counts. It uses the services that
`worker_cpu` uses.
"""

import argparse
import asyncio
import re
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlencode

import aiohttp

from tests.bench.part import open_bench
from tests.bench.peers import Target, keyway, send
from tests.bench.processes import cpu_ms_a_request, cpu_s
from tests.bench.worker_cpu import accounted
from tests.console import PASSWORD, VIEWER, Console, open_console
from tests.harness import World, eventually

ROUNDS = 3
LIVE_PAGES = ("", "keys", "automations", "queues", "requests")
SOCKET = "/console/_nicegui_ws/socket.io/"
#: Engine.IO's packets, and Socket.IO's that connects.
PING, PONG, CONNECT = "2", "3", "40"


class OpenPage:
    """A page as a browser has it open: it answers the console's pings, and counts what else comes."""

    def __init__(self, session: aiohttp.ClientSession, url: str, path: str) -> None:
        self._session, self._url, self._path = session, url, path
        self.updates = 0

    async def stay(self) -> None:
        """Open it, and stay until cancelled; as a browser does, it opens it anew where it was late."""
        while True:
            await self._visit()

    async def _visit(self) -> None:
        async with self._session.get(f"{self._url}/console/{self._path}") as response:
            found = re.search(r"client_id['\"]: ?['\"]([0-9a-f-]{36})", await response.text())
        assert found is not None, f"no page /console/{self._path}"
        query = {
            "client_id": found[1],
            "document_id": secrets.token_hex(8),
            "tab_id": secrets.token_hex(8),
            "next_message_id": "0",
            "implicit_handshake": "true",
            "EIO": "4",
            "transport": "websocket",
        }
        address = f"{self._url}{SOCKET}?{urlencode(query)}"
        async with self._session.ws_connect(address, headers={"Origin": self._url}) as socket:
            await socket.send_str(CONNECT)
            async for packet in socket:
                if packet.data == PING:
                    await socket.send_str(PONG)
                else:
                    self.updates += 1


@asynccontextmanager
async def browsers(console: Console, count: int) -> AsyncIterator[list[OpenPage]]:
    """So many browsers, each with the live pages open."""
    async with AsyncExitStack() as stack:
        group = await stack.enter_async_context(asyncio.TaskGroup())
        pages, tasks = [], []
        for _ in range(count):
            jar = aiohttp.CookieJar(unsafe=True)
            session = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=jar))
            credentials = {"username": VIEWER, "password": PASSWORD}
            async with session.post(f"{console.url}/api/session", json=credentials) as response:
                assert response.status == 200, await response.text()
            for path in LIVE_PAGES:
                pages.append(OpenPage(session, console.url, path))
                tasks.append(group.create_task(pages[-1].stay()))

        async def all_live() -> bool:
            return all(page.updates for page in pages)

        await eventually(all_live, "all pages are open", within_s=60)
        yield pages
        for task in tasks:
            task.cancel()


async def measure(world: World, target: Target, requests: int, in_flight: int) -> float:
    """CPU of the worker for each request of a round, in milliseconds."""
    rows = await world.mongo.usage.estimated_document_count()
    before_s = cpu_s([target.pid])
    await send(world, target.load, f"--requests={requests}", f"--in-flight={in_flight}")
    cpu_ms = cpu_ms_a_request(before_s, cpu_s([target.pid]), requests)
    await accounted(world, rows + requests)
    return cpu_ms


async def run(options: argparse.Namespace) -> None:
    async with open_bench(quick=False) as bench, AsyncExitStack() as stack:
        world = await stack.enter_async_context(bench.world())
        target = await stack.enter_async_context(keyway(bench, world, world.simulator.base_url))
        console = await stack.enter_async_context(open_console(world))
        process = world.services[-1].process
        await measure(world, target, options.requests // 2, options.in_flight)
        alone, watched, updates, console_s = [], [], 0, 0.0
        for _ in range(ROUNDS):
            alone.append(await measure(world, target, options.requests, options.in_flight))
            async with browsers(console, options.browsers) as pages:
                before_s, seen = cpu_s([process.pid]), sum(page.updates for page in pages)
                watched.append(await measure(world, target, options.requests, options.in_flight))
                console_s += cpu_s([process.pid]) - before_s
                updates += sum(page.updates for page in pages) - seen
        sys.stdout.write(
            f"the worker's CPU of a request, the cheapest of {ROUNDS} rounds of {options.requests}:\n"
            f"{min(alone):.2f} ms with no page open, {min(watched):.2f} ms with "
            f"{options.browsers * len(LIVE_PAGES)} pages open: {min(watched) / min(alone):.2f} times\n"
            f"the pages took {updates} updates, for which the console took {console_s:.1f} s of CPU\n"
        )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.console_cost", description="What a console costs the workers."
    )
    parser.add_argument("--requests", type=int, default=1500, help="of each round")
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--browsers", type=int, default=4)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
