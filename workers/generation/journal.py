"""The journal: who works on a request, and its result for a repeat, so that nothing is called twice.

A claim is unique by (automation, request id). Claims and results are group-committed: a claim with `w: 1`,
since its loss costs a repeated claim at most; a result with `majority`, since the reply follows it.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self

from infra.background_tasks import BackgroundTasks
from infra.bulk_writes import write_all
from infra.group_commit import GroupCommit
from infra.mongo import (
    Collection,
    Document,
    DuplicateKeyError,
    InsertOne,
    Mongo,
    PyMongoError,
    ReturnDocument,
    UpdateOne,
)
from infra.request_digest import digest_of
from infra.stored_results import open_stored, stored_context
from infra.vault import Vault
from workers.generation.reading import Request
from workers.keys.pool import Reservation

#: A claim is kept for so much longer than its result would be: a call takes a while after its deadline.
CLAIM_MARGIN = timedelta(hours=2)
#: A worker that has not been heard of for this long is taken for dead, in seconds.
ALIVE_S = 30
#: How often a worker says that it is alive, in seconds.
PRESENCE_S = 8.0


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, as the journal knows it.

    Attributes:
        automation_id: whose it is.
        request_id: its id.
        deadline: until when it may be called for, in seconds since the epoch.
        digest: of its path and body, by which another request with the same id is told from a repeat.
    """

    automation_id: str
    request_id: str
    deadline: float
    digest: bytes

    @classmethod
    def of(cls, request: Request) -> Self:
        """What the journal knows of a request."""
        envelope = request.envelope
        digest = digest_of(request.path, request.body)
        return cls(envelope.automation_id, envelope.request_id, request.deadline, digest)


@dataclass(frozen=True, slots=True)
class Call:
    """A call to the provider that is about to be made: what the books need, should nobody live to tell.

    Attributes:
        number: of the attempt.
        key_id: with which key.
        key_alias: its name.
        reserved_tokens: how many tokens are reserved for it.
        second: when it was reserved, in seconds since the epoch.
    """

    number: int
    key_id: str
    key_alias: str
    reserved_tokens: int
    second: int

    @classmethod
    def of(cls, reserved: Reservation, number: int) -> Self:
        """The call that a reservation is for."""
        return cls(number, reserved.key.id, reserved.key.alias, reserved.tokens, reserved.second)


@dataclass(frozen=True, slots=True)
class Claim:
    """This worker is to do the request.

    Attributes:
        asked: what it is to do.
        run: how many claims of it came before.
        crashes: how many of those ended with their worker's death.
        unknown: the call of a run before this one of which nobody knows how it ended.
        left_by: whose claim it was before; None where nobody's.
    """

    asked: Asked
    run: int
    crashes: int = 0
    unknown: Call | None = None
    left_by: str | None = None

    @property
    def id(self) -> str:
        """Of the journal's entry."""
        return f"{self.asked.automation_id}/{self.asked.request_id}"


@dataclass(frozen=True, slots=True)
class Done:
    """The request was done; how, its result up to `replayed`, its usage events, its stream's chunks."""

    status: str
    result: bytes
    events: list[bytes]
    chunks: bytes


@dataclass(frozen=True, slots=True)
class Differs:
    """Another request has, or had, the same id: with another path or body."""


@dataclass(frozen=True, slots=True)
class Running:
    """The request is under way, here or in another worker that is alive."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of a request that is done."""

    claim: Claim
    status: str
    result: bytes
    events: list[bytes]
    #: The chunks of a streamed answer, packed; empty where there are none.
    chunks: bytes = b""
    #: What may be told of it without opening the result.
    facts: Document = field(default_factory=dict)


