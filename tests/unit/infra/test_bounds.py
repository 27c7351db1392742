"""Numbers from outside."""

import pytest

from infra.bounds import LONGEST_MS, MOST_COUNTED, MOST_NANOUSD, MOST_TOKENS, is_count, is_text

LARGEST_OF_MONGODB = 2**63 - 1


@pytest.mark.parametrize("bound", [MOST_TOKENS, MOST_NANOUSD, LONGEST_MS, MOST_COUNTED])
def test_the_sum_of_a_thousand_of_the_largest_fits_into_64_bits(bound: int) -> None:
    assert bound * 1000 <= LARGEST_OF_MONGODB


@pytest.mark.parametrize("value", [-1, 11, 2**63, True, 1.0, "1", None])
def test_what_is_no_whole_number_within_its_bound_is_no_count(value: object) -> None:
    assert not is_count(value, 10)


@pytest.mark.parametrize("value", [0, 1, 10])
def test_a_whole_number_within_its_bound_is_a_count(value: int) -> None:
    assert is_count(value, 10)


@pytest.mark.parametrize("value", ["a", "gpt-4o", "schön", "🎈"])
def test_a_short_text_is_a_text(value: str) -> None:
    assert is_text(value, 10)


@pytest.mark.parametrize("value", ["", "a" * 11, "a\ud800", "\udfff", b"a", 1, None])
def test_what_is_too_long_or_no_unicode_is_no_text(value: object) -> None:
    assert not is_text(value, 10)
