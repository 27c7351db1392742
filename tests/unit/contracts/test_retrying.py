import asyncio

import pytest

from contracts.retrying import retrying


class Flaky:
    def __init__(self, failures: int, error: type[Exception] = ConnectionError) -> None:
        self.failures, self.error, self.calls = failures, error, 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error(f"failure {self.calls}")
        return "done"


async def test_it_tries_until_it_succeeds_and_notes_each_failure() -> None:
    flaky, noted = Flaky(3), list[str]()
    answer = await retrying(
        flaky, passes=(ConnectionError,), pause_s=0, note=lambda error: noted.append(str(error))
    )
    assert (answer, flaky.calls) == ("done", 4)
    assert noted == ["failure 1", "failure 2", "failure 3"]


async def test_an_error_that_does_not_pass_is_raised_at_once() -> None:
    flaky = Flaky(1, ValueError)
    with pytest.raises(ValueError, match="failure 1"):
        await retrying(flaky, passes=(ConnectionError,), pause_s=0)
    assert flaky.calls == 1


async def test_it_gives_up_after_its_time_with_the_last_error() -> None:
    flaky = Flaky(1_000_000)
    with pytest.raises(ConnectionError):
        await retrying(
            flaky, passes=(ConnectionError,), pause_s=0.001, longest_pause_s=0.001, give_up_after_s=0
        )
    assert flaky.calls == 1


async def test_a_cancellation_that_a_driver_turned_into_an_error_ends_it() -> None:
    async def swallow() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            raise ConnectionError("the driver's own") from error

    task = asyncio.create_task(retrying(swallow, passes=(ConnectionError,), pause_s=0))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(ConnectionError):
        await task
