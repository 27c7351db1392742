"""Somebody who is told of alerts: a real HTTP server, which may be out of order."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

SECRET = "s3cr3t-token"


@dataclass
class Receiver:
    """What was sent, and how it answers."""

    port: int = 0
    status: int = 200
    #: Messages that it took, and how many it refused.
    took: list[dict[str, Any]] = field(default_factory=list)
    refused: int = 0

    @property
    def url(self) -> str:
        """Its address for `apprise`, with a user, a password and a path that are secret."""
        return f"json://{SECRET}:{SECRET}@127.0.0.1:{self.port}/{SECRET}"

    @property
    def name(self) -> str:
        """What may be said of that address."""
        return f"json://127.0.0.1:{self.port}"

    @property
    def lines(self) -> list[str]:
        """The lines of all messages that it took, without their times."""
        return [line.split(" UTC ")[-1] for message in self.took for line in message["message"].splitlines()]

    async def answer(self, request: web.Request) -> web.Response:
        if self.status < 300:
            self.took.append(await request.json())
        else:
            self.refused += 1
        return web.Response(status=self.status)


@asynccontextmanager
async def open_receiver(status: int = 200) -> AsyncIterator[Receiver]:
    """Start one on any free port."""
    receiver = Receiver(status=status)
    app = web.Application()
    app.router.add_post(f"/{SECRET}", receiver.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        receiver.port = runner.addresses[0][1]
        yield receiver
    finally:
        await runner.cleanup()
