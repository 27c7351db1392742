"""`keyway dead`: dead letters are looked at, done again or dropped, and none is lost on the way."""

import asyncio
import json
import secrets
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aio_pika import Message
from aio_pika.abc import AbstractIncomingMessage
from typer.testing import CliRunner

from contracts import names
from infra import dead_letter_queue
from infra.dead_letter_facts import Wanted
from infra.errors import BrokerError
from tests.collector import BODY, Collector
from tests.harness import World, eventually
from workers.cli.main import app
from workers.console.dead_letters import DeadLetterDesk
from workers.console.pages.dead_letters import news


async def bury(
    world: World,
    bot: str,
    request_id: str,
    reason: str = "internal: by a test",
    body: bytes = BODY,
    **more: Any,
) -> None:
    """Put a dead letter of an automation into the queue, as a worker does."""
    async with world.connection.channel() as channel:
        dead = await channel.get_exchange(names.DEAD_EXCHANGE, ensure=False)
        message = Message(
            body, message_id=request_id, headers={names.REASON_HEADER: reason}, delivery_mode=2, **more
        )
        await dead.publish(message, bot)


async def waiting(world: World, queue_name: str) -> int:
    async with world.connection.channel() as channel:
        queue = await channel.declare_queue(queue_name, passive=True)
        return queue.declaration_result.message_count or 0


@asynccontextmanager
async def looking(world: World) -> AsyncIterator[None]:
    """Wait at the end for what a reader held: RabbitMQ gives it back a moment after its end."""
    total = await waiting(world, names.DEAD_QUEUE)
    yield

    async def are_back() -> bool:
        return await waiting(world, names.DEAD_QUEUE) >= total

    await eventually(are_back, "all letters in their queue")


async def letters(world: World, bot: str, *arguments: str) -> list[dict[str, Any]]:
    """What `keyway dead list` says of an automation's letters."""
    async with looking(world):
        status, stdout, stderr = await world.cli("dead", "list", "--automation", bot, "--json", *arguments)
    assert status == 0, stderr
    listed: list[dict[str, Any]] = json.loads(stdout)
    return listed


async def listed(world: World, bot: str, count: int) -> list[dict[str, Any]]:
    """The automation's letters, once there are so many: what another reader held takes a moment."""
    found: list[dict[str, Any]] = []

    async def there() -> bool:
        found[:] = await letters(world, bot)
        return len(found) == count

    await eventually(there, f"{count} dead letters of {bot}")
    return found


async def message_ids(world: World, queue_name: str) -> list[str | None]:
    """Take all messages out of a queue; their ids, in order."""
    found = []
    async with world.connection.channel() as channel:
        queue = await channel.get_queue(queue_name, ensure=False)
        while (message := await queue.get(fail=False, no_ack=True)) is not None:
            found.append(message.message_id)
    return found


async def test_a_refused_request_is_listed_with_its_reason_and_stays(shared: World) -> None:
    bot = await shared.add_automation()
    async with Collector(shared, bot) as collector:
        await collector.ask("bad-1", b'{"path": "/nowhere", "body": {}}', correlation_id="c-9")
        assert (await collector.answer()).status == "failed"
    (letter,) = await listed(shared, bot, 1)
    assert letter["request_id"] == "bad-1"
    assert letter["type"] == "generation.request.v1"
    assert letter["reason"].startswith("invalid_request: path: Input should be")
    assert await listed(shared, bot, 1) == [letter]
    status, stdout, _ = await shared.cli("dead", "list", "--automation", bot, COLUMNS="200")
    assert status == 0
    assert letter["id"] in stdout
    assert "bad-1" in stdout
    status, stdout, _ = await shared.cli("dead", "show", letter["id"])
    assert status == 0
    assert "c-9" in stdout
    assert '"path": "/nowhere"' in stdout


async def test_filters_tell_letters_apart_and_the_oldest_come_first(shared: World) -> None:
    bot = await shared.add_automation()
    for number in range(4):
        await bury(shared, bot, f"r-{number}", reason=f"internal: [bold]Case {number}")
    assert [letter["request_id"] for letter in await listed(shared, bot, 4)] == ["r-0", "r-1", "r-2", "r-3"]
    (third,) = await letters(shared, bot, "--reason", "case 3")
    assert third["reason"] == "internal: [bold]Case 3"
    (second,) = await letters(shared, bot, "--request-id", "r-2")
    assert second["request_id"] == "r-2"
    assert [letter["request_id"] for letter in await letters(shared, bot, "--limit", "2")] == ["r-0", "r-1"]
    assert await letters(shared, bot, "--reason", "something else") == []
    _, stdout, stderr = await shared.cli("dead", "list", "--automation", bot, "--reason", "something else")
    assert stdout == ""
    assert stderr == "No dead letter matches.\n"


