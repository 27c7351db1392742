"""MongoDB: the connection, the collections and their indexes; only this and `mongo_errors` know the driver.

Everything else takes a `Mongo` and the names that this module re-exports, so that changing the driver
is changing these files.
"""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeAlias, TypeVar

import structlog
from bson.codec_options import CodecOptions
from motor.motor_asyncio import (
    AsyncIOMotorClient,
    AsyncIOMotorClientSession,
    AsyncIOMotorCollection,
    AsyncIOMotorDatabase,
)
from pymongo import ASCENDING, DESCENDING, IndexModel, InsertOne, ReturnDocument, UpdateOne
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
)
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from contracts.retrying import retrying
from infra.errors import PlatformError

__all__ = [
    "BulkWriteError",
    "Collection",
    "Document",
    "DuplicateKeyError",
    "InsertOne",
    "Mongo",
    "PyMongoError",
    "ReturnDocument",
    "Session",
    "UpdateOne",
    "connect",
    "run_command",
    "wait_for_mongo",
]

Document: TypeAlias = dict[str, Any]
Collection: TypeAlias = "AsyncIOMotorCollection[Document]"
Session: TypeAlias = AsyncIOMotorClientSession
T = TypeVar("T")

#: How long a call looks for a usable server before it fails, in milliseconds.
SERVER_SELECTION_MS = 5_000
#: How long one round trip may take before the connection is given up, in milliseconds.
SOCKET_TIMEOUT_MS = 20_000

#: Seconds between looks for a MongoDB that is not there yet.
WAIT_RETRY_S = 1.0

#: How OpenSSL says that a certificate is not trusted.
UNTRUSTED = "certificate verify failed"

log = structlog.get_logger()

#: What `keyway init` creates; the reason for each stands beside it.
INDEXES: dict[str, list[IndexModel]] = {
    "keys": [
        IndexModel([("automation_id", ASCENDING), ("alias", ASCENDING)], unique=True, name="alias"),
        # The same API key twice would be counted against two limits.
        IndexModel([("fingerprint", ASCENDING)], unique=True, name="fingerprint"),
        IndexModel([("status", ASCENDING), ("status_until", ASCENDING)], name="due"),
        IndexModel([("probe.at", ASCENDING)], sparse=True, name="probe"),
        IndexModel([("check_at", ASCENDING)], sparse=True, name="check"),
    ],
    "requests": [
        IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0, name="ttl"),
        IndexModel([("automation_id", ASCENDING), ("created_at", DESCENDING)], name="recent"),
        # Few: the requests that ended without an attempt, which are in no ledger.
        IndexModel(
            [("finished_at", DESCENDING)],
            partialFilterExpression={"unattempted": True},
            name="unattempted",
        ),
    ],
    "leases": [
        # Asked again with the same id while it lives, an automation gets the same lease.
        IndexModel(
            [("automation_id", ASCENDING), ("request_id", ASCENDING)],
            unique=True,
            partialFilterExpression={"request_id": {"$exists": True}},
            name="request",
        ),
        IndexModel([("status", ASCENDING), ("expires_at", ASCENDING)], name="due"),
        IndexModel([("key_id", ASCENDING), ("status", ASCENDING)], name="key"),
        IndexModel([("automation_id", ASCENDING), ("granted_at", DESCENDING)], name="recent"),
        IndexModel([("forget_at", ASCENDING)], expireAfterSeconds=0, name="ttl"),
    ],
    "usage": [
        IndexModel([("occurred_at", DESCENDING), ("outcome", ASCENDING)], name="latest"),
        IndexModel([("outcome", ASCENDING), ("occurred_at", DESCENDING)], name="outcome"),
        IndexModel([("user_id", ASCENDING), ("occurred_at", DESCENDING)], name="user"),
        IndexModel([("automation_id", ASCENDING), ("occurred_at", DESCENDING)], name="recent"),
        IndexModel([("automation_id", ASCENDING), ("request_id", ASCENDING)], name="request"),
    ],
    "usage_daily": [
        IndexModel(
            [("dimension", ASCENDING), ("day", DESCENDING), ("cost_nanousd", DESCENDING)], name="dearest"
        ),
        IndexModel(
            [
                ("dimension", ASCENDING),
                ("automation_id", ASCENDING),
                ("day", DESCENDING),
                ("cost_nanousd", DESCENDING),
            ],
            name="dearest_of_automation",
        ),
    ],
    "budgets": [IndexModel([("automation_id", ASCENDING)], name="automation")],
    "alerts": [
        IndexModel([("resolved_at", ASCENDING), ("raised_at", DESCENDING)], name="open"),
        IndexModel([("raised_at", DESCENDING)], name="latest"),
    ],
    "notices": [
        IndexModel([("state", ASCENDING), ("at", ASCENDING)], name="waiting"),
        IndexModel([("alert_id", ASCENDING), ("at", ASCENDING)], name="alert"),
        IndexModel([("at", ASCENDING)], expireAfterSeconds=30 * 24 * 3600, name="ttl"),
    ],
    "heartbeats": [
        IndexModel([("at", ASCENDING)], expireAfterSeconds=3600, name="ttl"),
        IndexModel([("automation_id", ASCENDING), ("at", DESCENDING)], name="alive"),
    ],
    "workers": [IndexModel([("alive_until", ASCENDING)], expireAfterSeconds=3600, name="ttl")],
    "sessions": [
        IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0, name="ttl"),
        IndexModel([("username", ASCENDING)], name="operator"),
    ],
    "sign_in_failures": [IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0, name="ttl")],
    "api_tokens": [IndexModel([("hash", ASCENDING)], unique=True, name="hash")],
    "audit": [
        IndexModel([("at", DESCENDING)], name="recent"),
        IndexModel([("target", ASCENDING), ("at", DESCENDING)], name="target"),
    ],
}

