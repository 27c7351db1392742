"""Keys that are borrowed, and what is said of them."""

from typing import Any

import orjson
from pamqp import commands

from contracts import names
from tests.chaos.noisy_neighbour.act import Kind
from tests.chaos.noisy_neighbour.amqp_bytes import RawConnection
from tests.chaos.noisy_neighbour.neighbour import Neighbour

LEASES = Kind("leases")
LARGEST = 2**63 - 1


async def borrow(neighbour: Neighbour, count: int, **body: Any) -> list[str]:
    """Ask for so many keys, and wait for the answers.

    Returns:
        The ids of the leases that were given.
    """
    connection = await neighbour.declare(durable=True)
    consume = commands.Basic.Consume(queue=neighbour.reply_queue, no_ack=True)
    await connection.ask(consume, commands.Basic.ConsumeOk)
    await ask(neighbour, *[body] * count)
    answers = [await _body(connection) for _ in range(count)]
    return [answer["lease_id"] for answer in answers if "lease_id" in answer]


async def ask(neighbour: Neighbour, *bodies: Any) -> None:
    properties = {"type": names.KEY_LEASE_REQUEST, "reply_to": neighbour.reply_queue}
    await neighbour.ask_for_keys(*((orjson.dumps(body), properties) for body in bodies))


async def report(neighbour: Neighbour, *said: dict[str, Any]) -> None:
    calm = {"report_id": "r-1", "model": "gpt-4o-mini", "outcome": "ok"}
    bodies = (orjson.dumps({**calm, **one}) for one in said)
    await neighbour.tell("usage.reported", *((body, {"type": names.USAGE_REPORTED}) for body in bodies))


async def _body(connection: RawConnection) -> dict[str, Any]:
    """The body of the next delivery, which is in one frame."""
    await connection.answer(commands.Basic.Deliver)
    await connection.frame()
    _, _, body = await connection.frame()
    document: dict[str, Any] = orjson.loads(body)
    return document


@LEASES.act("two hundred keys that are never reported on", lends=True)
async def never_reported(neighbour: Neighbour) -> None:
    await borrow(neighbour, neighbour.many(200))


@LEASES.act("reports of more tokens than there are", lends=True)
async def absurd_reports(neighbour: Neighbour) -> None:
    (lease_id, *_) = await borrow(neighbour, 3)
    counts = (LARGEST, LARGEST - 1, 2**53, 2**31, 10**15)
    said = (
        {"prompt_tokens": n, "completion_tokens": n, "total_tokens": n, "cached_tokens": n} for n in counts
    )
    await report(
        neighbour, *({"lease_id": lease_id, "report_id": f"r-{n}", **one} for n, one in enumerate(said))
    )


@LEASES.act("reports of numbers that are not", lends=True)
async def reports_of_no_numbers(neighbour: Neighbour) -> None:
    (lease_id, *_) = await borrow(neighbour, 1)
    odd: tuple[Any, ...] = (-1, -LARGEST, 2**64 - 1, 0.5, 1e300, "1", "x", None, [], {}, True)
    await report(
        neighbour, *({"lease_id": lease_id, "report_id": str(one), "total_tokens": one} for one in odd)
    )


@LEASES.act("a thousand reports on one lease, and one report a thousand times", lends=True)
async def many_reports(neighbour: Neighbour) -> None:
    (lease_id, *_) = await borrow(neighbour, 1)
    await report(
        neighbour,
        *(
            {"lease_id": lease_id, "report_id": f"r-{n}", "total_tokens": 1}
            for n in range(neighbour.many(1000))
        ),
    )
    await report(neighbour, *[{"lease_id": lease_id, "total_tokens": 1}] * neighbour.many(1000))


@LEASES.act("reports under names with dollars, dots, NUL and a megabyte", lends=True)
async def odd_names(neighbour: Neighbour) -> None:
    (lease_id, *_) = await borrow(neighbour, 1)
    for odd in ("", "$set", "a.b", "\0", "x" * 1024**2, "🔑", "../.."):
        await report(
            neighbour,
            {"lease_id": odd},
            {"lease_id": lease_id, "report_id": odd, "total_tokens": 1},
            {"lease_id": lease_id, "report_id": f"m{odd[:9]}", "model": odd, "total_tokens": 1},
            {"lease_id": lease_id, "report_id": f"o{odd[:9]}", "outcome": odd, "total_tokens": 1},
        )


@LEASES.act("a thousand made-up models in reports", lends=True)
async def made_up_models(neighbour: Neighbour) -> None:
    (lease_id, *_) = await borrow(neighbour, 1)
    await report(
        neighbour,
        *(
            {"lease_id": lease_id, "report_id": f"r-{n}", "model": f"made-up-{n}"}
            for n in range(neighbour.many(1000))
        ),
    )


@LEASES.act("requests for keys with absurd fields", lends=True)
async def absurd_requests(neighbour: Neighbour) -> None:
    await neighbour.declare(durable=True)
    odd: tuple[Any, ...] = (-1, 0, LARGEST, 10**30 // 10**12, 0.5, "x", None, [], {}, "\0", "x" * 100_000)
    fields = ("model", "estimated_tokens", "ttl_s", "recipient_public_key", "unknown")
    await ask(neighbour, *({name: one} for name in fields for one in odd))


@LEASES.act("requests for keys whose properties are no text, sealed to keys that are none", lends=True)
async def odd_requests(neighbour: Neighbour) -> None:
    await neighbour.declare(durable=True)
    reply_to, forged = neighbour.reply_queue, neighbour.ordinary.kept
    for body in (
        b"{}",
        b"",
        b"\xff",
        b"[" * 100_000,
        b'{"recipient_public_key": "AAAA"}',
        b'{"model": "' + b"x" * 200_000 + b'"}',
    ):
        await neighbour.ask_for_keys(
            (body, {"reply_to": reply_to, "message_id": b"\xff\xfe"}),
            (body, {"reply_to": b"\xff\xfe"}),
            (body, {"reply_to": forged}),
            (body, {"reply_to": f"replies.{neighbour.name}.nowhere"}),
            (body, {"reply_to": reply_to, "type": b"\xff", "headers": {"timestamp_in_ms": -(2**63)}}),
            (body, {"reply_to": reply_to, "expiration": "0", "timestamp": 2**63}),
            (body, {}),
        )


@LEASES.act("requests for keys for five hundred made-up models", lends=True)
async def models_of_requests(neighbour: Neighbour) -> None:
    await neighbour.declare(durable=True)
    await ask(
        neighbour,
        *({"model": f"made-up-{number}", "estimated_tokens": 1} for number in range(neighbour.many(500))),
    )