async def test_a_letter_says_all_it_has_whatever_its_body_is(shared: World) -> None:
    bot = await shared.add_automation()
    await bury(shared, bot, "json")
    await bury(shared, bot, "text", body=b"not \x1b[31mJSON")
    await bury(shared, bot, "bytes", body=b"\xff\x00")
    await listed(shared, bot, 3)
    status, stdout, _ = await shared.cli("dead", "show", "--automation", bot, "--json")
    assert status == 0
    of_json, of_text, of_bytes = json.loads(stdout)
    assert of_json["body"] == json.loads(BODY)
    assert of_json["headers"][names.REASON_HEADER] == "internal: by a test"
    assert of_text["body_text"] == "not \x1b[31mJSON"
    assert of_bytes["body_base64"] == "/wA="
    _, stdout, stderr = await shared.cli("dead", "show", of_text["id"], of_bytes["id"])
    assert "\x1b" not in stdout
    assert "not UTF-8" in stderr


async def test_a_request_that_failed_is_done_anew_and_not_answered_with_its_failure(shared: World) -> None:
    bot = await shared.add_automation()
    async with Collector(shared, bot) as collector:
        await collector.ask("r-1")
        first = await collector.answer()
        assert first.error is not None
        assert first.error.code == "no_keys"
        over = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
        body = json.dumps({**json.loads(BODY), "deadline": over}).encode()
        await bury(shared, bot, "r-1", body=body, reply_to=collector.queue)
        await bury(shared, bot, "other", reason="left alone")
        (letter, _) = await listed(shared, bot, 2)
        await shared.add_key(bot, "Primary")
        status, _, stderr = await shared.cli("dead", "replay", letter["id"])
        assert status == 0, stderr
        assert "Replayed 1 dead letter." in stderr
        answer = await collector.answer()
    assert answer.status == "succeeded"
    assert not answer.replayed
    assert [left["request_id"] for left in await listed(shared, bot, 1)] == ["other"]


async def test_a_letter_with_an_id_of_another_request_is_refused_again_and_changes_no_answer(
    shared: World,
) -> None:
    bot = await shared.add_automation()
    other = json.dumps({"path": "/moderations", "body": {"input": "another"}}).encode()
    async with Collector(shared, bot) as collector:
        await collector.ask("r-1")
        first = await collector.answer()
        assert first.error is not None
        assert first.error.code == "no_keys"
        await collector.ask("r-1", other)
        refused = await collector.answer()
        await shared.add_key(bot, "Primary")
        (letter,) = await listed(shared, bot, 1)
        status, _, stderr = await shared.cli("dead", "replay", letter["id"])
        assert status == 0, stderr
        again = await collector.answer()
        await collector.ask("r-1")
        repeat = await collector.answer()
    assert refused.error is not None
    assert refused.error.code == "invalid_request"
    assert again.error == refused.error
    assert (repeat.error, repeat.replayed) == (first.error, True)
    (left,) = await listed(shared, bot, 1)
    assert left["reason"] == letter["reason"]
    assert await shared.journal(bot) == []


async def test_a_request_that_the_journal_has_forgotten_is_booked_beside_its_first_calls(
    shared: World,
) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    async with Collector(shared, bot) as collector:
        await collector.ask("r-1")
        assert (await collector.answer()).status == "succeeded"
        await shared.accounted(bot, 1)
        await shared.mongo.requests.delete_one({"_id": f"{bot}/r-1"})
        await bury(shared, bot, "r-1", reply_to=collector.queue)
        await listed(shared, bot, 1)
        status, _, stderr = await shared.cli("dead", "replay", "--automation", bot)
        assert status == 0, stderr
        assert (await collector.answer()).status == "succeeded"
    await shared.accounted(bot, 2)
    await shared.assert_books_equal_journal(bot)


