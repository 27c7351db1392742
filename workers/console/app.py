"""The console: wires the HTTP API and the pages to their services, and serves them until told to stop."""

import structlog
import uvicorn

from infra.listening import listen
from infra.metrics import exposed_metrics
from infra.readiness import consuming_on
from infra.settings import Settings
from infra.telemetry import configure_logging
from workers.console.api.app import create_app
from workers.console.metrics import ConsoleMetrics, Counted
from workers.console.pages.mount import mount_pages
from workers.console.services import open_services

log = structlog.get_logger()

#: How long requests may take that are under way when the console stops, in seconds.
GRACE_S = 5
#: How long an idle connection is kept, in seconds. Proxies keep theirs for 60 by default, and would send a
#: request on one that is just closed here.
KEEP_ALIVE_S = 75


async def run(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        PlatformError: a setting is wrong, the port is taken, or RabbitMQ or MongoDB refuses.
    """
    configure_logging(settings, "console")
    with listen(settings.console_host, settings.console_port, "KEYWAY_CONSOLE_PORT") as listener:
        async with exposed_metrics(settings, "console") as exposition, open_services(settings) as services:
            app = create_app(services)
            if exposition is not None:
                consuming_on(services.connection, exposition)
                app.add_middleware(Counted, metrics=ConsoleMetrics(exposition))
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
                timeout_keep_alive=KEEP_ALIVE_S,
            )
            host, port = listener.getsockname()[:2]
            log.info("console_ready", url=f"http://{host}:{port}")
            await uvicorn.Server(config).serve(sockets=[listener])
    log.info("console_stopped")
