"""The operator's hand on prices: set, list, remove. What was booked before is not priced anew."""

from dataclasses import dataclass
from datetime import datetime

from infra.alerts import AlertKind, resolve_alerts
from infra.errors import NotFoundError, PlatformError
from infra.mongo import Document, Mongo, ReturnDocument, Session
from infra.prices import Price
from infra.stored_documents import StoredDocuments


@dataclass(frozen=True, slots=True)
class _SetPrice:
    input: int
    output: int
    cached: int
    changed_at: datetime


_DOCUMENTS = StoredDocuments("prices", _SetPrice)


class PriceRegistry:
    """Sets and removes prices, which take the place of those of `genai-prices` within seconds."""

    def __init__(self, mongo: Mongo, actor: str) -> None:
        """Take the database and who acts."""
        self._mongo = mongo
        self._actor = actor

    async def set(self, model: str, price: Price) -> Price | None:
        """Set a model's price, for its dated versions too; its `unknown_price` alerts are resolved.

        Args:
            model: as the provider names it in its answers, with or without its date.
            price: of a million tokens.

        Returns:
            The price that was set before; None: none was.

        Raises:
            PlatformError: the model's name is empty or very long.
        """
        if not 1 <= len(model) <= 256:
            raise PlatformError("a model's name has 1 to 256 characters")
        now = await self._mongo.server_time()
        written = {
            "input": price.input,
            "output": price.output,
            "cached": price.cached,
            "changed_by": self._actor,
            "changed_at": now,
        }
        alerts = {"kind": AlertKind.UNKNOWN_PRICE.value, "subject": model}

        async def write(session: Session) -> Price | None:
            before = await self._mongo.prices.find_one_and_update(
                {"_id": model},
                {"$set": written},
                upsert=True,
                return_document=ReturnDocument.BEFORE,
                session=session,
            )
            await resolve_alerts(self._mongo, alerts, now, session)
            return None if before is None else Price.from_document(before)

        return await self._mongo.transaction(write)

    async def list(self) -> list[Document]:
        """The prices that were set by hand, by model, without those that can't be read, which are logged."""
        documents = [document async for document in self._mongo.prices.find().sort("_id", 1)]
        return _DOCUMENTS.sound(documents)

    async def remove(self, model: str) -> Price:
        """Go by `genai-prices` again for a model.

        Returns:
            The price that was set.

        Raises:
            NotFoundError: none was.
        """
        before = await self._mongo.prices.find_one_and_delete({"_id": model})
        if before is None:
            raise NotFoundError(f"no price was set for {model}; see `keyway prices list`")
        return Price.from_document(before)
