"""Bulk writes in which an operation that MongoDB refuses fails alone."""

from collections.abc import Mapping, Sequence

from infra.mongo import BulkWriteError, Collection, Document, InsertOne, Session, UpdateOne
from infra.mongo_errors import refused


async def write_all(
    collection: Collection,
    operations: "Sequence[InsertOne[Document]] | Sequence[UpdateOne]",
    session: Session | None = None,
) -> Mapping[int, Exception]:
    """Run operations in one unordered bulk write.

    Args:
        collection: what they change.
        operations: each is done whatever becomes of the others; in a transaction all or none are kept.
        session: of the transaction that they are part of, if any.

    Returns:
        Why MongoDB refused an operation for good, by its index: a `DuplicateKeyError` among others.

    Raises:
        PyMongoError: MongoDB is away, an error that may pass was among them, or a write concern was not
            met, so that nobody knows what is kept.
        Exception: the driver can't encode one of the operations; none was done.
    """
    try:
        await collection.bulk_write(operations, ordered=False, session=session)
    except BulkWriteError as error:
        return refused(error)
    return {}
