"""Answers of a provider of the neighbour's own that are HTTP, and lie in their fields."""

from typing import Any

import orjson

from tests.chaos.noisy_neighbour.act import Kind
from tests.chaos.noisy_neighbour.lying_provider import Call, completion, failure

PROVIDER_ANSWERS = Kind("a provider's answers")
lie = PROVIDER_ANSWERS.lie
ENDLESS = b"1" + b"0" * 18


def usage(count: Any) -> dict[str, Any]:
    """A usage whose every field is the same."""
    details = {"cached_tokens": count, "reasoning_tokens": count}
    names = ("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens")
    return {
        **dict.fromkeys(names, count),
        "prompt_tokens_details": details,
        "completion_tokens_details": details,
    }


@lie("2^63 tokens")
async def beyond_an_integer(call: Call) -> None:
    await call.answer_either(completion(usage=usage(2**63)))


@lie("2^63-1 tokens, each time", forms=4)
async def largest_integer(call: Call) -> None:
    await call.answer_either(completion(usage=usage(2**63 - 1), model="without-a-price"))


@lie("10^400 tokens")
async def beyond_a_float(call: Call) -> None:
    whole = orjson.dumps(completion(usage=usage(7))).replace(b"7", b"1" + b"0" * 400)
    await call.answer(whole)


@lie("negative tokens")
async def negative(call: Call) -> None:
    await call.answer_either(completion(usage=usage(-1)))


@lie("tokens that are text")
async def tokens_of_text(call: Call) -> None:
    await call.answer_either(completion(usage=usage("many")))


@lie("tokens of half a token, and as a list")
async def tokens_of_no_number(call: Call) -> None:
    await call.answer_either(completion(usage={**usage(0.5), "total_tokens": [1], "prompt_tokens": None}))


@lie("a usage that is no object")
async def usage_of_text(call: Call) -> None:
    await call.answer_either(completion(usage="none"))


@lie("an answer to which every field has the wrong type")
async def wrong_types(call: Call) -> None:
    await call.answer_either(
        {"id": 1, "object": [], "created": "x", "model": {}, "choices": {"a": 1}, "usage": []}
    )


@lie("a model name of a megabyte")
async def long_model(call: Call) -> None:
    await call.answer_either(completion(model="x" * 1024**2))


@lie("model names with dollars, dots and NUL")
async def odd_models(call: Call) -> None:
    await call.answer_either(completion(model="$a.b\0\r\n"))


@lie("another model name each time", forms=4)
async def other_models(call: Call) -> None:
    await call.answer_either(completion(model=f"model-{call.number}"))


@lie("times of -2^63 and answers whose ids are 100 kilobytes long")
async def odd_created(call: Call) -> None:
    await call.answer_either(completion(created=-(2**63), id="x" * 100_000))


