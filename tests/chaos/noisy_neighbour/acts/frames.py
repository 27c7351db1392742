"""Frames that follow no specification, on a connection that is signed in."""

import struct

from pamqp import commands

from tests.chaos.noisy_neighbour.act import Kind
from tests.chaos.noisy_neighbour.amqp_bytes import HEARTBEAT
from tests.chaos.noisy_neighbour.neighbour import Neighbour
from tests.raw_amqp import BODY, FRAME_END, HEADER, METHOD, frame

FRAMES = Kind("frames")
#: What the broker may say to a frame that it can't read: frame error, syntax error, unexpected frame, not
#: implemented, channel error, internal error; or it hangs up.
UNREADABLE = {0, 501, 502, 503, 504, 505, 540, 541}


async def refused(neighbour: Neighbour, *wire: bytes, channel: bool = True) -> int:
    """Send these bytes; how the broker refuses them."""
    connection = await neighbour.open(channel=channel)
    connection.send(*wire)
    code = await connection.refusal()
    assert code in UNREADABLE, code
    return code


@FRAMES.act("a frame that does not end as frames do")
async def wrong_end(neighbour: Neighbour) -> None:
    await refused(neighbour, frame(METHOD, 1, b"\0\0\0\0")[:-1] + b"\0")


@FRAMES.act("a frame that announces two gigabytes")
async def announced_too_large(neighbour: Neighbour) -> None:
    await refused(neighbour, struct.pack(">BHI", METHOD, 1, 2**31) + b"\0" * 200_000)


@FRAMES.act("frames of every type that there is not")
async def unknown_types(neighbour: Neighbour) -> None:
    for kind in (0, 4, 5, 7, 9, 65, 255):
        await refused(neighbour, frame(kind, 1, b"payload"))


@FRAMES.act("methods that there are not")
async def unknown_methods(neighbour: Neighbour) -> None:
    for class_id, method_id in ((0, 0), (60, 999), (65535, 65535), (10, 77)):
        await refused(neighbour, frame(METHOD, 1, struct.pack(">HH", class_id, method_id)))


@FRAMES.act("a publish whose routing key is cut off in its middle")
async def truncated_method(neighbour: Neighbour) -> None:
    await refused(neighbour, frame(METHOD, 1, struct.pack(">HHH", 60, 40, 0) + b"\x08requests\xffabc"))


@FRAMES.act("a publish on channels that were never opened")
async def closed_channel(neighbour: Neighbour) -> None:
    for channel in (2, 999, 65535):
        await refused(neighbour, neighbour.request_wire(channel=channel))


@FRAMES.act("a body without a header, a header without a publish, a publish in a publish")
async def out_of_order(neighbour: Neighbour) -> None:
    publish = neighbour.publish_method()
    for wire in (
        frame(BODY, 1, b"{}"),
        frame(HEADER, 1, struct.pack(">HHQH", 60, 0, 2, 0)),
        publish + publish,
    ):
        await refused(neighbour, wire)


@FRAMES.act("a header that announces 2^63 bytes, and a body that is longer than its header says")
async def wrong_sizes(neighbour: Neighbour) -> None:
    publish = neighbour.publish_method()
    endless = frame(HEADER, 1, struct.pack(">HHQH", 60, 0, 2**63, 0))
    connection = await neighbour.open()
    connection.send(publish, endless, frame(BODY, 1, b"x" * 100_000))
    await connection.flush()
    short = frame(HEADER, 1, struct.pack(">HHQH", 60, 0, 2, 0))
    await refused(neighbour, publish, short, frame(BODY, 1, b"x" * 1000), neighbour.request_wire())


@FRAMES.act("headers whose tables end nowhere, or have fields of no type")
async def broken_tables(neighbour: Neighbour) -> None:
    publish = neighbour.publish_method()
    headers = 1 << 13
    for table in (
        struct.pack(">I", 2**32 - 1) + b"\x01aS",
        struct.pack(">I", 3) + b"\x01aZ",
        struct.pack(">I", 7) + b"\x01aF" + struct.pack(">I", 99),
    ):
        header = struct.pack(">HHQH", 60, 0, 0, headers) + table
        connection = await neighbour.open()
        connection.send(publish, frame(HEADER, 1, header))
        connection.send_method(commands.Confirm.Select())
        await connection.flush()


@FRAMES.act("five thousand heartbeats, some of them with a payload")
async def heartbeats_only(neighbour: Neighbour) -> None:
    connection = await neighbour.open()
    connection.send(*([frame(HEARTBEAT, 0, b"")] * 5000))
    await connection.channel(2)
    await refused(neighbour, frame(HEARTBEAT, 7, b"alive"), FRAME_END * 100)


@FRAMES.act("a megabyte of random bytes")
async def noise(neighbour: Neighbour) -> None:
    await refused(neighbour, bytes(range(1, 256)) * 4000)
