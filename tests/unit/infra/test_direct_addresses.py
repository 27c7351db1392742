"""Whose new addresses are looked for, when looks fail."""

import time
from typing import TYPE_CHECKING, cast

import pytest

from infra import direct_addresses
from infra.direct_addresses import DirectAddresses, NotLookedForError

if TYPE_CHECKING:
    from aio_pika.abc import AbstractRobustConnection
    from aiormq import Channel


class Looking(DirectAddresses):
    """Knows by an address's name what RabbitMQ says of it."""

    def __init__(self) -> None:
        super().__init__(cast("AbstractRobustConnection", None))
        self.looked: list[str] = []
        self.is_away = False

    async def _opened(self) -> "Channel":
        if self.is_away:
            self.is_away = False
            raise ConnectionError
        return cast("Channel", None)

    async def _declared(self, channel: "Channel", address: str) -> bool:  # noqa: ARG002  # as the class has it
        self.looked.append(address)
        if address.startswith("forged"):
            raise ConnectionError
        return True


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_addresses, "NOTICED_S", 0)


async def test_an_automation_whose_look_failed_waits_and_others_do_not() -> None:
    addresses = Looking()
    assert await addresses.is_there("before", "noisy")
    with pytest.raises(ConnectionError):
        await addresses.is_there("forged", "noisy")
    with pytest.raises(NotLookedForError):
        await addresses.is_there("new", "noisy")
    assert await addresses.is_there("other", "ordinary")
    assert await addresses.is_there("before", "noisy"), "a proved address is looked for all the same"
    assert addresses.looked == ["before", "forged", "other", "before"]


async def test_an_address_that_failed_twice_is_not_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_addresses, "FIRST_PAUSE_S", 0)
    addresses = Looking()
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await addresses.is_there("forged", "noisy")
    assert not await addresses.is_there("forged", "noisy")
    assert addresses.looked == ["forged", "forged"]


async def test_the_more_addresses_are_made_up_the_longer_is_the_wait() -> None:
    addresses = Looking()
    waits = []
    for number in range(8):
        addresses._note_failure(f"forged-{number}", "noisy")
        waits.append(round(addresses._pauses["noisy"].until - time.monotonic()))
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


async def test_one_address_that_fails_again_makes_the_wait_no_longer() -> None:
    addresses = Looking()
    for _ in range(5):
        addresses._note_failure("forged", "noisy")
    assert round(addresses._pauses["noisy"].until - time.monotonic()) == 1


async def test_a_connection_that_another_has_cost_is_waited_for_and_nobody_elses_failure() -> None:
    addresses = Looking()
    addresses.is_away = True
    assert await addresses.is_there("new", "ordinary")
    assert await addresses.is_there("newer", "ordinary")