#: The shape that MongoDB itself enforces, where a wrong document would cost money or leak.
VALIDATORS: dict[str, Document] = {
    "automations": {"bsonType": "object", "required": ["_id", "enabled", "created_at"]},
    "keys": {
        "bsonType": "object",
        "required": ["_id", "automation_id", "alias", "secret", "fingerprint", "status", "limits"],
        "properties": {
            "status": {"enum": ["active", "disabled", "exhausted", "error"]},
            "secret": {
                "bsonType": "object",
                "required": ["master_key", "nonce", "ciphertext"],
                "properties": {"nonce": {"bsonType": "binData"}, "ciphertext": {"bsonType": "binData"}},
            },
            "api_key": {"not": {}},
        },
    },
    "budgets": {
        "bsonType": "object",
        "required": ["_id", "scope", "automation_id", "subject", "window", "limit_nanousd", "soft_percent"],
        "properties": {
            "scope": {"enum": ["automation", "key", "user"]},
            "window": {"enum": ["day", "month"]},
            "limit_nanousd": {"bsonType": ["int", "long"], "minimum": 1},
            "soft_percent": {"bsonType": ["int", "long"], "minimum": 1, "maximum": 100},
            "hard": {"bsonType": "bool"},
            "spent_nanousd": {"bsonType": ["int", "long"]},
        },
    },
    "prices": {
        "bsonType": "object",
        "required": ["_id", "input", "output", "cached"],
        "properties": {
            name: {"bsonType": ["int", "long"], "minimum": 0} for name in ("input", "output", "cached")
        },
    },
    "leases": {
        "bsonType": "object",
        "required": ["_id", "automation_id", "key_id", "key_alias", "tokens", "expires_at", "status"],
        "properties": {
            "status": {"enum": ["open", "revoked", "reported", "charged", "closed"]},
            "tokens": {"bsonType": ["int", "long"]},
            "api_key": {"not": {}},
            "sealed_api_key": {"not": {}},
        },
    },
    "usage": {
        "bsonType": "object",
        "required": ["_id", "automation_id", "request_id", "outcome", "total_tokens", "cost_nanousd"],
        "properties": {
            "total_tokens": {"bsonType": ["int", "long"]},
            "cost_nanousd": {"bsonType": ["int", "long"]},
        },
    },
}


