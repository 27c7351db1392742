"""Nothing is called twice: duplicates, repeats, and what a worker leaves behind when it stops or dies."""

import asyncio
import json
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from contracts.messages import GenerationResult
from infra.mongo import Document
from infra.provision import AUTOMATION_DEFAULTS
from infra.vault import Vault
from tests.collector import BODY, Collector
from tests.harness import World, eventually
from workers.generation.journal import Asked, Call, Claim, Differs, Done, Journal, Record, Running


def journal_of(world: World, worker_id: str, *, now: Callable[[], float] = time.time) -> Journal:
    return Journal(world.mongo, Vault(world.settings.master_keys), worker_id, result_ttl_s=60, now=now)


def asked(request_id: str, *, deadline: float = 0.0, digest: bytes = b"first") -> Asked:
    return Asked("bot", request_id, deadline, digest)


async def test_a_repeated_request_is_answered_from_the_journal_without_a_second_call(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    async with Collector(shared, bot) as collector:
        await collector.ask("same")
        await collector.have(1)
        await collector.ask("same")
        await collector.have(2)
    first, second = collector.answers
    assert (first.replayed, second.replayed) == (False, True)
    assert first.model_dump(exclude={"replayed"}) == second.model_dump(exclude={"replayed"})
    assert len(await shared.journal(bot)) == 1
    assert len(await shared.accounted(bot, 1)) == 1


async def test_an_id_that_is_used_again_after_its_result_has_expired_is_called_and_booked_again(
    shared: World,
) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    async with Collector(shared, bot) as collector:
        for count in (1, 2):
            await collector.ask("daily-report")
            await collector.have(count)
            await shared.accounted(bot, count)
            # What its time to live does.
            await shared.mongo.requests.delete_one({"automation_id": bot})
    assert [answer.replayed for answer in collector.answers] == [False, False]
    assert len(await shared.journal(bot)) == 2
    await shared.assert_books_equal_journal(bot)


async def test_duplicates_that_arrive_together_call_the_provider_once(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", {"latency_ms": 500})
    async with Collector(shared, bot) as collector:
        await asyncio.gather(*(collector.ask("same") for _ in range(6)))
        await collector.have(6)
    assert [answer.replayed for answer in collector.answers].count(False) == 1
    assert len(await shared.journal(bot)) == 1


async def test_the_same_id_of_two_automations_is_two_requests(shared: World) -> None:
    for bot in [await shared.add_automation() for _ in range(2)]:
        await shared.add_key(bot, "Primary")
        async with Collector(shared, bot) as collector:
            await collector.ask("same")
            await collector.have(1)
        assert collector.answers[0].automation_id == bot
        assert len(await shared.journal(bot)) == 1


async def test_a_request_that_is_left_after_a_call_keeps_counting_its_runs(shared: World) -> None:
    # Attempts are numbered by runs: were the count to start anew, the books would take two calls for one.
    journal = journal_of(shared, "worker-1")
    runs = []
    for begun in (False, True, False, False):
        claim = await journal.claim(asked("left-again-and-again"))
        assert isinstance(claim, Claim)
        runs.append(claim.run)
        await journal.abandon(claim, begun=begun)
    assert runs == [0, 0, 1, 2]


@pytest.mark.parametrize("lost", [True, False])
async def test_a_claim_that_mongodb_has_lost_keeps_its_result_all_the_same(shared: World, lost: bool) -> None:
    mine = journal_of(shared, "worker-1")
    claim = await mine.claim(asked(f"lost-{lost}"))
    assert isinstance(claim, Claim)
    if lost:
        await shared.mongo.requests.delete_one({"_id": claim.id})
    assert await mine.begin(claim, Call(1, "key-1", "Primary", 10, 5))
    if lost:
        await shared.mongo.requests.delete_one({"_id": claim.id})
    record = Record(claim, "succeeded", b"{}", [])
    assert await mine.record(record)
    # Written once more, since its confirmation was lost, it is mine still.
    assert await mine.record(record)
    done = await mine.claim(asked(f"lost-{lost}"))
    assert isinstance(done, Done)
    assert done.result == b"{}"


async def test_a_claim_that_was_taken_over_is_neither_called_for_nor_kept(shared: World) -> None:
    silent = journal_of(shared, "silent")
    other = journal_of(shared, "other")
    lost = await silent.claim(asked("taken"), Call(1, "key-1", "Primary", 10, 5))
    taken = await other.claim(asked("taken"))
    assert isinstance(lost, Claim)
    assert isinstance(taken, Claim)
    assert (taken.run, taken.crashes, taken.unknown) == (1, 1, Call(1, "key-1", "Primary", 10, 5))
    assert not await silent.begin(lost, Call(2, "key-1", "Primary", 10, 5))
    assert not await silent.record(Record(lost, "succeeded", b"late", []))
    assert await other.begin(taken, Call(101, "key-1", "Primary", 10, 5))
    assert await other.record(Record(taken, "succeeded", b"{}", []))


@pytest.mark.parametrize("was_left", [False, True])
async def test_a_second_delivery_takes_nothing_over_while_the_first_hears_of_its_claim(
    shared: World, monkeypatch: pytest.MonkeyPatch, was_left: bool
) -> None:
    journal, wanted = journal_of(shared, "worker-1"), asked(f"two-copies-{was_left}")
    if was_left:
        left = await journal.claim(wanted)
        assert isinstance(left, Claim)
        await journal.abandon(left, begun=True)
    take = journal._take
    is_written, may_hear = asyncio.Event(), asyncio.Event()

    async def taken_late(claim: Claim, call: Call | None) -> Claim | Done | Differs | Running:
        taken = await take(claim, call)
        is_written.set()
        await may_hear.wait()
        return taken

    monkeypatch.setattr(journal, "_take", taken_late)
    first = asyncio.create_task(journal.claim(wanted))
    await is_written.wait()
    monkeypatch.setattr(journal, "_take", take)
    assert isinstance(await journal.claim(wanted), Running)
    assert isinstance(await journal.claim(asked(wanted.request_id, digest=b"other")), Differs)
    may_hear.set()
    mine = await first
    assert isinstance(mine, Claim)
    assert await journal.begin(mine, Call(1, "key-1", "Primary", 10, 5))
    assert await journal.record(Record(mine, "succeeded", b"{}", []))
    assert isinstance(await journal.claim(wanted), Done)


@pytest.mark.parametrize("begun", [False, True])
async def test_a_second_delivery_counts_no_death_while_the_first_leaves_the_request(
    shared: World, begun: bool
) -> None:
    journal, wanted = journal_of(shared, "worker-1"), asked(f"leaving-{begun}")
    left = await journal.claim(wanted)
    assert isinstance(left, Claim)
    leaving = asyncio.create_task(journal.abandon(left, begun=begun))
    await asyncio.sleep(0)
    assert isinstance(await journal.claim(wanted), Running)
    await leaving
    taken = await journal.claim(wanted)
    assert isinstance(taken, Claim)
    assert (taken.run, taken.crashes) == (int(begun), 0)


async def test_a_stored_result_is_encrypted_and_expires(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    async with Collector(shared, bot) as collector:
        await collector.ask("stored")
        await collector.have(1)
    document = await shared.mongo.requests.find_one({"automation_id": bot})
    assert document is not None
    assert document["status"] == "succeeded"
    assert b"flagged" not in document["result"]["ciphertext"]
    kept_s = (document["expires_at"] - document["finished_at"]).total_seconds()
    # It is kept for its time to live after the request's deadline, too.
    assert 0 <= kept_s - shared.settings.result_ttl_s <= AUTOMATION_DEFAULTS["deadline_s"]


async def test_a_result_is_kept_for_its_time_to_live_after_the_requests_deadline(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    deadline = datetime.now(UTC) + timedelta(hours=20)
    body = json.dumps({**json.loads(BODY), "deadline": deadline.isoformat()}).encode()
    async with Collector(shared, bot) as collector:
        await collector.ask("for-tomorrow", body)
        await collector.have(1)
    document = await shared.mongo.requests.find_one({"automation_id": bot})
    assert document is not None
    kept_s = (document["expires_at"] - deadline).total_seconds()
    assert kept_s == pytest.approx(shared.settings.result_ttl_s, abs=0.01)


async def expire(world: World) -> None:
    """Do what MongoDB's time to live does, once a minute."""
    (now,) = [found["now"] async for found in world.mongo.workers.aggregate([{"$set": {"now": "$$NOW"}}])]
    await world.mongo.requests.delete_many({"expires_at": {"$lte": now}})


async def test_a_worker_whose_clock_is_slow_does_not_call_again_for_a_repeat(world: World) -> None:
    bot = await world.add_automation()
    await world.add_key(bot, "Primary")
    await world.start_worker(clock_offset_s=-70 * 60)
    async with Collector(world, bot) as collector:
        for count in (1, 2):
            await collector.ask("same")
            await collector.have(count)
            await expire(world)
    assert [answer.replayed for answer in collector.answers] == [False, True]
    assert len(await world.journal(bot)) == 1


async def test_another_request_with_the_same_id_is_invalid_and_leaves_the_first_as_it_is(
    shared: World,
) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    said = json.loads(BODY)
    others = [
        {**said, "body": {**said["body"], "input": "something else"}},
        {"path": "/embeddings", "body": said["body"]},
    ]
    reordered = {"user_id": "u-1", "body": dict(reversed(said["body"].items())), "path": said["path"]}

    async def kept() -> Document | None:
        found: Document | None = await shared.mongo.requests.find_one({"automation_id": bot})
        return found

    async with Collector(shared, bot) as collector:
        await collector.ask("same")
        first = await collector.answer()
        before = await kept()
        for other in others:
            await collector.ask("same", json.dumps(other).encode())
            answer = await collector.answer()
            assert answer.error is not None
            assert (answer.error.code, answer.replayed) == ("invalid_request", False)
            assert "the request id was used before" in answer.error.message
        assert await kept() == before
        await collector.ask("same", json.dumps(reordered).encode())
        repeat = await collector.answer()
    assert repeat == first.model_copy(update={"replayed": True})
    assert len(await shared.journal(bot)) == 1
    _, stdout, _ = await shared.cli("dead", "list", "--automation", bot, "--json")
    reasons = [letter["reason"] for letter in json.loads(stdout)]
    assert len(reasons) == len(others)
    assert all(reason.startswith("invalid_request: the request id was used") for reason in reasons)


async def test_a_claim_of_a_version_that_kept_no_digest_is_taken_for_the_same_request(shared: World) -> None:
    journal = journal_of(shared, "worker-1")
    claim = await journal.claim(asked("older"))
    assert isinstance(claim, Claim)
    assert isinstance(await journal.claim(asked("older", digest=b"second")), Differs)
    await shared.mongo.requests.update_one({"_id": claim.id}, {"$unset": {"digest": ""}})
    assert await journal.record(Record(claim, "succeeded", b"{}", []))
    assert isinstance(await journal.claim(asked("older", digest=b"second")), Done)


async def test_a_reply_queue_that_is_gone_blocks_nothing_and_the_result_stays_collectable(
    shared: World,
) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", {"latency_ms": 300})
    gone = Collector(shared, bot)
    async with gone:
        await gone.ask("unheard")
    async with Collector(shared, bot) as collector:
        await collector.ask("heard")
        await collector.have(1)

        async def is_kept() -> bool:
            status, _, _ = await shared.cli("results", "show", bot, "unheard")
            return status == 0

        await eventually(is_kept, "the result that nobody heard", every_s=0.5)
        status, stdout, _ = await shared.cli("results", "show", bot, "unheard", "--json")
        assert status == 0
        await collector.ask("unheard")
        await collector.have(2)
    kept = GenerationResult.model_validate_json(stdout)
    assert collector.answers[1] == kept
    assert kept.replayed
    assert len(await shared.journal(bot)) == 2
    status, _, stderr = await shared.cli("results", "show", bot, "never-asked")
    assert status == 1
    assert stderr.startswith(f"error: nothing is kept of {bot}/never-asked")


async def test_an_answer_that_is_too_large_to_be_kept_is_delivered_once(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    many = {"model": "text-embedding-3-small", "input": ["x"] * 240, "dimensions": 3072}
    body = json.dumps({"path": "/embeddings", "body": many}).encode()
    async with Collector(shared, bot) as collector:
        await collector.ask("large", body)
        await collector.ask("large", body)
        await collector.have(2)
    first, second = sorted(collector.answers, key=lambda answer: answer.replayed)
    assert first.response is not None
    assert len(first.response["data"]) == 240
    assert second.error is not None
    assert "too large to be kept" in second.error.message
    assert len(await shared.journal(bot)) == 1


async def test_a_stopping_worker_finishes_what_is_in_flight(world: World) -> None:
    bot = await world.add_automation()
    await world.add_key(bot, "Primary", {"held": True})
    await world.start_accounting()
    worker = await world.start_worker()
    async with Collector(world, bot) as collector:
        for number in range(20):
            await collector.ask(f"r-{number}")

        async def all_in_flight() -> bool:
            return await world.simulator.in_flight() == 20

        await eventually(all_in_flight, "20 calls in flight")
        stopping = asyncio.create_task(worker.stop())
        await worker.wait_for("finishing")
        await world.script(bot, "Primary")
        assert await stopping == 0
        await collector.have(20)
    assert {answer.status for answer in collector.answers} == {"succeeded"}
    assert len(await world.journal(bot)) == 20
    await world.assert_books_equal_journal(bot)
    assert "worker_stopped" in worker.log.read_text()


async def test_requests_of_a_killed_worker_are_taken_over_and_each_is_answered_once(world: World) -> None:
    bot = await world.add_automation()
    await world.add_key(bot, "Primary", {"latency_ms": 300})
    await world.start_accounting()
    doomed = await world.start_worker()
    async with Collector(world, bot) as collector:
        for number in range(30):
            await collector.ask(f"r-{number}")

        async def some_are_done() -> bool:
            return len(await world.journal(bot)) > 0

        await eventually(some_are_done, "the first calls done, and others under way")
        await doomed.stop(signal.SIGKILL)
        await world.silence_workers()
        await world.start_worker()

        async def all_are_answered() -> bool:
            return len({answer.request_id for answer in collector.answers}) == 30

        await eventually(all_are_answered, "an answer to each of the 30")
    fresh = [answer for answer in collector.answers if not answer.replayed]
    assert {answer.request_id for answer in collector.answers} == {f"r-{n}" for n in range(30)}
    assert len({answer.request_id for answer in fresh}) == len(fresh)
    await world.accounted(bot, 30)
    await world.assert_totals_equal_ledger(bot, "key")
