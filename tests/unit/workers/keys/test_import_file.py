"""Files of keys: each line is a key, or why it is none; and no key stands in what is said of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import PlatformError
from workers.keys.import_file import BadLine, NewKey, read_keys
from workers.keys.key import Limits
from workers.keys.registry import DEFAULT_BASE_URL

HEAD = "automation,alias,api_key,rpm,tpm,daily_tokens,max_in_flight,base_url,tier\n"
SECRET = "sk-secret-of-a-line"


def one(line: str) -> NewKey | BadLine:
    (found,) = read_keys(HEAD + line)
    return found


def test_a_line_is_a_key() -> None:
    found = one(f"bot,Primary,{SECRET},60,9000,,3,http://localhost:1/v1,backup")
    assert isinstance(found, NewKey)
    assert (found.line, found.automation_id, found.alias) == (2, "bot", "Primary")
    assert found.api_key.get_secret_value() == SECRET
    assert (found.limits, found.base_url, found.tier) == (
        Limits(60, 9000, None, 3),
        "http://localhost:1/v1",
        2,
    )


def test_what_is_empty_is_by_default() -> None:
    found = one(f" bot , Primary , {SECRET} ,,,,,,")
    assert isinstance(found, NewKey)
    assert (found.limits, found.base_url, found.tier) == (Limits(), DEFAULT_BASE_URL, 0)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"bot,,{SECRET},,,,,,", "alias is empty"),
        ("bot,Primary,,,,,,,", "api_key is empty"),
        (f"bot,Primary,{SECRET},x,,,,,", "whole number"),
        (f"bot,Primary,{SECRET},0,,,,,", "less than 1"),
        (f"bot,Primary,{SECRET},{2**63},,,,,", "too large"),
        (f"bot,Primary,{SECRET},,,,,,first", "tier"),
        (f"bot,Primary,{SECRET},,,,,,backup,{SECRET}", "more fields"),
    ],
)
def test_a_line_that_is_no_key_says_why(line: str, reason: str) -> None:
    found = one(line)
    assert isinstance(found, BadLine)
    assert reason in found.reason
    assert SECRET not in found.reason


@pytest.mark.parametrize("head", ["", "automation,alias\n", "automation,alias,api_key,limit\n"])
def test_columns_that_are_wrong_are_named(head: str) -> None:
    with pytest.raises(PlatformError, match="columns"):
        read_keys(head + "a,b,c,d")


def test_a_file_of_a_spreadsheet_with_its_mark_is_read() -> None:
    assert len(read_keys(f"\ufeff{HEAD.replace(chr(10), chr(13) + chr(10))}bot,A,{SECRET},,,,,,\r\n")) == 1


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read_keys(text)
    except PlatformError:
        return
