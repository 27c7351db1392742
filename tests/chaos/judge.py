"""The judge of a run: what was asked, answered, called and booked, held against the promises.

Pure, over plain lists, so that it can be shown to find each fault that it is there for.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from contracts.messages import GenerationResult

AMBIGUOUS = "ambiguous"
OK, BAD_REQUEST = 200, 400
#: Problems that an assertion names; of the others it gives the number.
SHOWN = 8

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The figures of a run, and every promise that was broken.

    Attributes:
        requests: that the broker had confirmed.
        replies: all that came, repeats included.
        repeats: replies that say that they are one.
        calls: that the provider saw.
        called_again: calls beyond the first of a request, refused ones aside, each of which must be counted
            as ambiguous.
        rows: of the ledger.
        ambiguous: rows of calls of which nobody knows whether they were made.
        cleared_up: calls that were counted as ambiguous, until the event of the worker that made them came.
        lost: requests without an answer.
        problems: what is wrong, a line each.
    """

    requests: int
    replies: int
    repeats: int
    calls: int
    called_again: int
    rows: int
    ambiguous: int
    cleared_up: int
    lost: int
    problems: tuple[str, ...]

    def figures(self) -> dict[str, int]:
        """The counts, for a report."""
        counted = {name: getattr(self, name) for name in self.__slots__ if name != "problems"}
        return {**counted, "problems": len(self.problems)}

    def assert_kept(self) -> None:
        """Fail, naming what is wrong, when a promise was broken."""
        more = len(self.problems) - SHOWN
        shown = [*self.problems[:SHOWN], *([f"… and {more} more"] if more > 0 else [])]
        assert not self.problems, f"{self.figures()}\n" + "\n".join(shown)


def judge(
    asked: Collection[str],
    answers: Sequence[GenerationResult],
    calls: Sequence[dict[str, Any]],
    rows: Sequence[dict[str, Any]],
    doubts: Mapping[str, int] = MappingProxyType({}),
) -> Verdict:
    """Judge a run in which the provider answered what it took, and refused or failed what it says it did.

    Args:
        asked: ids of the requests that the broker has confirmed.
        answers: the replies that came.
        calls: the provider's own journal; probes are passed over.
        rows: the ledger.
        doubts: how many calls of a request workers have reported as ambiguous. Such a call may be booked as
            what it was: its worker died after it had told of it, and before it could keep the result.
    """
    known = set(asked)
    calls = [call for call in calls if call["path"] != "/models"]
    answers_of = _by(answers, lambda answer: answer.request_id)
    calls_of = _by(calls, lambda call: str(call["client_request_id"]))
    rows_of = _by(rows, lambda row: str(row["request_id"]))
    problems = []
    for kind, found in (("answered", answers_of), ("called", calls_of), ("booked", rows_of)):
        problems += [f"{stray}: {kind}, though nobody asked" for stray in sorted(found.keys() - known)]
    for request_id in sorted(known):
        problems += [
            f"{request_id}: {problem}"
            for problem in (
                *_problems_of_answers(answers_of[request_id]),
                *_problems_of_books(calls_of[request_id], rows_of[request_id], doubts.get(request_id, 0)),
            )
        ]
    return Verdict(
        requests=len(known),
        replies=len(answers),
        repeats=sum(answer.replayed for answer in answers),
        calls=len(calls),
        called_again=sum(max(0, _answered(calls_of[request_id]) - 1) for request_id in known),
        rows=len(rows),
        ambiguous=_ambiguous(rows),
        cleared_up=sum(
            max(0, doubts.get(request_id, 0) - _ambiguous(rows_of[request_id])) for request_id in known
        ),
        lost=sum(not answers_of[request_id] for request_id in known),
        problems=tuple(problems),
    )


def _problems_of_answers(answers: Sequence[GenerationResult]) -> list[str]:
    """Exactly one terminal result; what repeats it says so, and says the same."""
    if not answers:
        return ["no answer"]
    problems = []
    firsts = sum(not answer.replayed for answer in answers)
    if firsts > 1:
        problems.append(f"{firsts} answers that do not say that they repeat one")
    if len({answer.model_dump_json(exclude={"replayed"}) for answer in answers}) > 1:
        problems.append("answers that differ")
    failed = sorted({answer.error.code for answer in answers if answer.error is not None})
    if failed:
        problems.append(f"failed: {', '.join(failed)}")
    return problems


def _problems_of_books(
    calls: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], doubts: int
) -> list[str]:
    """Each call is booked; a row without a call, and a call after an answer, only where it is ambiguous."""
    problems = []
    ambiguous, answered = _ambiguous(rows), _answered(calls)
    if len(calls) > len(rows):
        problems.append(f"{len(calls)} calls, but {len(rows)} rows in the ledger")
    if len(rows) - len(calls) > ambiguous:
        problems.append(
            f"{len(rows)} rows in the ledger, {ambiguous} of them ambiguous, of {len(calls)} calls"
        )
    if answered - 1 > max(ambiguous, doubts):
        problems.append(f"called {answered} times, {max(ambiguous, doubts)} of them ambiguous")
    if len({row["_id"] for row in rows}) < len(rows):
        problems.append("a row that is there twice")
    tokens_called = sum(call["total_tokens"] for call in calls)
    tokens_booked = sum(row["total_tokens"] for row in rows)
    if not ambiguous and tokens_called != tokens_booked:
        problems.append(f"{tokens_called} tokens at the provider, {tokens_booked} in the ledger")
    failed = Counter(row["outcome"] for row in rows if row["outcome"] not in {"ok", AMBIGUOUS})
    if failed.total() > len(calls) - answered:
        problems.append(f"attempts that failed, though the provider is without fault: {dict(failed)}")
    return problems


def _answered(calls: Sequence[dict[str, Any]]) -> int:
    """How many calls the provider answered, or may have."""
    return sum((call["http_status"] or OK) < BAD_REQUEST for call in calls)


def _ambiguous(rows: Sequence[dict[str, Any]]) -> int:
    return sum(row["outcome"] == AMBIGUOUS for row in rows)


def _by(found: Sequence[T], key: Callable[[T], str]) -> defaultdict[str, list[T]]:
    grouped: defaultdict[str, list[T]] = defaultdict(list)
    for one in found:
        grouped[key(one)].append(one)
    return grouped
