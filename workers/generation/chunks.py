"""Passing a streamed answer on, chunk by chunk, for as long as there is somebody who takes it."""

import asyncio
import zlib
from typing import Any

import orjson
from pydantic_core import to_json

from contracts.message_size import MessageTooLargeError
from workers.generation.reading import Envelope
from workers.generation.replies import Replies

#: How often to look whether who asked for a stream is still there, in seconds.
LOOK_S = 2.0
#: Chunks that are kept for a repeat, in bytes, uncompressed; of a longer stream none are.
MOST_KEPT_BYTES = 64 * 1024 * 1024


class Chunks:
    """The chunks of one request, sent one at a time, so that a slow broker slows the provider down.

    Attributes:
        too_large: why no more of them are sent: one is larger than RabbitMQ takes. The call goes on, so that
            the books know what it used.
    """

    def __init__(self, replies: Replies, envelope: Envelope, *, restarted: bool) -> None:
        """Take where they go, and whether some of them may have been sent before."""
        self._replies = replies
        self._envelope = envelope
        self._restarted = restarted
        self.too_large: MessageTooLargeError | None = None
        self._sent: list[bytes] = []
        self._sent_bytes = 0
        self._index = 0

    def begin(self) -> None:
        """Start from the first chunk, again if some were sent."""
        self._restarted = self._restarted or self._index > 0
        self._sent, self._sent_bytes, self._index = [], 0, 0
        self.too_large = None

    async def send(self, data: dict[str, Any]) -> None:
        """Send the next one.

        Raises:
            NobodyWaitsError: who asked for them is gone.
        """
        raw = to_json(data)
        self._sent_bytes += len(raw)
        if self._sent_bytes <= MOST_KEPT_BYTES:
            self._sent.append(raw)
        await self._publish(raw)

    async def repeat(self, packed: bytes) -> None:
        """Send those of a stream that is over once more.

        Raises:
            NobodyWaitsError: who asked for them is gone.
        """
        self._restarted = True
        for raw in unpacked(packed):
            await self._publish(raw)

    async def until_gone(self) -> None:
        """Return when who asked for the chunks is gone; never where nobody did."""
        while True:
            await asyncio.sleep(LOOK_S)
            if not await self._replies.is_waited_for(self._envelope):
                return

    def packed(self) -> bytes | None:
        """What is kept of them for a repeat; None where they are too many."""
        return pack(self._sent) if self._sent_bytes <= MOST_KEPT_BYTES else None

    async def _publish(self, raw: bytes) -> None:
        if self.too_large is not None:
            return
        chunk: dict[str, Any] = {
            "request_id": self._envelope.request_id,
            "index": self._index,
            "data": orjson.Fragment(raw),
        }
        if self._restarted and self._index == 0:
            chunk["restarted"] = True
        self._index += 1
        try:
            await self._replies.chunk(self._envelope, orjson.dumps(chunk))
        except MessageTooLargeError as error:
            self.too_large = error


def pack(chunks: list[bytes]) -> bytes:
    """JSON texts without line breaks, compressed."""
    return zlib.compress(b"\n".join(chunks), level=1) if chunks else b""


def unpacked(packed: bytes) -> list[bytes]:
    """What `pack` was given."""
    return zlib.decompress(packed).split(b"\n") if packed else []
