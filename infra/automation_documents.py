"""Automations' documents as they are read for all: one that can't be read harms its own automation alone."""

from collections.abc import Iterable
from typing import Annotated, Any, Generic, TypeVar

import structlog
from pydantic import Field, TypeAdapter, ValidationError

from contracts.names import AUTOMATION_ID_PATTERN
from infra.mongo import Document

log = structlog.get_logger()

Shape = TypeVar("Shape")

#: An automation's id, as the dataclasses that are read here name the type of their `id`.
AutomationId = Annotated[str, Field(pattern=AUTOMATION_ID_PATTERN)]

#: By shape; a shape's first reading makes it.
_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def read_automation(shape: type[Shape], document: Document) -> Shape:
    """Read an automation's document.

    Args:
        shape: a dataclass, whose `id` is the document's `_id`; other fields are named as the document's.
        document: what MongoDB has.

    Raises:
        ValidationError: it can't be read; see `problem_of`.
    """
    return _adapter(shape).validate_python({**document, "id": document["_id"]})


def problem_of(error: ValidationError) -> tuple[str, str]:
    """The field that can't be read, and why not."""
    first = error.errors(include_url=False, include_input=False)[0]
    return ".".join(map(str, first["loc"])), first["msg"]


class AutomationDocuments(Generic[Shape]):
    """Reads automations' documents again and again, and logs each problem when it is new.

    Args:
        shape: what is read of each (`read_automation`).
    """

    def __init__(self, shape: type[Shape]) -> None:
        self._shape = shape
        self._problems: dict[str, tuple[str, str]] = {}

    def read(self, documents: Iterable[Document]) -> dict[str, Shape | None]:
        """Read all that are to be read.

        Returns:
            What was read, by automation; None: the document can't be read.
        """
        found: dict[str, Shape | None] = {}
        problems: dict[str, tuple[str, str]] = {}
        for document in documents:
            automation_id = str(document["_id"])
            try:
                found[automation_id] = read_automation(self._shape, document)
            except ValidationError as error:
                found.setdefault(automation_id, None)
                problems[automation_id] = problem = problem_of(error)
                if self._problems.get(automation_id) != problem:
                    field, reason = problem
                    log.warning(
                        "automation_not_read", automation_id=automation_id, field=field, reason=reason
                    )
        self._problems = problems
        return found

    def readable(self, documents: Iterable[Document]) -> list[Shape]:
        """The same without those that can't be read, in the order of the documents."""
        return [automation for automation in self.read(documents).values() if automation is not None]


def _adapter(shape: type[Shape]) -> TypeAdapter[Shape]:
    adapter = _ADAPTERS.get(shape)
    if adapter is None:
        adapter = _ADAPTERS[shape] = TypeAdapter(shape)
    return adapter
