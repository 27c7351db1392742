"""What calls cost, by figures that one can work out on the provider's price page."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.prices import Cost, Price, cost, set_by_hand

TOKENS = st.integers(0, 10_000_000)


@pytest.mark.parametrize(
    ("model", "prompt", "completion", "cached", "nanousd"),
    [
        # 0.15 USD in, 0.075 USD cached and 0.60 USD out, each per million: 150, 75 and 600 nano-USD a token.
        ("gpt-4o-mini", 19, 27, 0, 19_050),
        ("gpt-4o-mini-2024-07-18", 19, 27, 0, 19_050),
        ("gpt-4o-mini", 1, 0, 0, 150),
        ("gpt-4o-mini", 0, 1, 0, 600),
        ("gpt-4o-mini", 1000, 0, 400, 600 * 150 + 400 * 75),
        ("gpt-4o-mini", 0, 0, 0, 0),
        # 2.50 USD in and 10 USD out.
        ("gpt-4o", 10, 10, 0, 10 * 2_500 + 10 * 10_000),
        # 0.02 USD in.
        ("text-embedding-3-small", 10, 0, 0, 200),
    ],
)
def test_a_known_model_costs_what_the_price_page_says(
    model: str, prompt: int, completion: int, cached: int, nanousd: int
) -> None:
    assert cost(model, prompt, completion, cached) == Cost(nanousd, known=True)


@pytest.mark.parametrize("model", ["keyway-test-model", "", "gpt", "x" * 500])
def test_an_unknown_model_has_no_price_and_says_so(model: str) -> None:
    assert cost(model, 1000, 1000, 0) == Cost(0, known=False)


@given(st.text(max_size=30))
def test_any_name_of_a_model_is_answered(model: str) -> None:
    assert cost(model, 10, 10, 5).nanousd >= 0


@given(TOKENS, TOKENS, TOKENS)
def test_money_is_whole_and_cached_tokens_are_cheaper(prompt: int, completion: int, cached: int) -> None:
    full = cost("gpt-4o-mini", prompt, completion, 0).nanousd
    less = cost("gpt-4o-mini", prompt, completion, cached).nanousd
    assert type(full) is type(less) is int
    assert full == 150 * prompt + 600 * completion
    assert full - less == 75 * min(cached, prompt)


@pytest.fixture
def by_hand() -> Iterator[None]:
    set_by_hand({"own-model": Price(1_000_000_000, 2_500_000_000, 37_500_000), "gpt-4o": Price(0, 0, 0)})
    yield
    set_by_hand({})


@pytest.mark.usefixtures("by_hand")
def test_a_price_set_by_hand_goes_before_the_list_for_dated_versions_too() -> None:
    assert cost("own-model", 10, 4, 4) == Cost(6 * 1000 + 150 + 4 * 2500, known=True)
    assert cost("own-model-2026-03-10", 1, 0, 0) == Cost(1000, known=True)
    assert cost("own-model", 1, 0, 1) == Cost(38, known=True)  # 37.5, to the even
    assert cost("own-model-mini", 1, 0, 0) == Cost(0, known=False)
    assert cost("gpt-4o-2024-08-06", 10, 10, 0) == Cost(0, known=True)
    set_by_hand({})
    assert cost("own-model", 10, 4, 4) == Cost(0, known=False)
    assert cost("gpt-4o", 10, 10, 0) == Cost(125_000, known=True)