class Mongo:
    """One client and the database's collections.

    Collections that hold money or secrets write with `majority`; those named `…_fast` are the same
    collections with `w: 1`, for reservations and claims, whose loss is made good by the other.
    """

    def __init__(self, client: "AsyncIOMotorClient[Document]", database: str) -> None:
        self._client = client
        self.database: AsyncIOMotorDatabase[Document] = client.get_database(
            database,
            codec_options=CodecOptions(tz_aware=True, tzinfo=UTC),
            write_concern=WriteConcern("majority"),
        )
        fast = WriteConcern(w=1)
        self.automations = self.database["automations"]
        self.automations_fast = self.database["automations"].with_options(write_concern=fast)
        self.alerts = self.database["alerts"]
        self.notices = self.database["notices"]
        self.duties = self.database["duties"]
        self.budgets = self.database["budgets"]
        self.budgets_fast = self.database["budgets"].with_options(write_concern=fast)
        self.prices = self.database["prices"]
        self.keys = self.database["keys"]
        self.keys_fast = self.database["keys"].with_options(write_concern=fast)
        self.leases = self.database["leases"]
        self.requests = self.database["requests"]
        self.requests_fast = self.database["requests"].with_options(write_concern=fast)
        self.usage = self.database["usage"]
        self.usage_daily = self.database["usage_daily"]
        self.heartbeats = self.database["heartbeats"].with_options(write_concern=fast)
        self.outbox = self.database["outbox"]
        self.workers = self.database["workers"]
        self.operators = self.database["operators"]
        self.sessions = self.database["sessions"]
        self.sign_in_failures = self.database["sign_in_failures"]
        self.api_tokens = self.database["api_tokens"]
        self.audit = self.database["audit"]

    async def ping(self) -> None:
        """Ask the server for a sign of life.

        Raises:
            PyMongoError: no usable server within `SERVER_SELECTION_MS`, or it refused.
        """
        await self.database.command("ping")

    async def server_time(self) -> datetime:
        """The time on MongoDB's clock, which is the one that all services go by.

        Raises:
            PyMongoError: no usable server within `SERVER_SELECTION_MS`, or it refused.
        """
        answer = await self.database.command("hello")
        moment: datetime = answer["localTime"]
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    async def ensure_schema(self) -> None:
        """Create what is missing of collections, validators and indexes; harmless to repeat.

        Raises:
            PyMongoError: the server refused.
        """
        existing = set(await self.database.list_collection_names())
        for name in sorted(INDEXES.keys() | VALIDATORS.keys() | {"outbox"}):
            validator = {"$jsonSchema": VALIDATORS[name]} if name in VALIDATORS else {}
            if name in existing:
                await self.database.command("collMod", name, validator=validator)
            else:
                await self._create(name, validator)
            if name in INDEXES:
                await self.database[name].create_indexes(INDEXES[name])

    async def _create(self, name: str, validator: Document) -> None:
        try:
            await self.database.create_collection(name, validator=validator)
        except OperationFailure as error:
            namespace_exists = 48
            if error.code != namespace_exists:
                raise

    async def transaction(self, work: Callable[[Session], Coroutine[Any, Any, T]]) -> T:
        """Run `work(session)` in one transaction, again from its start when MongoDB asks for a retry.

        Raises:
            PyMongoError: the transaction could not be committed; nothing of it was.
        """
        async with await self._client.start_session() as session:
            result: T = await session.with_transaction(
                work, read_concern=ReadConcern("snapshot"), write_concern=WriteConcern("majority")
            )
            return result

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Session]:
        """A session that reads the database as it was at its first read, whatever is written meanwhile.

        It takes finds, aggregates and distincts, and lasts as long as MongoDB keeps history: 5 minutes by
        default.

        Yields:
            The session, to give to each read.
        """
        async with await self._client.start_session(snapshot=True) as session:
            yield session

    def close(self) -> None:
        """Close all connections."""
        self._client.close()


@asynccontextmanager
async def connect(url: str, database: str) -> AsyncIterator[Mongo]:
    """Open a client; it connects at its first use.

    Args:
        url: MongoDB connection string of a replica set.
        database: name of the database.

    Yields:
        The collections.

    Raises:
        PlatformError: the connection string is wrong; its text is not repeated, since it may hold a password.
    """
    try:
        client: AsyncIOMotorClient[Document] = AsyncIOMotorClient(
            url,
            serverSelectionTimeoutMS=SERVER_SELECTION_MS,
            socketTimeoutMS=SOCKET_TIMEOUT_MS,
            connectTimeoutMS=SERVER_SELECTION_MS,
            appname="keyway",
        )
    except (PyMongoError, ValueError) as error:
        kind = "configuration" if isinstance(error, ConfigurationError) else "connection string"
        raise PlatformError(f"KEYWAY_MONGO_URL: wrong {kind}: {type(error).__name__}") from None
    mongo = Mongo(client, database)
    try:
        yield mongo
    finally:
        mongo.close()


async def wait_for_mongo(mongo: Mongo) -> None:
    """Wait until MongoDB answers, with a log line for each try that fails.

    Raises:
        PlatformError: it refuses the user or password, or its certificate is not trusted.
    """

    async def ping() -> None:
        try:
            await mongo.ping()
        except OperationFailure as error:
            raise PlatformError(
                f"KEYWAY_MONGO_URL: MongoDB refuses: {error.details and error.details.get('codeName')}"
            ) from None
        except PyMongoError as error:
            # The driver keeps the cause in its text only.
            if UNTRUSTED in str(error):
                raise PlatformError("KEYWAY_MONGO_URL: MongoDB's certificate is not trusted") from None
            raise

    await retrying(
        ping,
        passes=(PyMongoError,),
        pause_s=WAIT_RETRY_S,
        longest_pause_s=WAIT_RETRY_S,
        note=lambda error: log.warning("mongo_unreachable", error=type(error).__name__),
    )


async def run_command(
    url: str, command: Document, *, database: str = "admin", timeout_s: float = 5.0
) -> Document:
    """Run one command against the very server at `url`, replica set or not.

    Args:
        url: MongoDB connection string.
        command: the command document, its name first.
        database: the database to run it in.
        timeout_s: how long to look for the server, in seconds.

    Returns:
        The server's answer.

    Raises:
        PyMongoError: no server there, or it refused.
    """
    client: AsyncIOMotorClient[Document] = AsyncIOMotorClient(
        url, directConnection=True, serverSelectionTimeoutMS=int(timeout_s * 1000)
    )
    try:
        answer: Document = await client[database].command(command)
        return answer
    finally:
        client.close()