async def test_an_event_goes_back_to_accounting(shared: World) -> None:
    bot = await shared.add_automation()
    body = b'{"request_id": "r-7", "event_id": 1}'
    await bury(shared, f"usage.recorded.{bot}", "e-1", body=body, type=names.USAGE_RECORDED)
    (letter,) = await listed(shared, bot, 1)
    assert letter["request_id"] == "r-7"
    status, _, stderr = await shared.cli("dead", "replay", letter["id"])
    assert status == 0, stderr
    refused_again: list[dict[str, Any]] = []

    async def there() -> bool:
        refused_again[:] = await letters(shared, bot, "--reason", "event_id: Input should be a valid string")
        return len(refused_again) == 1

    await eventually(there, "accounting's own refusal")
    status, stdout, _ = await shared.cli("dead", "show", refused_again[0]["id"], "--json")
    assert json.loads(stdout)[0]["headers"][names.REASON_HEADER].startswith("event_id:")


async def test_what_no_queue_takes_is_kept_and_named(shared: World) -> None:
    bot = f"gone-{secrets.token_hex(4)}"
    await bury(shared, bot, "r-1")
    (letter,) = await listed(shared, bot, 1)
    status, _, stderr = await shared.cli("dead", "replay", "--automation", bot, COLUMNS="200")
    assert status == 1
    assert f"{letter['id']}: kept: no queue takes {bot} from requests" in stderr
    assert "Replayed 0 dead letters." in stderr
    assert await listed(shared, bot, 1) == [letter]


async def test_a_replay_that_is_killed_loses_nothing(world: World) -> None:
    bot = await world.add_automation()
    lane = names.lane_queue(bot)
    buried = [f"r-{number:05}" for number in range(3000)]
    async with world.connection.channel() as channel:
        dead = await channel.get_exchange(names.DEAD_EXCHANGE, ensure=False)
        headers = {names.REASON_HEADER: "internal: by a test"}
        await asyncio.gather(
            *(
                dead.publish(Message(BODY, message_id=name, headers=dict(headers), delivery_mode=2), bot)
                for name in buried
            )
        )
    arguments = (sys.executable, "-m", "workers.cli.main", "dead", "replay", "--automation", bot)
    async with world.connection.channel() as channel:
        await channel.set_qos(prefetch_count=1)
        replayed_lane = await channel.get_queue(lane, ensure=False)
        process = await asyncio.create_subprocess_exec(*arguments, env=world.environment, cwd=world.folder)

        async def kill_it(_: AbstractIncomingMessage) -> None:
            if process.returncode is None:
                process.kill()

        await replayed_lane.consume(kill_it)
        assert await process.wait() == -9

    async def is_handed_back() -> bool:
        return await waiting(world, names.DEAD_QUEUE) + await waiting(world, lane) >= len(buried)

    await eventually(is_handed_back, "all letters in one of the two queues")
    left, begun = await waiting(world, names.DEAD_QUEUE), await waiting(world, lane)
    assert 0 < left <= len(buried), "killed in the middle; what it had not acknowledged is in both"
    assert begun > 0
    oldest = [letter["request_id"] for letter in await letters(world, bot, "--limit", "3000")]
    assert oldest == sorted(oldest)
    assert len(oldest) >= left
    replayed: list[str | None] = []

    async def are_all_replayed() -> bool:
        # What a reader held comes back a moment after its end: then it is left to the next look.
        status, _, stderr = await world.cli("dead", "replay", "--all")
        assert status == 0, stderr
        replayed.extend(await message_ids(world, lane))
        return set(replayed) == set(buried) and await waiting(world, names.DEAD_QUEUE) == 0

    await eventually(are_all_replayed, "every letter in its lane")
    assert max(Counter(replayed).values()) <= 2, "once by who was killed, once by who came after"


async def test_reading_a_long_queue_leaves_it_in_order(world: World) -> None:
    for number in range(130):
        await bury(world, "bot", f"r-{number:03}")
    for _ in range(2):
        found = await letters(world, "bot", "--limit", "1000")
        assert [letter["request_id"] for letter in found] == [f"r-{number:03}" for number in range(130)]


