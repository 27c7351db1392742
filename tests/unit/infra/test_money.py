"""Money in texts: exact, or refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import PlatformError
from infra.money import nanousd, usd


@pytest.mark.parametrize(
    ("text", "amount"), [("5", 5_000_000_000), ("0.15", 150_000_000), ("0.000000001", 1), ("0", 0)]
)
def test_an_amount_is_read_exactly(text: str, amount: int) -> None:
    assert nanousd(text) == amount


@pytest.mark.parametrize("text", ["", "lots", "-1", "nan", "inf", "1e99", "0.0000000001", "1,000", "$5"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(PlatformError):
        nanousd(text)


@given(st.integers(0, 10**12))
def test_what_is_printed_is_read_again(millionths: int) -> None:
    text = usd(millionths * 1000).removeprefix("$").replace(",", "")
    assert nanousd(text) == millionths * 1000
