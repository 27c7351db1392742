"""How large a message RabbitMQ takes (`max_message_size`): as it is set, and as refusals say.

RabbitMQ closes the channel over a message that is too large, after it has read all of it.
"""

from __future__ import annotations

import re

#: What RabbitMQ 4 takes by default, in bytes; 3.10 takes 128 MiB.
DEFAULT_LIMIT_BYTES = 16 * 1024 * 1024
#: A body up to this size shares a channel with others, in bytes; a larger one has a channel to itself, since
#: its refusal would close theirs.
SHARED_BYTES = 64 * 1024

_REFUSAL = re.compile(r"message size \d+ is larger than configured max size (\d+)")


class MessageTooLargeError(Exception):
    """RabbitMQ does not take a message of this size; nothing was sent, or nothing of it was kept.

    Attributes:
        size: of the message's body, in bytes.
        limit: the largest that is taken, in bytes.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"it has {size} bytes, and RabbitMQ takes messages of up to {limit} bytes")
        self.size = size
        self.limit = limit


class SizeLimit:
    """The largest body that RabbitMQ takes, as far as it is known.

    Args:
        limit: in bytes; None where only a refusal will tell.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit

    def check(self, size: int) -> None:
        """Refuse a body that RabbitMQ would refuse.

        Raises:
            MessageTooLargeError: it is larger than the limit.
        """
        if self._limit is not None and size > self._limit:
            raise MessageTooLargeError(size, self._limit)

    def learn(self, refusal: BaseException | None) -> None:
        """Take the limit from why a channel was closed, where that says it."""
        if refusal is not None and (found := _REFUSAL.search(str(refusal))) is not None:
            limit = int(found[1])
            self._limit = limit if self._limit is None else min(limit, self._limit)
