"""Types of parameters: each says in the OpenAPI document what it takes, and lets nothing else in."""

from datetime import UTC, datetime
from typing import Annotated, TypeAlias

from fastapi import Path, Query
from pydantic import AfterValidator, AwareDatetime, Field

from contracts.names import AUTOMATION_ID_PATTERN

#: Text that can be searched for: no control characters.
TEXT_PATTERN = r"^[^\x00-\x1f\x7f]+$"
KEY_ID_PATTERN = r"^key-[0-9a-f]{16}$"
#: Between these, times can be told to MongoDB.
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
#: The largest limit: MongoDB's largest integer.
MOST = 2**63 - 1


def _can_be_kept(at: datetime) -> datetime:
    if not EARLIEST <= at <= LATEST:
        raise ValueError("expected a time from 1970 to 2200")
    return at.astimezone(UTC)


Moment: TypeAlias = Annotated[AwareDatetime, AfterValidator(_can_be_kept)]
AutomationId: TypeAlias = Annotated[str, Path(pattern=AUTOMATION_ID_PATTERN)]
AutomationFilter: TypeAlias = Annotated[
    str | None, Query(pattern=AUTOMATION_ID_PATTERN, description="Only this automation's.")
]
KeyId: TypeAlias = Annotated[str, Path(pattern=KEY_ID_PATTERN)]
LetterId: TypeAlias = Annotated[str, Path(pattern=r"^[0-9a-f]{12}$")]
RequestIdFilter: TypeAlias = Annotated[
    str | None, Query(min_length=1, max_length=128, description="With this id.")
]
TextFilter: TypeAlias = Annotated[
    str | None, Query(max_length=100, pattern=TEXT_PATTERN, description="With this text in it.")
]
Limit: TypeAlias = Annotated[int, Query(ge=1, le=1000, description="How many at the most.")]
#: A limit of a key; null is without limit.
KeyLimit: TypeAlias = Annotated[int, Field(ge=1, le=MOST)]
