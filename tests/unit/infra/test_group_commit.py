"""Group commit: a lone item is written at once, and what comes meanwhile is written together."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.group_commit import BUSY, GroupCommit


class Store:
    """Writes as long as the test wants, and remembers what came together."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.writing = 0
        self.open = asyncio.Event()
        self.failing: set[int] = set()

    async def write(self, items: Sequence[int]) -> Sequence[int]:
        assert not self.writing, "two writes at a time"
        self.batches.append(list(items))
        self.writing += 1
        try:
            await self.open.wait()
        finally:
            self.writing -= 1
        if self.failing & set(items):
            raise OSError(f"batch of {items[0]}")
        return [item * 10 for item in items]


async def turn() -> None:
    """Let every task that can do so take a few steps."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_lone_item_is_written_at_once() -> None:
    store = Store()
    answer = GroupCommit(store.write).submit(1)
    await turn()
    assert store.batches == [[1]]
    assert not answer.done()
    store.open.set()
    assert await answer == 10


async def test_items_that_come_during_a_write_go_together_and_in_order() -> None:
    store = Store()
    commit = GroupCommit(store.write)
    first = commit.submit(1)
    await turn()
    others = [commit.submit(item) for item in (5, 3, 4)]
    await turn()
    assert store.batches == [[1]]
    store.open.set()
    assert await asyncio.gather(first, *others) == [10, 50, 30, 40]
    assert store.batches == [[1], [5, 3, 4]]


async def test_while_many_come_a_write_waits_for_more_until_there_are_enough() -> None:
    store = Store()
    store.open.set()
    commit = GroupCommit(store.write, enough=6, gather_s=3600)
    first = [commit.submit(item) for item in range(BUSY)]
    await asyncio.wait(first)
    second = [commit.submit(item) for item in range(2)]
    await turn()
    assert store.batches == [[0, 1, 2, 3], [0, 1]], (
        "what comes when nothing is being written waits for nothing"
    )
    await asyncio.gather(*second)

    store.open.clear()
    begun = [commit.submit(item) for item in range(BUSY)]
    await turn()
    few = [commit.submit(item) for item in (7, 8)]
    store.open.set()
    await asyncio.wait(begun)
    await turn()
    assert store.batches[2:] == [[0, 1, 2, 3]]
    others = [commit.submit(item) for item in (9, 10, 11, 12)]
    await asyncio.gather(*few, *others)
    assert store.batches[3:] == [[7, 8, 9, 10, 11, 12]]


async def test_no_write_waits_for_more_for_long() -> None:
    store = Store()
    commit = GroupCommit(store.write, enough=6, gather_s=0.01)
    begun = [commit.submit(item) for item in range(BUSY)]
    await turn()
    late = commit.submit(7)
    store.open.set()
    await asyncio.gather(*begun, late)
    assert store.batches == [[0, 1, 2, 3], [7]]


async def test_a_patient_write_waits_for_others_from_the_first_item_on() -> None:
    store = Store()
    store.open.set()
    commit = GroupCommit(store.write, enough=3, patience_s=3600)
    answers = [commit.submit(1)]
    await turn()
    assert store.batches == []
    answers += [commit.submit(2), commit.submit(3)]
    assert await asyncio.gather(*answers) == [10, 20, 30]
    assert store.batches == [[1, 2, 3]]


async def test_an_item_in_a_hurry_takes_along_those_that_wait_and_only_those() -> None:
    store = Store()
    store.open.set()
    commit = GroupCommit(store.write, patience_s=3600)
    waiting = commit.submit(1)
    await turn()
    hurried = commit.submit(2, hurry=True)
    assert [await waiting, await hurried] == [10, 20]
    store.open.clear()
    writing = commit.submit(3, hurry=True)
    await turn()
    hurried = commit.submit(4, hurry=True)
    store.open.set()
    assert [await writing, await hurried] == [30, 40]
    patient = commit.submit(5)
    await turn()
    assert not patient.done()
    await commit.drain()
    assert store.batches == [[1, 2], [3], [4], [5]]


async def test_a_busy_write_gathers_also_what_is_in_a_hurry() -> None:
    store = Store()
    commit = GroupCommit(store.write, enough=3, gather_s=3600, patience_s=3600)
    begun = [commit.submit(item, hurry=True) for item in range(BUSY)]
    await turn()
    hurried = [commit.submit(item, hurry=True) for item in (7, 8)]
    store.open.set()
    await asyncio.wait(begun)
    await turn()
    assert store.batches == [[0, 1, 2, 3]]
    await asyncio.gather(*hurried, commit.submit(9))
    assert store.batches[1:] == [[7, 8, 9]]


async def test_no_batch_is_larger_than_the_largest() -> None:
    store = Store()
    store.open.set()
    commit = GroupCommit(store.write, max_batch=2)
    assert await asyncio.gather(*(commit.submit(item) for item in range(5))) == [0, 10, 20, 30, 40]
    assert store.batches == [[0, 1], [2, 3], [4]]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(), st.booleans()), max_size=30), st.integers(1, 7))
def test_everybody_gets_the_answer_to_their_own_item(items: list[tuple[int, bool]], most: int) -> None:
    async def run() -> None:
        store = Store()
        store.open.set()
        commit = GroupCommit(store.write, max_batch=most)
        answers = []
        for item, pause in items:
            answers.append(commit.submit(item))
            if pause:
                await turn()
        assert [await answer for answer in answers] == [item * 10 for item, _ in items]
        assert [item for batch in store.batches for item in batch] == [item for item, _ in items]
        assert all(0 < len(batch) <= most for batch in store.batches)

    asyncio.run(run())


async def test_a_failure_reaches_all_of_its_batch_and_nobody_else() -> None:
    store = Store()
    store.failing = {3}
    store.open.set()
    commit = GroupCommit(store.write, max_batch=2)
    answers = await asyncio.gather(*(commit.submit(item) for item in range(6)), return_exceptions=True)
    assert store.batches == [[0, 1], [2, 3], [4, 5]]
    assert answers[:2] == [0, 10]
    assert [str(answer) for answer in answers[2:4]] == ["batch of 2"] * 2
    assert answers[4:] == [40, 50]


class Picky:
    """A store that can't hold some items, and says so of the whole batch or of the item alone."""

    def __init__(self, bad: set[int], *, says_which: bool) -> None:
        self.bad, self.says_which = bad, says_which
        self.kept: list[int] = []
        self.writes = 0

    async def write(self, items: Sequence[int]) -> Sequence[int | Exception]:
        self.writes += 1
        refused = {item: OverflowError(f"item {item}") for item in items if item in self.bad}
        if refused and not self.says_which:
            raise next(iter(refused.values()))
        self.kept += [item for item in items if item not in refused]
        return [refused.get(item, item * 10) for item in items]


