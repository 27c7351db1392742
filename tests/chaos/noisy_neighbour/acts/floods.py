"""Two thousand of each kind of message that a token may publish, as fast as the broker takes them.

In the quick form there are two hundred.
"""

from contracts import names
from tests.chaos.noisy_neighbour.act import Kind
from tests.chaos.noisy_neighbour.neighbour import BAD, GOOD, STREAMED, Neighbour

FLOODS = Kind("floods")
MANY = 2000
HEARTBEAT = b'{"version": "1", "host": "h", "started_at": "2026-01-01T00:00:00Z", "in_flight": 0}'
REPORT = (
    b'{"lease_id": "none", "report_id": "r-%d", "model": "gpt-4o-mini", "outcome": "ok", "total_tokens": 1}'
)


@FLOODS.act("two thousand requests")
async def requests(neighbour: Neighbour) -> None:
    await neighbour.ask(GOOD, times=neighbour.many(MANY))


@FLOODS.act("two thousand requests that are refused")
async def bad_requests(neighbour: Neighbour) -> None:
    await neighbour.ask(BAD, times=neighbour.many(MANY))


@FLOODS.act("two thousand requests that expire at once")
async def expired_requests(neighbour: Neighbour) -> None:
    await neighbour.declare(durable=True)
    await neighbour.ask(GOOD, times=neighbour.many(MANY), expiration="0", reply_to=neighbour.reply_queue)


@FLOODS.act("two thousand requests with one id")
async def one_id(neighbour: Neighbour) -> None:
    await neighbour.declare(durable=True)
    await neighbour.ask(
        GOOD, times=neighbour.many(MANY), message_id="the-same", reply_to=neighbour.reply_queue
    )


@FLOODS.act("two hundred streams into one queue that nobody reads")
async def streams(neighbour: Neighbour) -> None:
    await neighbour.declare(durable=True)
    await neighbour.ask(STREAMED, times=neighbour.many(200), reply_to=neighbour.reply_queue)


@FLOODS.act("two thousand requests for keys, where none are lent")
async def refused_lease_requests(neighbour: Neighbour) -> None:
    await neighbour.declare(durable=True)
    properties = {"type": names.KEY_LEASE_REQUEST, "reply_to": neighbour.reply_queue}
    await neighbour.ask_for_keys(*[(b"{}", properties)] * neighbour.many(MANY))


@FLOODS.act("two thousand heartbeats")
async def heartbeats(neighbour: Neighbour) -> None:
    await neighbour.tell("heartbeat", *[(HEARTBEAT, {"type": names.HEARTBEAT})] * neighbour.many(MANY))


@FLOODS.act("two thousand reports of usage on leases that there are not")
async def reports(neighbour: Neighbour) -> None:
    properties = {"type": names.USAGE_REPORTED}
    await neighbour.tell(
        "usage.reported", *((REPORT % number, properties) for number in range(neighbour.many(MANY)))
    )


@FLOODS.act("two thousand events of no byte at all")
async def empty_events(neighbour: Neighbour) -> None:
    await neighbour.tell("heartbeat", *[(b"", {})] * neighbour.many(MANY))
