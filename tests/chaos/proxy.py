"""A network between a client and a server that can stall, connections open, or deliver answers late."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from infra.local.ports import LOOPBACK

CHUNK = 65_536


class Proxy:
    """Forwards TCP connections to one port of this machine; make one with `proxy_to`."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._flows = asyncio.Event()
        self._flows.set()
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0
        #: How long the server's bytes take to the client, in seconds.
        self.answers_take_s = 0.0

    def stall(self) -> None:
        """Hold back all bytes, of connections that are there and of new ones, and their ends too."""
        self._flows.clear()

    def resume(self) -> None:
        """Let through what was held back, and all that comes."""
        self._flows.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._flows.wait()
            server_reader, server_writer = await asyncio.open_connection(LOOPBACK, self._target_port)
            try:
                await asyncio.gather(
                    self._pump(reader, server_writer), self._pump(server_reader, writer, late=True)
                )
            finally:
                server_writer.close()
        except (OSError, asyncio.CancelledError):
            pass  # one of the two is gone, or the test is over
        finally:
            writer.close()
            self._connections.discard(task)

    async def close(self) -> None:
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, late: bool = False
    ) -> None:
        while True:
            data = await reader.read(CHUNK)
            if late:
                await asyncio.sleep(self.answers_take_s)
            await self._flows.wait()
            if not data:
                with suppress(OSError):
                    writer.write_eof()
                return
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def proxy_to(target_port: int) -> AsyncIterator[Proxy]:
    """Listen on a free port, and forward to the target."""
    proxy = Proxy(target_port)
    server = await asyncio.start_server(proxy.serve, LOOPBACK, 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
