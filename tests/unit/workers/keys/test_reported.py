"""What a provider says of its limits: what is news, what others use, and what an operator is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import NOW
from workers.keys.reported import REPORTED_S, RateLimits, Reported, is_news, lower_limits, merged

FRESH = Reported(60, 1000, NOW + REPORTED_S)


@pytest.mark.parametrize(
    ("known", "said", "used", "news"),
    [
        (None, RateLimits(60), (0, 0), True),
        (FRESH, RateLimits(60, 1000, 60, 1000), (0, 0), False),
        (FRESH, RateLimits(60, 1000, 50, 900), (10, 100), False),
        # They count more than we made: somebody else uses the key.
        (FRESH, RateLimits(60, 1000, 49, 900), (10, 100), True),
        (FRESH, RateLimits(60, 1000, 50, 899), (10, 100), True),
        # What others use is known already, until they use more.
        (Reported(60, 1000, NOW + 3600, 5, 0, NOW, NOW + 60), RateLimits(60, 1000, 45), (10, 0), False),
        (Reported(60, 1000, NOW + 3600, 5, 0, NOW, NOW + 60), RateLimits(60, 1000, 44), (10, 0), True),
        (FRESH, RateLimits(50, 1000, 50, 1000), (0, 0), True),
        (FRESH, RateLimits(60, 1000), (0, 0), False),
        (Reported(60, 1000, NOW + REPORTED_S / 2 - 1), RateLimits(60, 1000, 60, 1000), (0, 0), True),
    ],
)
def test_what_is_known_already_is_not_written_down_again(
    known: Reported | None, said: RateLimits, used: tuple[int, int], news: bool
) -> None:
    assert is_news(known, said, used, NOW) is news


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0, 120))
def test_what_others_use_only_fades_and_is_gone_by_the_reset(
    requests: int, tokens: int, later: float
) -> None:
    reported = Reported(60, 1000, NOW + 3600, requests, tokens, NOW, NOW + 60)
    now, soon = reported.outside(NOW + later), reported.outside(NOW + later + 1)
    assert reported.outside(NOW) == (requests, tokens)
    assert requests >= now[0] >= soon[0] >= 0
    assert tokens >= now[1] >= soon[1] >= 0
    assert reported.outside(NOW + 60) == (0, 0)


def test_of_several_answers_the_least_that_is_left_counts_and_the_newest_limits() -> None:
    answers = [RateLimits(60, None, 7, None, 900), RateLimits(60, 1000, 5, 80, 100), RateLimits(50, 1000, 6)]
    assert merged(answers) == RateLimits(50, 1000, 5, 80, 900)


@pytest.mark.parametrize(
    ("requests", "tokens", "lines"),
    [
        (600, None, ["the provider allows 60 requests a minute for o3"]),
        (600, 9000, ["the provider allows 60 requests and 1000 tokens a minute for o3"]),
        (60, 1000, []),
        (None, None, []),
    ],
)
def test_an_operator_is_told_where_the_provider_allows_less(
    requests: int | None, tokens: int | None, lines: list[str]
) -> None:
    assert lower_limits(requests, tokens, {"o3": FRESH}, NOW) == lines
    assert lower_limits(requests, tokens, {"o3": FRESH}, NOW + REPORTED_S) == []
