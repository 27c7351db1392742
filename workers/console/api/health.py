"""Whether the console is alive, and whether what it stands on is there."""

import asyncio
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from infra.errors import BrokerError
from infra.mongo import PyMongoError
from workers.console.api.callers import ServicesOf

router = APIRouter(tags=["health"])

#: How long a look may take, in seconds.
LOOK_S = 3.0


class Alive(BaseModel):
    """The process runs."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """What the console stands on."""

    status: Literal["ok", "unavailable"]
    mongodb: bool
    rabbitmq: bool
    management: bool


@router.get("/healthz")
async def healthz() -> Alive:
    """Whether the process runs."""
    return Alive()


@router.get("/readyz", responses={503: {"model": Ready, "description": "Something is away"}})
async def readyz(services: ServicesOf, response: Response) -> Ready:
    """Whether MongoDB, RabbitMQ and its management API are there."""
    mongodb, management = await asyncio.gather(_mongodb(services), _management(services))
    rabbitmq = services.connection.connected.is_set()
    ready = mongodb and management and rabbitmq
    response.status_code = 200 if ready else 503
    return Ready(
        status="ok" if ready else "unavailable", mongodb=mongodb, rabbitmq=rabbitmq, management=management
    )


async def _mongodb(services: ServicesOf) -> bool:
    try:
        async with asyncio.timeout(LOOK_S):
            await services.mongo.ping()
    except (PyMongoError, TimeoutError):
        return False
    return True


async def _management(services: ServicesOf) -> bool:
    try:
        async with asyncio.timeout(LOOK_S):
            await services.admin.call("GET", "whoami")
    except (BrokerError, TimeoutError):
        return False
    return True
