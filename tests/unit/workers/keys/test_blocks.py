"""Blocks: what is reserved ahead is a small part of a key's room, and is given back after a moment."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tests.builders import NOW, make_key
from workers.keys.blocks import BLOCK_S, MOST, PART, Block, Blocks, Demand, calls_ahead
from workers.keys.key import Key, Limits, WindowEntry
from workers.keys.limits import CIRCUIT_FAILURES
from workers.keys.reported import Reported
from workers.keys.selection import Ask

MODEL = "gpt-4o-mini"
KEY = make_key()


def block(**changes: Any) -> Block:
    return replace(Block(KEY, "worker-1", int(NOW), MODEL, 3, 300, NOW + BLOCK_S, 0.0), **changes)


def ask(tokens: int = 100, **changes: Any) -> Ask:
    return replace(Ask(MODEL, tokens, deadline=NOW + 60), **changes)


@pytest.mark.parametrize(
    ("key", "calls"),
    [
        (make_key(), MOST),
        (make_key(limits=Limits(requests_per_minute=10 * PART)), 10),
        (make_key(limits=Limits(requests_per_minute=PART - 1)), 0),
        (
            make_key(
                limits=Limits(requests_per_minute=3 * PART),
                window=(WindowEntry(int(NOW), 2 * PART, 0, MODEL),),
            ),
            1,
        ),
        (make_key(limits=Limits(tokens_per_minute=100 * 5 * PART)), 5),
        (make_key(limits=Limits(tokens_per_day=100 * 4 * PART)), 4),
        (make_key(limits=Limits(max_in_flight=PART - 1)), 0),
        (make_key(failures_in_a_row=CIRCUIT_FAILURES), 0),
        (make_key(ramp_since=NOW - 1), 0),
        (make_key(reported={MODEL: Reported(2 * PART, None, until=NOW + 60)}), 2),
        (make_key(reported={MODEL: Reported(None, 100 * PART, until=NOW + 60)}), 1),
    ],
)
def test_a_block_is_a_small_part_of_what_its_key_has_room_for(key: Key, calls: int) -> None:
    assert calls_ahead(key, MODEL, 100, 1000, NOW) == calls


@pytest.mark.parametrize(("expected", "calls"), [(-3, 0), (0, 0), (7, 7), (1000, MOST)])
def test_a_block_is_no_larger_than_what_is_expected(expected: int, calls: int) -> None:
    assert calls_ahead(KEY, MODEL, 100, expected, NOW) == calls


def test_what_is_expected_is_what_came_in_the_last_stretch_of_time() -> None:
    demand = Demand()
    for number in range(5):
        demand.note(MODEL, NOW + number * BLOCK_S / 10)
    demand.note("other", NOW)
    assert demand.expected(MODEL, NOW + BLOCK_S / 2) == 5
    assert demand.expected(MODEL, NOW + BLOCK_S) == 5
    demand.note(MODEL, NOW + BLOCK_S)
    assert demand.expected(MODEL, NOW + BLOCK_S * 1.5) == 5
    assert demand.expected(MODEL, NOW + BLOCK_S * 2) == 1
    assert demand.expected(MODEL, NOW + BLOCK_S * 9) == 0
    assert demand.expected("other", NOW + BLOCK_S * 9) == 0


def test_a_call_takes_its_own_tokens_of_a_block() -> None:
    some = block()
    assert [some.take(ask(120), NOW), some.take(ask(150), NOW)] == [120, 150]
    assert (some.calls, some.tokens) == (1, 30)
    assert some.take(ask(31), NOW) is None
    assert some.take(ask(30), NOW) == 30
    assert some.take(ask(0), NOW) is None


@pytest.mark.parametrize("of", [ask(avoid=frozenset({KEY.id})), ask(deadline=NOW), ask(301)])
def test_a_block_does_not_serve_who_failed_on_its_key_or_is_late_or_too_large(of: Ask) -> None:
    some = block()
    assert some.take(of, NOW) is None
    assert (some.calls, some.tokens) == (3, 300)


@pytest.mark.parametrize(
    "key",
    [
        make_key(status="disabled"),
        make_key(status="error"),
        make_key(cooled_until=NOW + 1),
        make_key(denied_models={MODEL: NOW + 1}),
    ],
)
async def test_a_block_ends_with_its_key(key: Key) -> None:
    given_back: list[Block] = []
    some = Blocks(given_back.append)
    begun = block()
    some.begin(begun, NOW)
    assert some.take(ask(), {key.id: key}, NOW) is None
    assert some.take(ask(), {key.id: KEY}, NOW) is None
    assert given_back == [begun]


async def test_a_block_ends_where_its_key_is_gone_or_its_time_is_over() -> None:
    given_back: list[Block] = []
    some = Blocks(given_back.append)
    some.begin(block(), NOW)
    assert some.take(ask(), {}, NOW) is None
    some.begin(block(), NOW)
    assert some.take(ask(), {KEY.id: KEY}, NOW + BLOCK_S) is None
    assert len(given_back) == 2


async def test_what_is_left_is_given_back_once() -> None:
    given_back: asyncio.Queue[Block] = asyncio.Queue()
    some = Blocks(given_back.put_nowait)
    some.begin(block(), NOW + BLOCK_S - 0.01)
    assert some.take(ask(), {KEY.id: KEY}, NOW) is not None
    assert some.calls == 2
    left = await given_back.get()
    assert (left.calls, left.tokens) == (2, 200)
    some.end_all()
    some.end(left)
    assert (given_back.qsize(), some.calls) == (0, 0)


async def test_a_block_whose_answer_came_after_its_time_is_given_back_at_once() -> None:
    given_back: asyncio.Queue[Block] = asyncio.Queue()
    some = Blocks(given_back.put_nowait)
    some.begin(block(), NOW + 5)
    assert some.take(ask(), {KEY.id: KEY}, NOW + 5) is None
    assert (await given_back.get()).calls == 3


async def test_tokens_that_the_last_call_leaves_are_given_back() -> None:
    given_back: list[Block] = []
    some = Blocks(given_back.append)
    some.begin(block(calls=1), NOW)
    assert some.take(ask(), {KEY.id: KEY}, NOW) is not None
    assert [(left.calls, left.tokens) for left in given_back] == [(0, 200)]


async def test_nothing_is_reserved_ahead_while_some_is_left_or_only_what_is_asked_for_is_needed() -> None:
    some = Blocks(lambda _: None)
    some.note(ask(), NOW)
    assert some.wanted(KEY, MODEL, [100], NOW) == []
    for _ in range(4):
        some.note(ask(), NOW)
    assert some.wanted(KEY, MODEL, [100, 51], NOW) == [76] * 3
    some.begin(block(), NOW)
    assert some.wanted(KEY, MODEL, [100], NOW) == []
    assert some.wanted(KEY, "other", [100], NOW) == []
    some.end_all()
