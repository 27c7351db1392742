"""Tokens that a call is expected to use; what the provider says that it used is read by `provider_usage`."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson
from pydantic_core import to_json

from contracts.messages import Path
from workers.generation.text_tokens import text_tokens

#: What an image, a recording or a file is taken for; neither its base64 nor its address is text.
TOKENS_PER_ATTACHMENT = 1_000
#: The same of an image with `detail: low` (OpenAI, "Images and vision").
TOKENS_PER_SMALL_IMAGE = 85
#: What frames a prompt, and each message in it, beside role and text (OpenAI, "How to count tokens").
TOKENS_PER_PROMPT = 3
TOKENS_PER_MESSAGE = 3
#: Output tokens of a model that has not answered yet and a request that sets no bound.
DEFAULT_OUTPUT_TOKENS = 500
#: Answers that a chat completion may be asked for at a time (OpenAI, `n`).
MOST_CHOICES = 128
#: More than any provider admits at a time, and still a number that a database can count with.
LARGEST_ESTIMATE = 1_000_000_000
#: Values that are looked at one by one. What has more counts by its JSON: C code writes megabytes of that in
#: some ms, and names and signs make it more tokens, not fewer.
MOST_VALUES = 10_000
#: Models of one automation that have an average; the one that was answered longest ago goes first.
MOST_MODELS = 256
#: Weight of one answer in a model's running average.
AVERAGE_WEIGHT = 0.1

#: Parts of a message that are no text, by their type.
_ATTACHMENTS = frozenset({"image_url", "input_image", "input_audio", "input_file", "file"})
#: How they look in JSON.
_ATTACHMENT_TYPES = tuple(f'"type":"{kind}"' for kind in sorted(_ATTACHMENTS))
#: Fields of an answer that hold a file.
_FILES = frozenset({"b64_json"})
#: Fields of a body whose names the model reads too.
_SCHEMAS = frozenset({"tools", "functions", "response_format"})
#: Fields of a body that the model does not read.
_UNREAD = frozenset(
    {"model", "user", "metadata", "service_tier", "stream_options", "prompt_cache_key", "safety_identifier"}
)
_NO_OUTPUT = frozenset({Path.EMBEDDINGS, Path.MODERATIONS})
_OUTPUT_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")


class Estimate(NamedTuple):
    """Tokens that a call is expected to use, and how many of them are input."""

    tokens: int
    input_tokens: int


class OutputAverages:
    """Running average of the output tokens of each model of one automation, in this worker.

    An automation's own, since its provider may say what it likes.
    """

    def __init__(self) -> None:
        self._averages: dict[str, float] = {}

    def expected(self, model: str) -> int:
        """Output tokens that an answer of the model is expected to have."""
        return round(self._averages.get(model, DEFAULT_OUTPUT_TOKENS))

    def learn(self, model: str, completion_tokens: int) -> None:
        """Take one answer into the average."""
        if model not in self._averages and len(self._averages) >= MOST_MODELS:
            del self._averages[next(iter(self._averages))]
        average = self._averages.pop(model, float(completion_tokens))
        self._averages[model] = average + AVERAGE_WEIGHT * (completion_tokens - average)


def estimate_input(body: Any) -> int:
    """Input tokens of a request's body, by its texts (`text_tokens.py`); an attachment is a fixed number."""
    if not isinstance(body, dict):
        return estimate_text(body)
    found = _Found()
    found.read([value for name, value in body.items() if name not in _UNREAD and name not in _SCHEMAS])
    for name in _SCHEMAS & body.keys():
        found.read_json(body[name])
    model = body.get("model")
    return TOKENS_PER_PROMPT + found.tokens(model if isinstance(model, str) else None)


def estimate_text(value: Any, model: str | None = None) -> int:
    """Tokens of all texts in a JSON value, at least 1.

    Args:
        value: an answer, or a part of one.
        model: that wrote it.
    """
    found = _Found()
    found.read(value)
    return found.tokens(model)


def estimate(path: str, body: dict[str, Any], averages: OutputAverages, input_tokens: int) -> Estimate:
    """Tokens that a call is expected to use: its input, and its output's bound or the model's average.

    Args:
        path: of the call.
        body: of the request.
        averages: of the automation's models.
        input_tokens: of the body (`estimate_input`).
    """
    if path in _NO_OUTPUT:
        return Estimate(input_tokens, input_tokens)
    bounds = [max(0, body[name]) for name in _OUTPUT_LIMITS if type(body.get(name)) is int]
    average = averages.expected(str(body.get("model", "")))
    output = min(bounds, default=average)
    choices = _count(body, "n") or 1
    tokens = min(input_tokens + output * (choices if choices <= MOST_CHOICES else 1), LARGEST_ESTIMATE)
    return Estimate(tokens, min(input_tokens, tokens))


class _Found:
    """What a model reads in a JSON value."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._tokens = 0

    def tokens(self, model: str | None) -> int:
        """Tokens of all that was found."""
        return self._tokens + int(text_tokens("".join(self._texts), model)) + 1

    def read_json(self, value: Any) -> None:
        """Find all that stands in a value, with the names of its fields."""
        try:
            raw = orjson.dumps(value)
        except TypeError:  # a number above 64 bits
            raw = to_json(value)
        self._texts.append(raw.decode().replace("\\n", "\n"))

    def read(self, value: Any) -> None:
        """Find the texts of a value, however deep, and what is no text."""
        unread, left, rest = [value], MOST_VALUES, []
        while unread:
            item = unread.pop()
            if isinstance(item, str):
                self._read_text(item)
            elif isinstance(item, int):
                self._tokens += 1  # of texts that come as token numbers
            elif isinstance(item, list) and (numbers := _token_numbers(item)) is not None:
                self._tokens += numbers
            elif isinstance(item, dict | list):
                left -= len(item)
                if left < 0:
                    rest.append(item)
                else:
                    unread.extend(self._read_object(item) if isinstance(item, dict) else item)
        if rest:
            self.read_json(rest)
            self._tokens += TOKENS_PER_ATTACHMENT * sum(map(self._texts[-1].count, _ATTACHMENT_TYPES))

    def _read_text(self, text: str) -> None:
        if text.startswith("data:") and ";base64," in text[:200]:
            self._tokens += TOKENS_PER_ATTACHMENT
        else:
            self._texts.append(text)

    def _read_object(self, item: dict[str, Any]) -> Iterable[Any]:
        """What of an object is to be read."""
        kind = item.get("type")
        if isinstance(kind, str) and kind in _ATTACHMENTS:
            image = item.get("image_url")
            detail = (image if isinstance(image, dict) else item).get("detail")
            self._tokens += TOKENS_PER_SMALL_IMAGE if detail == "low" else TOKENS_PER_ATTACHMENT
            return ()
        if "role" in item:
            self._tokens += TOKENS_PER_MESSAGE
        if _FILES.isdisjoint(item):
            return item.values()
        self._tokens += TOKENS_PER_ATTACHMENT
        return [value for name, value in item.items() if name not in _FILES]


def _token_numbers(values: list[Any]) -> int | None:
    """How many token numbers a list of nothing but numbers has; no loop reads them: there may be millions."""
    if not values or type(values[0]) not in {int, float}:
        return None
    kinds = list(map(type, values))
    numbers = kinds.count(int)
    return numbers if numbers + kinds.count(float) == len(kinds) else None


def _count(usage: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = usage.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None
