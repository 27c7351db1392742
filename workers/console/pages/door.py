"""Who gets to the pages: a session's own browser, from the console's own site, and nobody else.

What a page does travels over its websocket, which bears no CSRF token. Instead:
- the session's cookie is `SameSite=Strict`: a browser sends it along with nothing that another site starts;
- a websocket, and whatever is not a GET, is refused unless its `Origin` is the console's own;
- a page's websocket opens only with the very session that the page was loaded with;
- whoever acts is looked up anew at each action (`visit.py`), so that a page left open may do no more than
  its operator may now.
"""

from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, quote, urlsplit

from nicegui import Client
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers.console.api.callers import cookie_name
from workers.console.services import Services

#: Where the pages are.
PREFIX = "/console"
SIGN_IN, PASSWORD, SIGN_OUT = f"{PREFIX}/sign-in", f"{PREFIX}/password", f"{PREFIX}/sign-out"
ASSETS = f"{PREFIX}/assets"
#: What holds nothing of anybody's: the library's own scripts and styles, and ours.
OPEN = (f"{PREFIX}/_nicegui/", f"{ASSETS}/")
#: Part of that place which is a page's own.
OF_A_PAGE = f"{PREFIX}/_nicegui/client/"
SOCKET = f"{PREFIX}/_nicegui_ws/"
#: NiceGUI compiles its templates in the browser, hence `unsafe-eval`; nothing is loaded from, sent to, or
#: shown within another site.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "font-src 'self'; img-src 'self' data: blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)


class Door:
    """Middleware around the console's application."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        """Take what is behind the door, and who knows the sessions."""
        self._app = app
        self._services = services
        self._cookie = cookie_name(services.settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, turn it away, or send it to the sign-in page."""
        path = scope.get("path", "")
        if scope["type"] not in {"http", "websocket"} or not path.startswith(PREFIX):
            await self._app(scope, receive, send)
        elif refusal := await self._refusal(scope, path):
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, _with_policy(send))

    async def _refusal(self, scope: Scope, path: str) -> ASGIApp | None:
        headers = Headers(scope=scope)
        changes = scope["type"] == "websocket" or scope["method"] not in {"GET", "HEAD"}
        if changes and not is_own_origin(headers.get("origin"), headers.get("host", "")):
            return PlainTextResponse("this comes from another site", 403)
        if path == SIGN_IN or (path.startswith(OPEN) and not path.startswith(OF_A_PAGE)):
            return None
        session = _cookies(headers).get(self._cookie)
        caller = await self._services.sessions.caller(session) if session else None
        if path.startswith((SOCKET, OF_A_PAGE)):
            is_own = caller is not None and session == self._session_of_page(scope, path)
            return None if is_own else PlainTextResponse("sign in first", 403)
        if caller is None:
            back = quote(path, safe="/")
            return RedirectResponse(f"{SIGN_IN}?next={back}", 303)
        if caller.must_change_password and path not in {PASSWORD, SIGN_OUT}:
            return RedirectResponse(PASSWORD, 303)
        return None

    def _session_of_page(self, scope: Scope, path: str) -> str | None:
        """The session that a page was loaded with, which a websocket or an upload is of."""
        if path.startswith(OF_A_PAGE):
            client_id = path.removeprefix(OF_A_PAGE).partition("/")[0]
        else:
            client_id = parse_qs(scope["query_string"].decode("latin-1")).get("client_id", [""])[0]
        client = Client.instances.get(client_id)
        return None if client is None else client.request.cookies.get(self._cookie)


def is_own_origin(origin: str | None, host: str) -> bool:
    """Whether a request comes from a page of the site that it goes to."""
    return origin is not None and urlsplit(origin).netloc == host


def _cookies(headers: Headers) -> dict[str, str]:
    found: SimpleCookie = SimpleCookie()
    try:
        found.load(headers.get("cookie", ""))
    except CookieError:
        return {}
    return {name: morsel.value for name, morsel in found.items()}


def _with_policy(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        await send(message)

    return sending
