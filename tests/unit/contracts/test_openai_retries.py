"""A retry of the SDK goes on with the request that was left open, and with no other."""

import asyncio

import pytest

from contracts.openai_retries import left_open, request_id_of


async def test_a_retry_of_a_request_that_was_left_open_has_its_id() -> None:
    first = request_id_of(b"hello", "0")
    left_open(b"hello", first)
    second = request_id_of(b"hello", "1")
    left_open(b"hello", second)
    assert request_id_of(b"hello", "2") == second == first


async def test_a_retry_of_a_request_that_has_ended_is_a_new_one() -> None:
    first = request_id_of(b"hello", "0")
    assert request_id_of(b"hello", "1") != first


@pytest.mark.parametrize(("content", "retry_count"), [(b"other", "1"), (b"hello", "0"), (b"hello", None)])
async def test_what_is_no_retry_of_it_is_a_new_request(content: bytes, retry_count: str | None) -> None:
    left_open(b"hello", "req-1")
    assert request_id_of(content, retry_count) != "req-1"
    assert request_id_of(b"hello", "1") != "req-1"


async def test_another_tasks_request_is_not_gone_on_with() -> None:
    async def fail() -> None:
        left_open(b"hello", "req-1")

    await asyncio.create_task(fail())
    assert request_id_of(b"hello", "1") != "req-1"
