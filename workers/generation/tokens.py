"""Tokens that a call is expected to use; what the provider says that it used is read by `provider_usage`."""

from typing import Any, NamedTuple

from contracts.messages import Path

#: English text has about four characters a token (OpenAI, "What are tokens").
CHARACTERS_PER_TOKEN = 4
#: What an inline image or file is taken for; its base64 is not text.
TOKENS_PER_ATTACHMENT = 1_000
#: Output tokens of a model that has not answered yet and a request that sets no bound.
DEFAULT_OUTPUT_TOKENS = 500
#: Answers that a chat completion may be asked for at a time (OpenAI, `n`).
MOST_CHOICES = 128
#: More than any provider admits at a time, and still a number that a database can count with.
LARGEST_ESTIMATE = 1_000_000_000
#: Models of one automation that have an average; the one that was answered longest ago goes first.
MOST_MODELS = 256
#: Weight of one answer in a model's running average.
AVERAGE_WEIGHT = 0.1

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
    """Input tokens of a request's body, from its texts' lengths; an attachment is a fixed number."""
    texts, attachments = _measure(body)
    return tokens_of(texts) + attachments * TOKENS_PER_ATTACHMENT


def characters(value: Any) -> int:
    """Characters of all texts in a JSON value."""
    return _measure(value)[0] if value is not None else 0


def tokens_of(characters: int) -> int:
    """Tokens that a text of so many characters is taken for."""
    return characters // CHARACTERS_PER_TOKEN + 1


def estimate(path: str, body: dict[str, Any], averages: OutputAverages) -> Estimate:
    """Tokens that a call is expected to use: its input, and its output's bound or the model's average."""
    total = estimate_input(body)
    if path in _NO_OUTPUT:
        return Estimate(total, total)
    bounds = [max(0, body[name]) for name in _OUTPUT_LIMITS if type(body.get(name)) is int]
    average = averages.expected(str(body.get("model", "")))
    output = min(bounds, default=average)
    choices = _count(body, "n") or 1
    tokens = min(total + output * (choices if choices <= MOST_CHOICES else 1), LARGEST_ESTIMATE)
    return Estimate(tokens, min(total, tokens))


def _measure(value: Any) -> tuple[int, int]:
    if isinstance(value, str):
        is_attachment = value.startswith("data:") and ";base64," in value[:200]
        return (0, 1) if is_attachment else (len(value), 0)
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return 1, 0
    characters = attachments = 0
    for item in value:
        more_characters, more_attachments = _measure(item)
        characters += more_characters
        attachments += more_attachments
    return characters, attachments


def _count(usage: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = usage.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None
