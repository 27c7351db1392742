"""Results that the journal keeps, encrypted, each bound to its entry and field."""

from infra.mongo import Document, Mongo
from infra.vault import Sealed, Vault


async def stored_result(
    mongo: Mongo, vault: Vault, automation_id: str, request_id: str
) -> tuple[str, bytes | None] | None:
    """What the journal keeps of a request.

    Returns:
        Its status, and its result up to `replayed` where it is done; None where nothing is kept.

    Raises:
        PyMongoError: MongoDB is away or refused.
        VaultError: the result can't be opened with any of the master keys.
    """
    identity = f"{automation_id}/{request_id}"
    found = await mongo.requests.find_one({"_id": identity})
    if found is None:
        return None
    if found["status"] == "running":
        return "running", None
    return found["status"], open_stored(vault, found, "result")


def stored_context(identity: str, field: str) -> str:
    """What a stored text is bound to, so that it can't be moved to another entry or field."""
    return f"{field}:{identity}"


def open_stored(vault: Vault, entry: Document, field: str) -> bytes:
    """Open a text of a journal's entry.

    Raises:
        VaultError: it can't be opened with any of the master keys.
    """
    return vault.open(Sealed.from_document(entry[field]), stored_context(entry["_id"], field))
