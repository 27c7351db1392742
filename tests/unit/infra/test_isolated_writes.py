"""What can't be written stands alone; what may pass is everybody's."""

from collections.abc import Sequence

from infra.isolated_writes import write_isolated


class Store:
    def __init__(self, bad: set[int], error: Exception) -> None:
        self.bad, self.error = bad, error
        self.tries: list[list[int]] = []

    async def write(self, items: Sequence[int]) -> Sequence[int]:
        self.tries.append(list(items))
        if self.bad & set(items):
            raise self.error
        return [item * 10 for item in items]


async def test_what_can_be_written_is_written_with_one_call() -> None:
    store = Store(set(), OSError())
    assert await write_isolated(store.write, [1, 2, 3]) == [10, 20, 30]
    assert store.tries == [[1, 2, 3]]


async def test_a_batch_is_halved_until_what_cannot_be_written_stands_alone() -> None:
    error = OverflowError()
    store = Store({2}, error)
    assert await write_isolated(store.write, [1, 2, 3, 4]) == [10, error, 30, 40]
    assert store.tries == [[1, 2, 3, 4], [1, 2], [1], [2], [3, 4]]


async def test_an_error_that_may_pass_is_that_of_all_and_nothing_is_halved() -> None:
    error = ConnectionError()
    store = Store({2}, error)
    assert await write_isolated(store.write, [1, 2, 3, 4]) == [error] * 4
    assert len(store.tries) == 1


async def test_a_write_that_does_not_answer_each_item_is_a_defect_and_is_not_repeated() -> None:
    tries = 0

    async def write(_: Sequence[int]) -> Sequence[int]:
        nonlocal tries
        tries += 1
        return [1]

    answers = await write_isolated(write, [1, 2])
    assert [type(answer) for answer in answers] == [ValueError, ValueError]
    assert tries == 1
