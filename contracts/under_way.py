"""The requests that a client has under way."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class UnderWay:
    """Their ids, each once: two answers under one id could not be told apart."""

    def __init__(self) -> None:
        self._ids: set[str] = set()

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, request_id: str) -> None:
        """Note a request that begins.

        Raises:
            ValueError: it is under way already.
        """
        if request_id in self._ids:
            raise ValueError(f"request {request_id} is under way already")
        self._ids.add(request_id)

    def remove(self, request_id: str) -> None:
        """Note a request that is over."""
        self._ids.discard(request_id)

    @contextmanager
    def hold(self, request_id: str) -> Iterator[None]:
        """Note a request for as long as the block takes.

        Raises:
            ValueError: it is under way already.
        """
        self.add(request_id)
        try:
            yield
        finally:
            self.remove(request_id)
