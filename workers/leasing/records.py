"""The documents of leases: who has which key, until when. No key material stands in them."""

import secrets

from infra.mongo import Document, DuplicateKeyError, Mongo, ReturnDocument
from workers.keys.key import Key
from workers.keys.leases import KEPT
from workers.leasing.reading import Request


def is_alive(lease: Document, now: float) -> bool:
    """Whether a lease may be answered with again, at a time in seconds since the epoch."""
    return lease["status"] in {"open", "reported", "revoked"} and lease["expires_at"].timestamp() > now


class LeaseRecords:
    """Writes and finds leases; times are MongoDB's."""

    def __init__(self, mongo: Mongo) -> None:
        """Take the database."""
        self._mongo = mongo

    async def find(self, request: Request, now: float) -> Document | None:
        """The lease that was granted to this very request, while it lives.

        One that is over is found by a repeated delivery only: who asked again has got another by then.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        envelope = request.envelope
        if not envelope.has_id:
            return None
        lease: Document | None = await self._mongo.leases.find_one(
            {"automation_id": envelope.automation_id, "request_id": envelope.request_id}
        )
        if lease is None or is_alive(lease, now) or envelope.is_repeated:
            return lease
        await self._mongo.leases.update_one({"_id": lease["_id"]}, {"$unset": {"request_id": ""}})
        return None

    async def open(self, request: Request, key: Key, tokens: int) -> Document | None:
        """Write a new lease.

        Args:
            request: that it is granted to.
            key: that is lent.
            tokens: for how many.

        Returns:
            Its document; None where the request has got one meanwhile.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        said: Document = {
            "automation_id": request.envelope.automation_id,
            "key_id": key.id,
            "key_alias": key.alias,
            "model": request.model,
            "tokens": tokens,
            "status": "open",
            "reports": 0,
            "reported_tokens": 0,
        }
        if request.envelope.has_id:
            said["request_id"] = request.envelope.request_id
        expires_at = {"$add": ["$$NOW", request.ttl_s * 1000]}
        written = {name: {"$literal": value} for name, value in said.items()}
        try:
            lease: Document = await self._mongo.leases.find_one_and_update(
                {"_id": f"lease-{secrets.token_hex(12)}"},
                [{"$set": {**written, "granted_at": "$$NOW", "expires_at": expires_at}}],
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
        except DuplicateKeyError:
            return None
        return lease

    async def close(self, lease: Document) -> None:
        """End a lease that nobody has got: it costs nothing.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        kept_ms = int(KEPT.total_seconds() * 1000)
        ended = {"status": "closed", "forget_at": {"$add": ["$$NOW", {"$toLong": kept_ms}]}}
        unused = {"_id": lease["_id"], "status": {"$in": ["open", "revoked"]}, "reports": 0}
        await self._mongo.leases.update_one(unused, [{"$set": ended}, {"$unset": "request_id"}])
