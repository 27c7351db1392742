"""One hostile act, and the list of those that a file has."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.chaos.noisy_neighbour.lying_provider import Lie
    from tests.chaos.noisy_neighbour.neighbour import Neighbour

Deed = Callable[["Neighbour"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Act:
    """Something that a service token allows one to try.

    `costs_apart`: it may cost workers their connection for unknown addresses, as decision 0012 says.
    `lends`: the neighbour may lease keys.
    `lie`: what the provider of its key answers; without it the key is an honest one.
    """

    name: str
    kind: str
    do: Deed
    costs_apart: bool = False
    lends: bool = False
    lie: "Lie | None" = None


@dataclass(slots=True)
class Kind:
    """The acts of one kind."""

    name: str
    acts: list[Act] = field(default_factory=list)

    def act(self, name: str, *, costs_apart: bool = False, lends: bool = False) -> Callable[[Deed], Deed]:
        """Add a function as an act, under a sentence that says what is done."""

        def add(deed: Deed) -> Deed:
            self.acts.append(Act(name, self.name, deed, costs_apart, lends))
            return deed

        return add

    def lie(self, name: str, *, forms: int = 1) -> "Callable[[Lie], Lie]":
        """Add what a provider of the neighbour's own answers, told to plain and to streamed requests.

        Args:
            name: a sentence that says what is answered.
            forms: how many calls hear all of it.
        """

        def add(lie: "Lie") -> "Lie":
            self.acts.append(Act(name, self.name, partial(be_told, forms=forms), lie=lie))
            return lie

        return add


async def be_told(neighbour: "Neighbour", *, forms: int) -> None:
    """Ask often enough to hear every form of a lie."""
    await neighbour.hear_lies(forms)
