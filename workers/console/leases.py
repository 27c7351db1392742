"""Leases as operators see them: which keys are lent, to whom, until when."""

from dataclasses import dataclass
from datetime import datetime

from infra.mongo import Document, Mongo
from infra.stored_documents import StoredDocuments

#: Statuses of leases whose automation may have the key still; a revoked one is to be given up.
LIVE = ("open", "reported", "revoked")


@dataclass(frozen=True, slots=True)
class LeaseFilter:
    """Which leases are meant; what is None narrows nothing.

    Attributes:
        automation_id: whose.
        key_id: of which key.
        live: only those that are not over.
    """

    automation_id: str | None = None
    key_id: str | None = None
    live: bool = False

    def query(self, now: datetime) -> Document:
        """The same for MongoDB."""
        query: Document = {}
        if self.automation_id is not None:
            query["automation_id"] = {"$eq": self.automation_id}
        if self.key_id is not None:
            query["key_id"] = {"$eq": self.key_id}
        if self.live:
            query |= {"status": {"$in": list(LIVE)}, "expires_at": {"$gt": now}}
        return query


@dataclass(frozen=True, slots=True)
class LeaseView:
    """A lease; `tokens` is what it was granted for, `reported_tokens` what its `reports` say."""

    lease_id: str
    automation_id: str
    key_id: str
    key_alias: str
    model: str | None
    status: str
    granted_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    tokens: int
    reports: int
    reported_tokens: int


_DOCUMENTS = StoredDocuments("leases", LeaseView)


class LeaseList:
    """Reads leases, which are kept for 30 days after they end."""

    def __init__(self, mongo: Mongo) -> None:
        """Take the database."""
        self._mongo = mongo

    async def read(self, wanted: LeaseFilter, *, most: int) -> list[LeaseView]:
        """Leases, the newest first, without those whose document can't be read, which are logged.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        now = await self._mongo.server_time()
        found = self._mongo.leases.find(wanted.query(now)).sort("granted_at", -1).limit(most)
        return _DOCUMENTS.readable([document async for document in found], _view)


def _view(document: Document) -> LeaseView:
    return LeaseView(
        lease_id=document["_id"],
        automation_id=document["automation_id"],
        key_id=document["key_id"],
        key_alias=document["key_alias"],
        model=document["model"],
        status=document["status"],
        granted_at=document["granted_at"],
        expires_at=document["expires_at"],
        revoked_at=document.get("revoked_at"),
        tokens=document["tokens"],
        reports=document["reports"],
        reported_tokens=document["reported_tokens"],
    )
