"""One page that an operator has open: who they are, and whether they may do what they ask for."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
from nicegui import ui
from starlette.requests import Request

from infra.errors import PlatformError
from infra.mongo import PyMongoError
from workers.console.access.operators import Role
from workers.console.access.sessions import Caller
from workers.console.pages.door import SIGN_IN
from workers.console.pages.shared import SharedReads
from workers.console.services import Services

log = structlog.get_logger()
T = TypeVar("T")

#: How often an open page looks whether its operator is signed in still, in seconds.
CHECK_EVERY_S = 5.0


@dataclass(slots=True)
class Visit:
    """A page that somebody has open.

    Attributes:
        services: what it stands on.
        shared: what the pages of this process read together.
        request: that the page was loaded with.
        session: its session's name.
        caller: who it was when it was loaded; what they may do now is asked for at each action.
    """

    services: Services
    shared: SharedReads
    request: Request
    session: str
    caller: Caller
    _checked_at: float = field(default_factory=time.monotonic)

    @property
    def is_admin(self) -> bool:
        """Whether to show what changes something."""
        return self.caller.role is Role.ADMIN

    def asked(self, name: str) -> str | None:
        """A field of the page's address; None where it is not there or empty."""
        return self.request.query_params.get(name) or None

    async def is_signed_in(self) -> bool:
        """Whether the page may go on showing things; leaves for the sign-in page if not.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        if time.monotonic() - self._checked_at < CHECK_EVERY_S:
            return True
        self._checked_at = time.monotonic()
        caller = await self.services.sessions.caller(self.session, active=False)
        if caller is None or not caller.role.allows(self.caller.role):
            leave()
            return False
        return True

    async def change(self, work: Callable[[str], Awaitable[T]], done: str | None = None) -> T | None:
        """Change something in the operator's name, if they may do so now, and tell them how it went.

        Args:
            work: what to do, in the name of the actor that it is called with.
            done: what to say when it is done; None: nothing.

        Returns:
            What `work` returns; None where it was not done.
        """
        try:
            caller = await self.services.sessions.caller(self.session)
            if caller is None:
                leave()
                return None
            if caller.must_change_password or not caller.role.allows(Role.ADMIN):
                say("This needs an admin.", good=False)
                return None
            result = await work(caller.actor)
        except PlatformError as error:
            say(sentence(str(error)), good=False)
            return None
        except PyMongoError as error:
            log.warning("mongo_unavailable", error=type(error).__name__)
            say("No answer from MongoDB; look whether it was done before you try again.", good=False)
            return None
        if done is not None:
            say(done)
        return result


def leave() -> None:
    """Go to the sign-in page."""
    ui.run_javascript(f"location.href = '{SIGN_IN}'")


def say(text: str, *, good: bool = True) -> None:
    """Tell the operator something in passing; the text is shown as text, whatever stands in it."""
    ui.notify(
        text,
        type="positive" if good else "negative",
        position="top",
        close_button=False if good else "Close",
        timeout=3500 if good else 9000,
    )


def sentence(text: str) -> str:
    """A message of ours as people expect it."""
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith((".", "!", "?")) else ".")
