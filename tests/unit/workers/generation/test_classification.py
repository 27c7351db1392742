"""Classification: the table of architecture.md, Upstream; and how long a provider asks to wait."""

from email.utils import formatdate

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.messages import Outcome
from workers.generation.classification import (
    BAD_RESPONSE,
    CONNECTION_ERROR,
    LONGEST_COOL_MS,
    LONGEST_HEADER,
    RATE_LIMITED_COOL_MS,
    SHORTEST_COOL_MS,
    TIMEOUT,
    Next,
    Verdict,
    classify,
    duration_ms,
    rate_limits,
    retry_after_ms,
)
from workers.keys.reported import RateLimits

#: A whole second, as HTTP dates have no fractions.
NOW = 1_773_144_000.0

REJECTED = (Outcome.REJECTED, Next.STOP)
AUTH_FAILED = (Outcome.AUTH_FAILED, Next.OTHER_KEY)
QUOTA_EXHAUSTED = (Outcome.QUOTA_EXHAUSTED, Next.OTHER_KEY)
RATE_LIMITED = (Outcome.RATE_LIMITED, Next.OTHER_KEY)
MODEL_UNAVAILABLE = (Outcome.MODEL_UNAVAILABLE, Next.OTHER_KEY)
SERVER_ERROR = (Outcome.SERVER_ERROR, Next.BACK_OFF)

TABLE = [
    # 401; 403 on the key or organisation; deactivated
    (401, "invalid_api_key", "Incorrect API key provided", AUTH_FAILED),
    (401, "", "", AUTH_FAILED),
    (401, "account_deactivated", "The account is deactivated", AUTH_FAILED),
    (403, "access_terminated", "Your access was terminated", AUTH_FAILED),
    (403, "unsupported_country_region_territory", "Country not supported", AUTH_FAILED),
    (403, "", "", AUTH_FAILED),
    (400, "organization_deactivated", "", AUTH_FAILED),
    (429, "account_deactivated", "", AUTH_FAILED),
    # 403 or 404 on the model only
    (404, "model_not_found", "The model `o9` does not exist", MODEL_UNAVAILABLE),
    (403, "model_not_found", "", MODEL_UNAVAILABLE),
    (403, "", "Project p does not have access to model `o3`", MODEL_UNAVAILABLE),
    (404, "", "The model 'o9' has been deprecated", MODEL_UNAVAILABLE),
    # 429 rate limit
    (429, "rate_limit_exceeded", "Rate limit reached for gpt-4o-mini", RATE_LIMITED),
    (429, "tokens", "", RATE_LIMITED),
    (429, "", "", RATE_LIMITED),
    # quota, 402, billing
    (429, "insufficient_quota", "You exceeded your current quota", QUOTA_EXHAUSTED),
    (402, "", "Payment required", QUOTA_EXHAUSTED),
    (400, "billing_hard_limit_reached", "Billing hard limit has been reached", QUOTA_EXHAUSTED),
    (429, "billing_not_active", "Your account is not active", QUOTA_EXHAUSTED),
    # the request itself
    (400, "", "", REJECTED),
    (400, "invalid_request_error", "you must provide a model parameter", REJECTED),
    (400, "context_length_exceeded", "This model's maximum context length is 8192 tokens", REJECTED),
    (400, "content_policy_violation", "rejected by the safety system", REJECTED),
    (403, "content_policy_violation", "rejected by the safety system", REJECTED),
    (403, "content_policy_violation", "blocked by the model's safety system", REJECTED),
    (403, "", "This violates our usage policy", REJECTED),
    (404, "", "Invalid URL (POST /v1/nowhere)", REJECTED),
    (405, "", "", REJECTED),
    (409, "", "conflict", REJECTED),
    (413, "", "", REJECTED),
    (422, "", "", REJECTED),
    # the provider's own trouble
    (408, "", "", SERVER_ERROR),
    (500, "server_error", "The server had an error", SERVER_ERROR),
    (502, "", "<html>Bad gateway</html>", SERVER_ERROR),
    (503, "", "The engine is overloaded; the model is busy", SERVER_ERROR),
    (504, "", "", SERVER_ERROR),
    (529, "overloaded_error", "", SERVER_ERROR),
]


@pytest.mark.parametrize(("status", "code", "message", "expected"), TABLE)
def test_an_error_means_what_the_table_says(
    status: int, code: str, message: str, expected: tuple[Outcome, Next]
) -> None:
    verdict = classify(status, code, message, {}, NOW)
    assert (verdict.outcome, verdict.next) == expected


def verdict_of(status: int, code: str = "", **headers: str) -> Verdict:
    return classify(status, code, "", {name.replace("_", "-"): value for name, value in headers.items()}, NOW)


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422])
def test_a_wrong_request_leaves_the_key_alone(status: int) -> None:
    assert verdict_of(status, retry_after="60") == Verdict(Outcome.REJECTED, Next.STOP)


