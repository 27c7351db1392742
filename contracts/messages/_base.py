"""What all messages have in common."""

from datetime import datetime
from typing import Annotated, Any, TypeAlias

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from contracts.names import AUTOMATION_ID_PATTERN

#: JSON of the provider, passed through as it is.
Json: TypeAlias = dict[str, Any]
AutomationId: TypeAlias = Annotated[str, Field(pattern=AUTOMATION_ID_PATTERN)]
RequestId: TypeAlias = Annotated[str, Field(min_length=1, max_length=128)]
TokenCount: TypeAlias = Annotated[int, Field(ge=0, strict=True)]
#: Money, in units of 10⁻⁹ USD; never a float.
NanoUsd: TypeAlias = Annotated[int, Field(ge=0, strict=True)]


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _is_written_out(value: object) -> object:
    if isinstance(value, datetime) or (isinstance(value, str) and ":" in value):
        return value
    raise ValueError("expected a time as in RFC 3339")


#: RFC 3339 with an offset; naive times and numbers are refused.
Time: TypeAlias = Annotated[
    AwareDatetime,
    BeforeValidator(_is_written_out),
    PlainSerializer(_rfc3339, return_type=str, when_used="json"),
]


class Message(BaseModel):
    """A message body; readers ignore fields that they do not know."""

    model_config = ConfigDict(frozen=True, extra="ignore")
