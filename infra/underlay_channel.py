"""aiormq's channel below a robust one of aio-pika."""

from typing import cast

from aio_pika.abc import AbstractRobustChannel
from aiormq import Channel


async def underlay(channel: AbstractRobustChannel) -> Channel:
    """The channel of the connection that there is now; after a reconnect it is another one.

    Raises:
        ChannelInvalidStateError: the channel is closed.
    """
    return cast("Channel", await channel.get_underlay_channel())