@lie("JSON nested a hundred thousand deep")
async def deep(call: Call) -> None:
    await call.answer(b'{"choices":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


@lie("JSON nested five hundred deep, which still is JSON")
async def rather_deep(call: Call) -> None:
    await call.answer(b'{"choices":' + b"[" * 500 + b"]" * 500 + b"}")


@lie("bodies of no JSON, in turns", forms=8)
async def no_json(call: Call) -> None:
    bodies = (b"", b"null", b"[]", b"\xff\xfe", b"{", b"NaN", b'"\\ud800"', b"<html></html>")
    await call.answer(bodies[call.number % len(bodies)])


@lie("text with lone surrogates and NUL")
async def odd_text(call: Call) -> None:
    whole = orjson.dumps(completion()).replace(b"hello", b"\\ud800\\u0000")
    await call.answer(whole)


@lie("429 that says to wait for 10^18 seconds")
async def endless_wait(call: Call) -> None:
    await call.answer(
        failure(code="rate_limit_exceeded"), b"Retry-After: " + ENDLESS, status="429 Too Many Requests"
    )


@lie("429 whose wait is negative, not a number, or a date a thousand years ahead", forms=6)
async def odd_waits(call: Call) -> None:
    odd = (
        b"-1",
        b"NaN",
        b"Infinity",
        b"1e308",
        b"Fri, 31 Dec 9999 23:59:59 GMT",
        b"Mon, 01 Jan 0001 00:00:00 GMT",
    )
    header = odd[call.number % len(odd)]
    await call.answer(failure(), b"Retry-After: " + header, b"retry-after-ms: " + header, status="429 Slow")


@lie("rate limits of 10^18, negative and of text")
async def odd_rate_limits(call: Call) -> None:
    kinds = (b"requests", b"tokens")
    odd = {b"limit": ENDLESS, b"remaining": b"-" + ENDLESS, b"reset": ENDLESS + b"h"}
    headers = [
        b"x-ratelimit-%b-%b: %b" % (name, kind, value) for kind in kinds for name, value in odd.items()
    ]
    await call.answer(completion(), *headers)


@lie("rate limits that are no numbers")
async def rate_limits_of_text(call: Call) -> None:
    names = (
        b"limit-requests",
        b"remaining-requests",
        b"reset-requests",
        b"limit-tokens",
        b"remaining-tokens",
    )
    await call.answer(completion(), *(b"x-ratelimit-%b: \xff\xfe1e999" % name for name in names))


@lie("a quota that is exhausted, in words of every type", forms=4)
async def odd_quota(call: Call) -> None:
    odd: tuple[Any, ...] = (
        failure(type="insufficient_quota"),
        failure(type=["insufficient_quota"], code={}),
        {"error": 7},
        [],
    )
    await call.answer(odd[call.number % len(odd)], status="429 Too Many Requests")


@lie("errors whose message is 5 megabytes and names the key")
async def long_error(call: Call) -> None:
    key = call.headers.get("authorization", "")
    await call.answer(failure(message=key + "x" * 5 * 1024**2, code="x" * 100_000), status="400 Bad Request")


@lie("404 for every model")
async def no_model(call: Call) -> None:
    await call.answer(failure(code="model_not_found"), status="404 Not Found")


@lie("401 whose code is a megabyte long")
async def long_code(call: Call) -> None:
    await call.answer(failure(code="x" * 1024**2), status="401 Unauthorized")


@lie("statuses that there are not", forms=9)
async def odd_statuses(call: Call) -> None:
    odd = ("99 No", "199 No", "299 Yes", "600 No", "999 No", "1000 No", "-1 No", "abc", "")
    await call.answer(completion(), status=odd[call.number % len(odd)])


@lie("redirects to itself")
async def redirect(call: Call) -> None:
    await call.answer(b"", b"Location: " + call.path.encode(), status="307 Temporary Redirect")


@lie("redirects to MongoDB, to a file, and to nowhere", forms=5)
async def redirect_elsewhere(call: Call) -> None:
    odd = (b"http://127.0.0.1:27017/", b"file:///etc/passwd", b"http://[::1", b"\xff\xfe", b"")
    await call.answer(b"", b"Location: " + odd[call.number % len(odd)], status="302 Found")


@lie("events of a stream that are no JSON, no object, or deep", forms=7)
async def odd_events(call: Call) -> None:
    await call.head("200 OK", b"Content-Type: text/event-stream")
    odd = (b"null", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b'{"choices": 7}', b'{"error": 7}')
    await call.events(odd[call.number % len(odd)], b"[DONE]")


@lie("a stream whose usage comes in every event, and grows to 2^63")
async def growing_usage(call: Call) -> None:
    await call.head("200 OK", b"Content-Type: text/event-stream")
    events = (orjson.dumps({"choices": [], "usage": usage(2**power)}) for power in (1, 31, 53, 62, 63))
    await call.events(*events, b"[DONE]")


@lie("a stream of ten thousand choices with indexes of 2^62")
async def odd_choices(call: Call) -> None:
    await call.head("200 OK", b"Content-Type: text/event-stream")
    chunk = {
        "choices": [
            {"index": 2**62 + n, "delta": {"content": "x", "tool_calls": [{"index": -n}]}} for n in range(100)
        ]
    }
    await call.events(*[orjson.dumps(chunk)] * 100, b"[DONE]")
