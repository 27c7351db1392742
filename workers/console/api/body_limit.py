"""A bound on what a request may bring, before anything reads it."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers.console.api.errors import problem

#: The largest body of a request, in bytes: a file of keys, and some.
LARGEST_BODY = 4 * 1024 * 1024


class BodyLimit:
    """Answers 413 to a body that is too large; one that does not say so beforehand is cut off."""

    def __init__(self, app: ASGIApp) -> None:
        """Take the application that answers everything else."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > LARGEST_BODY:
            message = f"the body is larger than {LARGEST_BODY} bytes"
            return await problem(413, "too_large", message)(scope, receive, send)
        came = 0

        async def receive_within_bounds() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            return message if came <= LARGEST_BODY else {"type": "http.disconnect"}

        return await self._app(scope, receive_within_bounds, send)
