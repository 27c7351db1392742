"""Documents that are read together for a list, a gauge or a batch: what can't be read is left out alone."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from functools import cache
from typing import Any, Generic, TypeVar, cast

import structlog
from pydantic import TypeAdapter, ValidationError

from infra.automation_documents import problem_of
from infra.mongo import Document

log = structlog.get_logger()

Shape = TypeVar("Shape")

#: What reading a document raises that has other fields than it should, or other types.
UNREADABLE = (AttributeError, KeyError, OverflowError, TypeError, ValueError)
#: Problems of a collection that are remembered, so that each is logged once.
MOST_PROBLEMS = 1_000


class StoredDocuments(Generic[Shape]):
    """Reads documents of one collection again and again, and logs each problem when it is new.

    Args:
        collection: its name, for the log.
        shape: the dataclass that a document becomes; its values are checked against its types.
    """

    def __init__(self, collection: str, shape: type[Shape]) -> None:
        self._collection = collection
        self._shape = shape
        self._problems: dict[str, tuple[str, str]] = {}

    def readable(self, documents: Iterable[Document], read: Callable[[Document], Shape]) -> list[Shape]:
        """Read documents, and leave out those that can't be read.

        Args:
            documents: what MongoDB has.
            read: makes the shape of a document.
        """
        return [shape for _, shape in self._each(documents, read)]

    def sound(
        self, documents: Iterable[Document], read: Callable[[Document], Shape] | None = None
    ) -> list[Document]:
        """The documents themselves, without those that can't be read.

        Args:
            documents: what MongoDB has.
            read: makes the shape of a document; None: of the fields that are named like the shape's.
        """
        return [document for document, _ in self._each(documents, read or self._by_name)]

    def _by_name(self, document: Document) -> Shape:
        stored = cast("Any", self._shape)
        return self._shape(**{each.name: document[each.name] for each in fields(stored)})

    def _each(
        self, documents: Iterable[Document], read: Callable[[Document], Shape]
    ) -> Iterator[tuple[Document, Shape]]:
        for document in documents:
            document_id = str(document.get("_id"))
            try:
                shape = _checked(self._shape, read(document))
            except UNREADABLE as error:
                self._note(document_id, _problem(error))
            else:
                self._problems.pop(document_id, None)
                yield document, shape

    def _note(self, document_id: str, problem: tuple[str, str]) -> None:
        if self._problems.get(document_id) == problem:
            return
        if len(self._problems) >= MOST_PROBLEMS:
            self._problems.clear()
        self._problems[document_id] = problem
        field, reason = problem
        log.warning(
            "document_not_read",
            collection=self._collection,
            document_id=document_id,
            field=field,
            reason=reason,
        )


def _problem(error: Exception) -> tuple[str, str]:
    if isinstance(error, ValidationError):
        return problem_of(error)
    if isinstance(error, KeyError):
        return str(error.args[0]), "is missing"
    return "", type(error).__name__


def _checked(shape: type[Shape], value: Shape) -> Shape:
    """A value with the types that its shape says."""
    stored = cast("Any", shape)
    found: Shape = _adapter(stored).validate_python(
        {each.name: getattr(value, each.name) for each in fields(stored)}
    )
    return found


@cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)