@pytest.mark.parametrize(
    "verdict", [verdict_of(500), verdict_of(408), TIMEOUT, CONNECTION_ERROR, BAD_RESPONSE, verdict_of(401)]
)
def test_the_keys_health_goes_down_where_the_provider_failed(verdict: Verdict) -> None:
    assert verdict.blames_key


@pytest.mark.parametrize(
    "verdict",
    [verdict_of(429), verdict_of(402), verdict_of(404, "model_not_found"), verdict_of(400), verdict_of(413)],
)
def test_the_keys_health_stays_where_it_did_its_work(verdict: Verdict) -> None:
    assert not verdict.blames_key


def test_only_a_model_that_is_missing_is_denied() -> None:
    assert verdict_of(404, "model_not_found").denies_model
    others = [verdict_of(status) for status in (400, 401, 402, 403, 404, 429, 500)]
    assert not any(verdict.denies_model for verdict in others)


@pytest.mark.parametrize("verdict", [TIMEOUT, CONNECTION_ERROR, BAD_RESPONSE])
def test_what_never_became_an_answer_is_tried_again_after_a_pause(verdict: Verdict) -> None:
    assert verdict.next is Next.BACK_OFF
    assert verdict.cool_ms == 0


@pytest.mark.parametrize("verdict", [verdict_of(401), verdict_of(403), verdict_of(402)])
def test_a_refused_key_rests_until_accounting_has_seen_it(verdict: Verdict) -> None:
    assert verdict.cool_ms >= 30_000


def test_a_rate_limited_key_rests_as_long_as_the_provider_says_or_a_little() -> None:
    assert verdict_of(429, retry_after="7").cool_ms == 7000
    assert verdict_of(429).cool_ms == RATE_LIMITED_COOL_MS
    assert verdict_of(429, retry_after="soon").cool_ms == RATE_LIMITED_COOL_MS


@pytest.mark.parametrize(
    "headers",
    [
        {"retry-after": "0"},
        {"retry-after": "-5"},
        {"retry-after-ms": "0"},
        {"retry-after-ms": "0.4"},
        {"retry-after": formatdate(NOW - 90, usegmt=True)},
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "0s"},
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "soon"},
        {"x-ratelimit-remaining-tokens": "0"},
    ],
)
def test_a_rate_limited_key_is_never_asked_again_at_once(headers: dict[str, str]) -> None:
    assert classify(429, "rate_limit_exceeded", "", headers, NOW).cool_ms == SHORTEST_COOL_MS


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_no_answer_and_does_not_reject_the_request(status: int) -> None:
    assert verdict_of(status) == BAD_RESPONSE


@pytest.mark.parametrize(
    ("headers", "wait_ms"),
    [
        ({}, None),
        ({"retry-after": "1"}, 1000),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "1.5"}, 1500),
        ({"retry-after": "-5"}, 0),
        ({"retry-after-ms": "250"}, 250),
        ({"retry-after-ms": "12.4"}, 12),
        ({"retry-after": "1", "retry-after-ms": "20"}, 1000),
        ({"retry-after": "1", "retry-after-ms": "2000"}, 2000),
        ({"retry-after": formatdate(NOW + 90, usegmt=True)}, 90_000),
        ({"retry-after": formatdate(NOW - 90, usegmt=True)}, 0),
        ({"retry-after": formatdate(NOW + 90, localtime=False)}, 90_000),
        ({"retry-after": formatdate(NOW + 90), "date": formatdate(NOW + 60)}, 30_000),
        ({"retry-after": formatdate(NOW + 90), "date": formatdate(NOW + 4200)}, 0),
        ({"retry-after": formatdate(NOW + 90), "date": "today"}, 90_000),
        ({"retry-after": "1e9"}, 86_400_000),
        ({"retry-after": formatdate(NOW + 10 * 86_400, usegmt=True)}, LONGEST_COOL_MS),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "Tue, 99 Foo 2026 00:00:00 GMT"}, None),
        ({"retry-after": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"}, None),
        ({"retry-after-ms": "soon"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360_000),
        ({"x-ratelimit-remaining-requests": " 0 ", "x-ratelimit-reset-requests": "20ms"}, 20),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1.5s"}, 1500),
        ({"x-ratelimit-remaining-tokens": "17", "x-ratelimit-reset-tokens": "1.5s"}, None),
        ({"x-ratelimit-reset-tokens": "1.5s"}, None),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "1m",
            },
            60_000,
        ),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-remaining-tokens": "40",
                "x-ratelimit-reset-tokens": "1m",
            },
            1000,
        ),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "900d"}, LONGEST_COOL_MS),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "9" * 400 + "s"}, 0),
    ],
)
def test_the_wait_is_read_from_every_header_that_names_one(
    headers: dict[str, str], wait_ms: int | None
) -> None:
    assert retry_after_ms(headers, NOW) == wait_ms


