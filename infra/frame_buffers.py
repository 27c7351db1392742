"""Frames that a channel does not read: its connection goes on reading those of other channels."""

from functools import partialmethod

from aiormq import Connection

_open_channel = Connection.channel


def unbound_frame_buffers() -> None:
    """Have each new channel keep whatever frames come for it, in this process; harmless to repeat.

    aiormq keeps ten, and then reads nothing more on the whole connection. So a channel whose reader has
    ended, as when its close was not answered in time, would stop all others. What comes unread is bounded by
    the prefetch count and by what was published.
    """
    Connection.channel = partialmethod(_open_channel, frame_buffer_size=0)  # type: ignore[assignment, method-assign]