@settings(max_examples=50)
@given(st.sets(st.integers(0, 19)), st.booleans())
def test_an_item_that_cannot_be_written_fails_alone(bad: set[int], says_which: bool) -> None:
    async def run() -> None:
        store = Picky(bad, says_which=says_which)
        commit = GroupCommit(store.write)
        answers = await asyncio.gather(*map(commit.submit, range(20)), return_exceptions=True)
        assert [str(answer) for answer in answers] == [
            f"item {item}" if item in bad else str(item * 10) for item in range(20)
        ]
        assert store.kept == [item for item in range(20) if item not in bad]
        if says_which:
            assert store.writes == 1

    asyncio.run(run())


async def test_after_a_failure_the_next_item_is_written() -> None:
    store = Store()
    store.failing = {1}
    store.open.set()
    commit = GroupCommit(store.write)
    with pytest.raises(OSError, match="batch of 1"):
        await commit.submit(1)
    assert await commit.submit(2) == 20


@pytest.mark.parametrize("answers", [[], [1], [1, 2, 3]])
async def test_a_write_that_does_not_answer_each_item_fails_all_of_its_batch(answers: list[int]) -> None:
    async def write(_: Sequence[int]) -> Sequence[int]:
        return answers

    commit = GroupCommit(write)
    asked = asyncio.gather(commit.submit(1), commit.submit(2), return_exceptions=True)
    assert [type(answer) for answer in await asked] == [ValueError, ValueError]


async def test_who_no_longer_waits_disturbs_nobody() -> None:
    store = Store()
    commit = GroupCommit(store.write)
    answers = [commit.submit(0)]
    await turn()
    answers += [commit.submit(item) for item in (1, 2, 3)]
    answers[0].cancel()
    answers[2].cancel()
    store.open.set()
    assert await answers[1] == 10
    assert await answers[3] == 30
    assert store.batches == [[0], [1, 2, 3]]


async def test_who_no_longer_waits_for_a_failure_disturbs_nobody() -> None:
    store = Store()
    store.failing = {1}
    store.open.set()
    commit = GroupCommit(store.write)
    gone, there = commit.submit(1), commit.submit(2)
    gone.cancel()
    with pytest.raises(OSError, match="batch of 1"):
        await there


async def test_draining_waits_until_everything_is_written() -> None:
    store = Store()
    commit = GroupCommit(store.write)
    first = commit.submit(1)
    await turn()
    second = commit.submit(2)
    draining = asyncio.create_task(commit.drain())
    await turn()
    assert not draining.done()
    store.open.set()
    await draining
    assert (first.result(), second.result()) == (10, 20)


async def test_draining_what_is_empty_ends_at_once() -> None:
    await GroupCommit(Store().write).drain()
