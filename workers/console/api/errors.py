"""How the HTTP API says that something is wrong: a status, a code and one line, never a traceback."""

from collections.abc import Mapping

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from contracts.errors import ErrorCode
from infra.errors import BrokerError, ConflictError, NotFoundError, PlatformError
from infra.mongo import PyMongoError
from workers.console.access.failures import TooManyFailuresError
from workers.console.access.service_tokens import ServiceTokenRefusedError
from workers.console.access.sign_in import SignInRefusedError
from workers.console.direct_keys import LeaseRefusedError, NoLeasingError

log = structlog.get_logger()

CODES = {
    400: "bad_request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
}


#: The status of what a leasing worker refuses, by its code.
LEASE_STATUSES = {
    ErrorCode.INVALID_REQUEST: 400,
    ErrorCode.PROVIDER_REJECTED: 400,
    ErrorCode.AUTOMATION_DISABLED: 403,
    ErrorCode.NO_KEYS: 409,
    ErrorCode.NO_USABLE_KEY: 409,
    ErrorCode.KEYS_EXHAUSTED: 429,
    ErrorCode.BUDGET_EXCEEDED: 429,
    ErrorCode.DEADLINE_EXCEEDED: 429,
    ErrorCode.PROVIDER_UNAVAILABLE: 503,
    ErrorCode.INTERNAL: 502,
}


class Problem(BaseModel):
    """What is wrong."""

    code: str
    message: str


class ErrorBody(BaseModel):
    """The body of every answer with an error status."""

    error: Problem


#: What every endpoint may answer beside its own.
ANSWERS: dict[int | str, dict[str, object]] = {
    status: {"model": ErrorBody, "description": description}
    for status, description in {
        400: "The request makes no sense",
        401: "Nobody is signed in",
        403: "Not allowed for this operator, or without a CSRF token",
        404: "There is no such thing",
        409: "It is there already, or can't be changed so",
        413: "The body is too large",
        422: "A field is wrong; the message says which, and how",
        502: "RabbitMQ refuses, or can't be reached",
        503: "MongoDB can't be reached, or what is asked for can't be done just now",
    }.items()
}


def problem(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An answer with an error status."""
    body = ErrorBody(error=Problem(code=code, message=message))
    return JSONResponse(body.model_dump(), status, headers)


def add_handlers(app: FastAPI) -> None:
    """Turn exceptions into answers."""
    app.add_exception_handler(PlatformError, _platform_error)
    app.add_exception_handler(PyMongoError, _mongo_error)
    app.add_exception_handler(RequestValidationError, _wrong_field)
    app.add_exception_handler(HTTPException, _http_error)


def _platform_error(_: Request, error: Exception) -> JSONResponse:
    match error:
        case TooManyFailuresError():
            retry = {"Retry-After": str(error.retry_after_s)}
            return problem(429, "too_many_failures", str(error), retry)
        case SignInRefusedError():
            return problem(401, "sign_in_refused", str(error))
        case ServiceTokenRefusedError():
            return problem(403, "forbidden", str(error))
        case LeaseRefusedError():
            return _lease_refused(error)
        case NoLeasingError():
            return problem(503, "no_leasing", str(error))
        case NotFoundError():
            return problem(404, "not_found", str(error))
        case ConflictError():
            return problem(409, "conflict", str(error))
        case BrokerError():
            return problem(502, "broker_error", str(error))
        case _:
            return problem(422, "invalid", str(error))


def _lease_refused(refusal: LeaseRefusedError) -> JSONResponse:
    why = refusal.error
    code = ErrorCode(why.code) if why.code in set(ErrorCode) else ErrorCode.INTERNAL
    headers = {} if refusal.retry_after_s is None else {"Retry-After": str(refusal.retry_after_s)}
    return problem(LEASE_STATUSES[code], code.value, why.message, headers)


def _mongo_error(_: Request, error: Exception) -> JSONResponse:
    log.warning("mongo_unavailable", error=type(error).__name__)
    return problem(503, "database_unavailable", f"no answer from MongoDB ({type(error).__name__})")


def _wrong_field(_: Request, error: Exception) -> JSONResponse:
    """Name the first field that is wrong, without its value, which may be a secret."""
    assert isinstance(error, RequestValidationError)  # noqa: S101  # it was registered for it
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return problem(422, "invalid", f"{where}: {first['msg']}")


def _http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101  # it was registered for it
    code = CODES.get(error.status_code, "error")
    return problem(error.status_code, code, str(error.detail), error.headers)