async def test_a_reading_that_gets_fewer_letters_than_were_counted_says_how_many(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, more = dead_letter_queue.SMALLEST_PAGE, 10
    for number in range(page + more):
        await bury(world, "bot", f"r-{number:03}")
    async with dead_letter_queue.dead_letter_queue(world.settings) as queue:
        steps = queue.find(Wanted())
        assert (await anext(steps)).seen == page
        async with world.connection.channel() as channel:
            elsewhere = await channel.get_queue(names.DEAD_QUEUE, ensure=False)
            for _ in range(more):
                assert await elsewhere.get()
            monkeypatch.setattr(dead_letter_queue, "IDLE_S", 0.1)
            assert [step async for step in steps] == []
        assert str(queue.incomplete).startswith(f"RabbitMQ delivered {page} of {page + more} dead letters")
    monkeypatch.undo()
    assert len(await listed(world, "bot", page + more)) == page + more, "none was lost"


async def test_who_reads_dead_letters_never_takes_a_part_for_the_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "RabbitMQ delivered 0 of 2 dead letters"
    monkeypatch.setattr(dead_letter_queue, "IDLE_S", 0.1)
    async with world.connection.channel() as channel:
        # RabbitMQ counts its letters for everybody, and delivers them to its one active consumer only.
        await channel.queue_delete(names.DEAD_QUEUE)
        arguments = {"x-queue-type": "quorum", "x-single-active-consumer": True}
        queue = await channel.declare_queue(names.DEAD_QUEUE, durable=True, arguments=arguments)
        await queue.bind(names.DEAD_EXCHANGE, "#")
        await channel.set_qos(1)
        held: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        await queue.consume(held.put)
        for number in range(3):
            await bury(world, "bot", f"r-{number}")
        await held.get()

        runner = CliRunner()
        for line in (
            "list",
            "list --json",
            "show --automation bot --json",
            "show 0123456789ab",
            "replay --all",
            "drop --all --yes",
        ):
            result = await asyncio.to_thread(
                runner.invoke, app, ["dead", *line.split()], env=world.environment
            )
            assert isinstance(result.exception, BrokerError), (line, result.output)
            assert str(result.exception).startswith(said), line
            if "--json" in line:
                assert json.loads(result.stdout) == []

        desk = DeadLetterDesk(world.settings, world.mongo)
        listing = await desk.list(Wanted())
        with pytest.raises(BrokerError, match=said):
            listing.check()
        assert news(3, listing.incomplete).startswith(f"3 in the queue. {said}")
        with pytest.raises(BrokerError, match=said):
            await desk.show("0123456789ab")
        assert (await desk.drop(Wanted())).incomplete is not None
        with pytest.raises(BrokerError, match=said):
            await desk.drop(Wanted(frozenset({"0123456789ab"})))
    assert len(await listed(world, "bot", 3)) == 3, "none was lost"


async def test_dropping_takes_what_is_meant_and_nothing_else(shared: World) -> None:
    bot = await shared.add_automation()
    for number in range(3):
        await bury(shared, bot, f"r-{number}", reason=f"case {number % 2}")
    await listed(shared, bot, 3)
    status, _, stderr = await shared.cli("dead", "drop", "--automation", bot, "--reason", "case 0")
    assert status == 2
    assert "say --yes" in stderr
    await listed(shared, bot, 3)
    status, _, stderr = await shared.cli("dead", "drop", "--automation", bot, "--reason", "case 0", "--yes")
    assert status == 0
    assert "Dropped 2 dead letters." in stderr
    assert [letter["request_id"] for letter in await listed(shared, bot, 1)] == ["r-1"]


async def test_what_is_asked_wrongly_gets_one_line(shared: World) -> None:
    status, _, stderr = await shared.cli("dead", "replay")
    assert status == 2
    assert "say which" in stderr
    status, _, stderr = await shared.cli("dead", "show", "nonsense", COLUMNS="200")
    assert status == 2
    assert "12 hexadecimal digits" in stderr
    status, _, stderr = await shared.cli("dead", "show", "0123456789ab")
    assert (status, stderr) == (1, "error: no such dead letter: 0123456789ab\n")
    nowhere = {"KEYWAY_AMQP_URL": "amqp://guest:guest@127.0.0.1:1/test"}
    status, stdout, stderr = await shared.cli("dead", "list", "--json", **nowhere)
    assert (status, stdout) == (1, "")
    assert stderr.startswith("error: KEYWAY_AMQP_URL: no connection to RabbitMQ")
    assert len(stderr.splitlines()) == 1
