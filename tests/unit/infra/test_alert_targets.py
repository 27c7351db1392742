"""Whom alerts are delivered to: addresses are read, and their secrets are not told."""

import logging
from collections.abc import Iterator
from io import StringIO

import pytest
from pydantic import SecretStr

from infra.alert_targets import alert_targets
from infra.errors import SettingsError

SLACK = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#general"


@pytest.fixture
def written() -> Iterator[StringIO]:
    """What a service that logs everything writes; pytest's own capture hears what reaches no handler too."""
    root, text = logging.getLogger(), StringIO()
    handler, level = logging.StreamHandler(text), root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield text
    root.removeHandler(handler)
    root.setLevel(level)


def names(urls: str) -> list[str]:
    return [target.name for target in alert_targets(SecretStr(urls))]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("json://user:s3cr3t@127.0.0.1:8080/s3cr3t?-token=s3cr3t", "json://127.0.0.1:8080"),
        ("jsons://hooks.test/s3cr3t", "jsons://hooks.test"),
        (SLACK, "slack"),
        ("tgram://123456789:abcdefghijklmnopqrstuvwxyzabcdefghi/12345", "tgram"),
        ("discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js", "discord"),
        ("mailtos://smtp.test:465?user=me&pass=s3cr3t&from=a@b.test&to=c@d.test", "mailtos://smtp.test:465"),
        ("ntfy://s3cr3t", "ntfy"),
    ],
)
def test_an_address_is_named_by_what_is_no_secret_of_it(url: str, name: str) -> None:
    assert names(url) == [name]


def test_there_may_be_several_with_commas_or_spaces_between_them_and_within() -> None:
    assert names(f"json://a/x,y, {SLACK}\njson://a,json://b") == [
        "json://a",
        "slack",
        "json://a (2)",
        "json://b",
    ]


@pytest.mark.parametrize("urls", ["", " ", " , "])
def test_without_an_address_nobody_is_told(urls: str) -> None:
    assert names(urls) == []


@pytest.mark.parametrize(
    ("urls", "number"),
    [
        ("s3cr3t", 1),
        ("s3cr3t json://a", 1),
        ("json://a s3cr3t", 1),
        ("json://a, nosuch://s3cr3t", 2),
        ("json://a, slack://s3cr3t", 2),
        ("json://", 1),
    ],
)
def test_a_wrong_address_is_refused_without_repeating_it(urls: str, number: int, written: StringIO) -> None:
    with pytest.raises(SettingsError) as raised:
        names(urls)
    line = str(raised.value)
    assert line.startswith(f"KEYWAY_ALERT_URLS: number {number} is not an address that apprise knows")
    assert "\n" not in line
    assert "s3cr3t" not in line + written.getvalue()
    assert raised.value.__cause__ is None


async def test_a_target_that_can_not_be_reached_says_so_without_its_address(written: StringIO) -> None:
    (target,) = alert_targets(SecretStr("json://user:s3cr3t@127.0.0.1:1/s3cr3t"))
    assert await target.send("title", "body", "info") == "it refuses, or can't be reached"
    assert "s3cr3t" not in written.getvalue()