@pytest.mark.parametrize(
    ("requests", "tokens", "limits"),
    [
        ("500", "30000", (500, 30_000)),
        ("500", None, (500, None)),
        (None, "30000", (None, 30_000)),
        ("500", "0", (500, None)),
        ("9" * 12, "9" * 13, (10**12 - 1, None)),
    ],
)
def test_the_limits_that_an_answer_names_are_read(
    requests: str | None, tokens: str | None, limits: tuple[int | None, int | None]
) -> None:
    named = {"x-ratelimit-limit-requests": requests, "x-ratelimit-limit-tokens": tokens}
    said = rate_limits({name: value for name, value in named.items() if value is not None})
    assert said == RateLimits(*limits)
    assert (said.requests_used, said.tokens_used) == (0, 0)


@pytest.mark.parametrize(
    ("requests", "tokens"), [(None, None), ("-1", "many"), ("²", ""), ("9" * 5000, "18446744073709551616")]
)
def test_an_answer_that_names_no_limit_says_nothing(requests: str | None, tokens: str | None) -> None:
    named = {
        "x-ratelimit-limit-requests": requests,
        "x-ratelimit-limit-tokens": tokens,
        "x-ratelimit-remaining-requests": "4",
    }
    assert rate_limits({name: value for name, value in named.items() if value is not None}) is None


def test_what_is_left_and_until_when_is_read_whatever_the_case_of_the_headers() -> None:
    headers = {
        "X-RateLimit-Limit-Requests": "60",
        "X-RateLimit-Remaining-Requests": "59",
        "X-RateLimit-Reset-Requests": "1s",
        "X-RateLimit-Limit-Tokens": "150000",
        "X-RateLimit-Remaining-Tokens": "149984",
        "X-RateLimit-Reset-Tokens": "6m0s",
    }
    said = rate_limits(httpx2.Headers(headers))
    assert said == RateLimits(60, 150_000, 59, 149_984, 360_000)
    assert (said.requests_used, said.tokens_used) == (1, 16)


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("1s", 1000),
        ("20ms", 20),
        ("6m0s", 360_000),
        ("1h2m3s", 3_723_000),
        ("1d1h", 90_000_000),
        ("0.5s", 500),
        ("1m30.25s", 90_250),
        (" 1s ", 1000),
        ("", None),
        ("1", None),
        ("s", None),
        ("1s!", None),
        ("about 1s", None),
        ("-1s", None),
        ("1y", None),
        ("9" * 400 + "s", None),
        ("1s" * LONGEST_HEADER, None),
    ],
)
def test_durations_are_read_as_openai_writes_them(text: str, milliseconds: int | None) -> None:
    assert duration_ms(text) == milliseconds


@pytest.mark.parametrize(
    "headers",
    [
        {"retry-after": "0" * LONGEST_HEADER + "5"},
        {"retry-after-ms": "0" * LONGEST_HEADER + "5"},
        {"retry-after": "Wed, 21 Oct 2065 07:28:00 GMT" + " " * LONGEST_HEADER},
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1s" * LONGEST_HEADER},
    ],
)
def test_a_header_that_is_longer_than_any_that_means_something_is_not_read(headers: dict[str, str]) -> None:
    assert not retry_after_ms(headers, NOW)


HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "retry-after",
            "retry-after-ms",
            "x-ratelimit-remaining-requests",
            "x-ratelimit-reset-requests",
            "x-ratelimit-remaining-tokens",
            "x-ratelimit-reset-tokens",
        ]
    ),
    st.text(max_size=40) | st.from_regex(r"-?[0-9.]{1,12}(ms|s|m|h|d)?", fullmatch=True) | st.just("0"),
)


@given(st.integers(400, 599), st.text(), st.text(), HEADERS)
def test_every_error_has_a_verdict(status: int, code: str, message: str, headers: dict[str, str]) -> None:
    verdict = classify(status, code, message, headers, NOW)
    assert 0 <= verdict.cool_ms <= LONGEST_COOL_MS
    assert verdict.outcome is not Outcome.OK
    assert (verdict.next is Next.STOP) is (verdict.outcome is Outcome.REJECTED)


@given(st.integers(0, 59), st.integers(0, 59), st.integers(0, 23))
def test_a_written_duration_is_read_again(seconds: int, minutes: int, hours: int) -> None:
    assert duration_ms(f"{hours}h{minutes}m{seconds}s") == (hours * 3600 + minutes * 60 + seconds) * 1000
