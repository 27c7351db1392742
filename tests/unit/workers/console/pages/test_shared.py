"""One read for all pages that ask while it is fresh."""

import asyncio

import pytest

from workers.console.pages.shared import Shared


class Source:
    def __init__(self) -> None:
        self.reads = 0

    async def __call__(self) -> int:
        self.reads += 1
        await asyncio.sleep(0)
        return self.reads


async def test_many_who_ask_at_once_are_told_by_one_read() -> None:
    source = Source()
    shared = Shared(source, fresh_s=60)
    assert await asyncio.gather(*(shared() for _ in range(20))) == [1] * 20
    assert source.reads == 1


async def test_after_a_change_it_is_read_anew() -> None:
    shared = Shared(Source(), fresh_s=60)
    assert await shared() == 1
    shared.forget()
    assert await shared() == 2


async def test_what_fails_is_told_and_read_again() -> None:
    fails = True

    async def read() -> str:
        if fails:
            raise OSError
        return "there"

    shared = Shared(read, fresh_s=60)
    with pytest.raises(OSError):  # noqa: PT011  # it has no text
        await shared()
    fails = False
    assert await shared() == "there"
