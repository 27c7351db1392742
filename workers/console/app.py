"""The console: wires the HTTP API and the pages to their services, and serves them until told to stop."""

import socket

import structlog
import uvicorn

from infra.errors import PlatformError
from infra.settings import Settings
from infra.telemetry import configure_logging
from workers.console.api.app import create_app
from workers.console.pages.mount import mount_pages
from workers.console.services import open_services

log = structlog.get_logger()

#: How long requests may take that are under way when the console stops, in seconds.
GRACE_S = 5


async def run(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        PlatformError: a setting is wrong, the port is taken, or RabbitMQ or MongoDB refuses.
    """
    configure_logging(settings, "console")
    with _listening(settings) as listener:
        async with open_services(settings) as services:
            app = create_app(services)
            mount_pages(app, services)
            config = uvicorn.Config(
                app,
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                # Whoever reaches the console by HTTPS comes through a proxy on this machine.
                proxy_headers=settings.console_secure_cookies,
                timeout_graceful_shutdown=GRACE_S,
            )
            host, port = listener.getsockname()[:2]
            log.info("console_ready", url=f"http://{host}:{port}")
            await uvicorn.Server(config).serve(sockets=[listener])
    log.info("console_stopped")


def _listening(settings: Settings) -> socket.socket:
    try:
        return socket.create_server(
            (settings.console_host, settings.console_port), family=_family(settings.console_host)
        )
    except OSError as error:
        where = f"{settings.console_host}:{settings.console_port}"
        raise PlatformError(f"KEYWAY_CONSOLE_PORT: can't listen on {where}: {error.strerror}") from None


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
