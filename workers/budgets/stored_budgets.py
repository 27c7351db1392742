"""Budgets of many automations as they are stored; one that can't be read harms none of the others."""

from collections.abc import AsyncIterable

from infra.mongo import Document
from infra.stored_documents import StoredDocuments
from workers.budgets.budget import Budget

_DOCUMENTS = StoredDocuments("budgets", Budget)


async def readable_budgets(found: AsyncIterable[Document], now: float) -> list[Budget]:
    """Budgets without those that can't be read, which are logged.

    Args:
        found: their documents.
        now: the time, in seconds since the epoch.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    documents = [document async for document in found]
    return _DOCUMENTS.readable(documents, lambda document: Budget.from_document(document, now))
