"""A streamed answer as it comes: what is passed on, whether it is whole, and what it used.

Chat completions stream chunks with choices, and say what they used in one more chunk where that is asked for
(`stream_options.include_usage`); responses and images stream typed events, of which the last says it all.
"""

from typing import Any

from pydantic_core import to_json

from contracts.messages import Path
from workers.generation.reading import Request
from workers.generation.tokens import estimate_text

#: The events that end a streamed response or image (OpenAI, "Streaming events").
LAST_EVENTS = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "image_generation.completed"}
)
#: Parts of a streamed answer that its estimate is made of: of a longer one each second, third, ... counts.
MOST_DELTAS = 2_000
INCLUDE_USAGE = "include_usage"
NO_RESPONSE = b"null"


def hides_usage(request: Request) -> bool:
    """Whether the automation did not ask what a streamed chat completion used; the worker does."""
    if request.path is not Path.CHAT_COMPLETIONS:
        return False
    options = request.body.get("stream_options")
    if options is None:
        return True
    if not isinstance(options, dict):
        return False
    included = options.get(INCLUDE_USAGE)
    return included is None or included is False


def streamed_content(request: Request) -> bytes:
    """The body for the provider, which asks for the usage where the automation did not."""
    if not hides_usage(request):
        return request.content
    options = {**(request.body.get("stream_options") or {}), INCLUDE_USAGE: True}
    return to_json({**request.body, "stream_options": options})


def error_in(data: dict[str, Any]) -> dict[str, Any] | None:
    """The provider's error that takes the place of a chunk, if it is one."""
    error = data.get("error")
    if isinstance(error, dict):
        return error
    if error:
        return {"message": str(error)}
    return data if data.get("type") == "error" else None


class Assembly:
    """What has come of one streamed answer."""

    def __init__(self, *, hides_usage: bool) -> None:
        """Say whether the automation is not to see what the worker asked for, the usage."""
        self._hides_usage = hides_usage
        self._begun: set[object] = set()
        self._finished: set[object] = set()
        self._last: dict[str, Any] | None = None
        self._model: object = None
        self._usage: object = None
        self._deltas: list[Any] = []
        self._is_empty = True

    def take(self, data: dict[str, Any]) -> dict[str, Any] | None:
        """Take what the provider sent next.

        Returns:
            What is passed on to the automation; None where that is nothing.
        """
        self._is_empty = False
        kind = data.get("type")
        if isinstance(kind, str) and kind in LAST_EVENTS:
            self._last = data
        self._model = data.get("model") or self._model
        self._usage = data.get("usage") or self._usage
        if (delta := data.get("delta")) is not None:
            self._deltas.append(delta)
        choices = data.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            self._take_choice(choice)
        if not self._hides_usage or "usage" not in data:
            return data
        if data["usage"] is not None and not choices:
            return None
        return {name: value for name, value in data.items() if name != "usage"}

    def _take_choice(self, choice: Any) -> None:
        if not isinstance(choice, dict):
            return
        index = choice.get("index")
        index = index if isinstance(index, int) else 0
        self._begun.add(index)
        if choice.get("finish_reason") is not None:
            self._finished.add(index)
        self._deltas.append(choice.get("delta"))

    @property
    def is_whole(self) -> bool:
        """Whether the provider has said all that it had to say."""
        return self._last is not None or (bool(self._begun) and self._begun == self._finished)

    @property
    def output_tokens(self) -> int | None:
        """Tokens that have come, estimated from their text; None where nothing came."""
        if self._is_empty:
            return None
        model = self._model if isinstance(self._model, str) else None
        every = len(self._deltas) // MOST_DELTAS + 1
        return estimate_text(self._deltas[::every], model) * every

    @property
    def document(self) -> dict[str, Any]:
        """The provider's answer, where it gives one; else what is known of it: its model and usage."""
        if self._response is not None:
            return self._response
        return {"model": self._model, **({} if self._usage is None else {"usage": self._usage})}

    @property
    def raw(self) -> bytes:
        """The provider's answer as JSON, where it gives one; else `null`."""
        return NO_RESPONSE if self._response is None else to_json(self._response)

    @property
    def _response(self) -> dict[str, Any] | None:
        response = None if self._last is None else self._last.get("response")
        return response if isinstance(response, dict) else None