class Journal:
    """Claims and results of one worker process."""

    def __init__(
        self, mongo: Mongo, vault: Vault, worker_id: str, *, result_ttl_s: int, now: Callable[[], float]
    ) -> None:
        """Make the journal of a worker.

        Args:
            mongo: where claims and results are.
            vault: seals results.
            worker_id: the name to claim under.
            result_ttl_s: how long a result is kept after its request's end and its deadline, in seconds.
            now: the time on MongoDB's clock, in seconds since the epoch: what is kept expires by it.
        """
        self._now = now
        self._mongo = mongo
        self._vault = vault
        self._worker_id = worker_id
        self._result_ttl = timedelta(seconds=result_ttl_s)
        self._claims: GroupCommit[tuple[Claim, Call | None], bool] = GroupCommit(self._insert_claims)
        self._calls: GroupCommit[tuple[Claim, Call], bool] = GroupCommit(self._write_calls)
        self._records: GroupCommit[Record, bool] = GroupCommit(self._write_records)
        #: What one delivery has here, from before it is claimed; another one of the same request waits.
        self._active: set[str] = set()
        self._tasks = BackgroundTasks("journal")

    async def start(self) -> None:
        """Say that this worker is alive, from now on.

        Raises:
            PyMongoError: MongoDB is away.
        """
        await self._be_present()
        self._tasks.every(PRESENCE_S, "presence", self._be_present, passes=(PyMongoError,))

    async def close(self) -> None:
        """Say that this worker is gone, so that what it left is taken over at once."""
        await self._tasks.close()
        await self._mongo.workers.delete_one({"_id": self._worker_id})

    async def claim(self, asked: Asked, call: Call | None = None) -> Claim | Done | Differs | Running:
        """Claim a request for this worker.

        Args:
            asked: the request.
            call: the call that is to follow at once, where it is known already.

        Returns:
            The claim; or its result, where it is done; or that it is under way; or that its id is another's.

        Raises:
            PyMongoError: MongoDB is away or refused.
            VaultError: the stored result can't be opened.
        """
        claim = Claim(asked, run=0)
        if claim.id in self._active:
            found = await self._mongo.requests.find_one({"_id": claim.id})
            return (None if found is None else self._told_by(found, asked)) or Running()
        # Before MongoDB is asked: another delivery of the request may come while it answers.
        self._active.add(claim.id)
        taken: Claim | Done | Differs | Running | None = None
        try:
            taken = await self._take(claim, call)
        finally:
            if not isinstance(taken, Claim):
                self._active.discard(claim.id)
        return taken

    async def begin(self, claim: Claim, call: Call) -> bool:
        """Note that a call is about to be made.

        Returns:
            False where another worker has taken the request over meanwhile: then it must not be made.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        return await self._calls.submit((claim, call))

    async def record(self, record: Record) -> bool:
        """Keep a result.

        Returns:
            False where another worker has taken the request over meanwhile, and will answer it.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        kept = await self._records.submit(record)
        self._active.discard(record.claim.id)
        return kept

    async def abandon(self, claim: Claim, *, begun: bool, calling: bool = False) -> None:
        """Leave a request without a result, for whom it is delivered to next.

        Args:
            claim: of the request.
            begun: whether the provider was called; if not, ever, it is as if it had not been claimed.
            calling: whether a call was given up, so that nobody knows how it ended.

        Raises:
            PyMongoError: MongoDB is away; the claim is taken over when the request comes again.
        """
        try:
            if calling:
                await self._mongo.requests_fast.update_one(self._mine(claim), {"$set": {"owner": None}})
            elif begun or claim.run > 0:
                left = {"$set": {"owner": None, "call": None}}
                await self._mongo.requests_fast.update_one(self._mine(claim), left)
            else:
                await self._mongo.requests_fast.delete_one(self._mine(claim))
        finally:
            # Not before: another delivery would find the claim there, and count it as a worker's death.
            self._active.discard(claim.id)

    async def _insert_claims(self, claims: Sequence[tuple[Claim, Call | None]]) -> Sequence[bool | Exception]:
        """Insert claims; for each whether there was none, or why MongoDB refuses it."""
        inserts = [InsertOne(self._whole(claim, call)) for claim, call in claims]
        failed = await write_all(self._mongo.requests_fast, inserts)
        return [_unless_there(failed.get(index)) for index in range(len(claims))]

    async def _take(self, claim: Claim, call: Call | None) -> Claim | Done | Differs | Running:
        return claim if await self._claims.submit((claim, call)) else await self._look_up(claim, call)

    async def _look_up(self, claim: Claim, call: Call | None) -> Claim | Done | Differs | Running:
        """A claim is there already: its result, its living owner, or the right to take it over."""
        found = await self._mongo.requests.find_one({"_id": claim.id})
        if found is None:
            return await self._take(claim, call)
        if (told := self._told_by(found, claim.asked)) is not None:
            return told
        if await self._is_worked_on_elsewhere(found["owner"]):
            return Running()
        taken = await self._mongo.requests.find_one_and_update(
            {"_id": claim.id, "owner": found["owner"], "run": found["run"], "status": "running"},
            {
                "$set": {"owner": self._worker_id},
                "$inc": {"run": 1, "crashes": int(found["owner"] is not None)},
            },
            return_document=ReturnDocument.BEFORE,
        )
        if taken is None:
            return Running()
        unknown = None if taken["call"] is None else Call(**taken["call"])
        run, crashes = taken["run"] + 1, taken["crashes"] + int(taken["owner"] is not None)
        return Claim(claim.asked, run, crashes, unknown, left_by=found["owner"])

    def _told_by(self, found: Document, asked: Asked) -> Done | Differs | None:
        """What an entry says by itself; None: the request is under way."""
        # A claim of a version that kept no digest is taken for the same request.
        if found.get("digest", asked.digest) != asked.digest:
            return Differs()
        if found["status"] == "running":
            return None
        chunks = open_stored(self._vault, found, "chunks") if found.get("chunks") else b""
        return Done(found["status"], open_stored(self._vault, found, "result"), list(found["events"]), chunks)

    async def _is_worked_on_elsewhere(self, worker_id: str | None) -> bool:
        if worker_id == self._worker_id:
            return False
        alive = {"_id": worker_id, "$expr": {"$gt": ["$alive_until", "$$NOW"]}}
        return await self._mongo.workers.find_one(alive, {"_id": 1}) is not None

    async def _write_calls(self, calls: Sequence[tuple[Claim, Call]]) -> Sequence[bool | Exception]:
        fields = [(claim, {"call": asdict(call)}) for claim, call in calls]
        return await self._write_mine(self._mongo.requests_fast, fields)

    async def _write_records(self, records: Sequence[Record]) -> Sequence[bool | Exception]:
        fields = [(record.claim, self._done(record)) for record in records]
        return await self._write_mine(self._mongo.requests, fields)

    async def _write_mine(
        self, requests: Collection, fields: Sequence[tuple[Claim, Document]]
    ) -> Sequence[bool | Exception]:
        """Set fields of claims; for each whether it is this worker's still, or why MongoDB refuses them.

        A claim that MongoDB has lost (it was written with `w: 1`) is made anew by the way.
        """
        updates = []
        for claim, changes in fields:
            mine, whole = self._mine(claim), self._whole(claim, None)
            made_anew = {name: whole[name] for name in whole.keys() - changes.keys() - mine.keys()}
            updates.append(UpdateOne(mine, {"$set": changes, "$setOnInsert": made_anew}, upsert=True))
        failed = await write_all(requests, updates)
        answers = [_unless_there(failed.get(index)) for index in range(len(fields))]
        others = [index for index, answer in enumerate(answers) if answer is False]
        if others:
            ids = [fields[index][0].id for index in others]
            found = self._mongo.requests.find({"_id": {"$in": ids}}, {"owner": 1, "run": 1})
            owners = {document["_id"]: (document["owner"], document["run"]) async for document in found}
            for index in others:
                claim, _ = fields[index]
                answers[index] = owners.get(claim.id) == (self._worker_id, claim.run)
        return answers

    def _whole(self, claim: Claim, call: Call | None) -> Document:
        """The document of a claim."""
        asked, now = claim.asked, self._now()
        return {
            **self._mine(claim),
            "automation_id": asked.automation_id,
            "request_id": asked.request_id,
            "digest": asked.digest,
            "crashes": claim.crashes,
            "call": None if call is None else asdict(call),
            "created_at": datetime.fromtimestamp(now, UTC),
            "expires_at": self._expires_at(asked, now) + CLAIM_MARGIN,
        }

    def _mine(self, claim: Claim) -> Document:
        return {"_id": claim.id, "owner": self._worker_id, "run": claim.run, "status": "running"}

    def _done(self, record: Record) -> Document:
        now = self._now()
        return {
            "status": record.status,
            "result": self._seal(record, "result", record.result),
            **({"chunks": self._seal(record, "chunks", record.chunks)} if record.chunks else {}),
            "events": record.events,
            **record.facts,
            "finished_at": datetime.fromtimestamp(now, UTC),
            "expires_at": self._expires_at(record.claim.asked, now),
        }

    def _expires_at(self, asked: Asked, now: float) -> datetime:
        """Until when a result is kept: for its time to live, after its deadline as well."""
        return datetime.fromtimestamp(max(asked.deadline, now), UTC) + self._result_ttl

    def _seal(self, record: Record, field: str, content: bytes) -> Document:
        return self._vault.seal(content, stored_context(record.claim.id, field)).document()

    async def _be_present(self) -> None:
        alive_until = {"$add": ["$$NOW", ALIVE_S * 1000]}
        await self._mongo.workers.update_one(
            {"_id": self._worker_id},
            [{"$set": {"kind": "generation", "alive_until": alive_until}}],
            upsert=True,
        )


def _unless_there(failure: Exception | None) -> bool | Exception:
    """What became of a write under an id: whether there was no other document, or its error."""
    return False if isinstance(failure, DuplicateKeyError) else failure or True
