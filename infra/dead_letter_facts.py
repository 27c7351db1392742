"""What may be told of dead letters, and which of them are meant."""

import base64
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic_core import from_json

from contracts import names
from infra.dead_letter_queue import Letter

ID_PATTERN = re.compile(r"[0-9a-f]{12}")
#: What a message says beside its headers and its body.
PROPERTIES = ("message_id", "correlation_id", "reply_to", "content_type", "content_encoding", "user_id")
#: A letter has its body under one of these: as JSON, as text, or neither.
BODY_FIELDS = ("body", "body_text", "body_base64")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters are meant; what is None or empty narrows nothing."""

    ids: frozenset[str] = frozenset()
    automation_id: str | None = None
    reason: str | None = None
    request_id: str | None = None

    def __call__(self, letter: Letter) -> bool:
        """Whether a letter is meant; of the reason a part is enough, in whatever case."""
        return (
            (not self.ids or letter.id in self.ids)
            and self.automation_id in {None, letter.automation_id}
            and (self.reason is None or self.reason.casefold() in letter.reason.casefold())
            and self.request_id in {None, letter.request_id}
        )


def summary(letter: Letter) -> dict[str, Any]:
    """What a list says of a letter."""
    return {
        "id": letter.id,
        "died_at": letter.died_at,
        "published_at": letter.message.timestamp,
        "automation_id": letter.automation_id,
        "type": letter.message.type or (names.GENERATION_REQUEST if letter.is_request else ""),
        "request_id": letter.request_id,
        "reason": letter.reason,
    }


def everything_of(letter: Letter) -> dict[str, Any]:
    """All that a letter says; a body that is neither JSON nor text is in base64."""
    message = letter.message
    fields = {
        **summary(letter),
        "routing_key": letter.routing_key,
        **{name: getattr(message, name) for name in PROPERTIES},
        "headers": plain(message.headers or {}),
    }
    with suppress(ValueError):
        return fields | {"body": from_json(message.body, allow_inf_nan=False)}
    try:
        return fields | {"body_text": message.body.decode()}
    except UnicodeDecodeError:
        return fields | {"body_base64": base64.b64encode(message.body).decode()}


def plain(value: Any) -> Any:
    """A header's value as JSON has it."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    if isinstance(value, bytes | bytearray):
        return value.decode(errors="backslashreplace")
    return value if isinstance(value, str | int | float | datetime | None) else str(value)
