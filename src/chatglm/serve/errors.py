"""What a client is told when something is wrong: OpenAI's shape and the right status."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from chatglm.generation.constrain import ConstraintError

log = logging.getLogger("chatglm.serve")

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "overloaded_error",
}


class ApiError(HTTPException):
    """An error with the status, sentence, field and code that the client gets."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        headers = None if retry_after is None else {"Retry-After": str(retry_after)}
        super().__init__(status, message, headers)
        self.message = message
        self.param = param
        self.code = code


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """The error of a request that cannot be served as it is."""
    return ApiError(400, message, param=param, code=code)


def failure(error: Exception) -> ApiError:
    """What a client is told of an error while its request ran; the details go to the log."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ConstraintError):
        return invalid(str(error), "response_format", "invalid_schema")
    is_memory = isinstance(error, MemoryError) or "memory" in str(error).lower()
    if is_memory or type(error).__name__ == "OutOfMemoryError":
        return ApiError(
            503,
            "there was not enough memory for this request; send a shorter one or try again",
            code="out_of_memory",
            retry_after=5,
        )
    return ApiError(500, "the server failed on this request; its log says more", code="failed")


def shape(error: ApiError) -> dict[str, dict[str, str | None]]:
    """The body of an error."""
    kind = KINDS.get(error.status_code, "invalid_request_error")
    return {
        "error": {
            "message": error.message,
            "type": kind,
            "param": error.param,
            "code": error.code,
        }
    }


def respond(error: ApiError) -> JSONResponse:
    """The response to an error."""
    headers = dict(error.headers or {})
    if error.status_code == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(shape(error), status_code=error.status_code, headers=headers)


def add_handlers(app: FastAPI) -> None:
    """Make every error of an application an error in this shape."""

    @app.exception_handler(RequestValidationError)
    async def not_valid(request: Request, error: RequestValidationError) -> JSONResponse:
        told = explain(error.errors(), error.body)
        request.scope["chatglm.record"].code = told.code
        return respond(told)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error, ApiError):
            request.scope["chatglm.record"].code = error.code
            return respond(error)
        message = {
            404: f"no such endpoint: {request.method} {request.url.path[:100]}",
            405: f"{request.url.path[:100]} does not take {request.method}",
        }.get(error.status_code, str(error.detail) or HTTPStatus(error.status_code).phrase)
        plain = ApiError(error.status_code, message)
        plain.headers = error.headers
        return respond(plain)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        log.error("request failed", exc_info=error)
        return respond(failure(error))


M = TypeVar("M", bound=BaseModel)


def validated(kind: type[M], data: Mapping[str, object]) -> M:
    """A body that stands for another one; what is wrong with it is the client's."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise explain([{**e} for e in error.errors()], data) from error


def explain(errors: Sequence[Mapping[str, object]], body: object) -> ApiError:
    """The first of pydantic's complaints as a sentence that names the field."""
    ranked = sorted(errors, key=lambda e: -depth(place(e, body)))
    first = next((e for e in errors if e["type"] == "extra_forbidden"), ranked[0])
    parts = place(first, body)
    param = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in parts).lstrip(".") or None
    kind, said = str(first["type"]), str(first["msg"])
    said = said.removeprefix("Value error, ")
    if kind == "json_invalid":
        return invalid("the body is not valid JSON", code="invalid_json")
    if param is None and kind == "value_error":  # of fields that do not go together
        word = said.split(" ", 1)[0]
        is_field = isinstance(body, Mapping) and word in body
        return invalid(said, word if is_field else None, "invalid_value")
    if param is None:
        return invalid("the body must be a JSON object with Content-Type: application/json")
    if kind == "extra_forbidden":
        return invalid(f"{param} is not a field of this request; leave it out", param, "unknown")
    if kind == "missing":
        return invalid(f"{param} is missing", param, "missing")
    return invalid(f"{param}: {said[:1].lower()}{said[1:]}", param, "invalid_value")


def place(error: Mapping[str, object], body: object) -> list[str | int]:
    """The path to what is wrong, in the body's own names."""
    location = error["loc"]
    assert isinstance(location, tuple)
    parts: list[str | int] = []
    here = body
    last = len(location) - 1
    for i, part in enumerate(location[1:] if location[:1] == ("body",) else location, start=1):
        if isinstance(here, Mapping) and isinstance(part, str):
            if part in here or (i == last and error["type"] == "missing"):
                parts.append(part)
                here = here.get(part)
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            parts.append(part)
            here = here[part]
    return parts


def depth(parts: Sequence[object]) -> int:
    """How deep a path goes: of a union's complaints, the deepest is about what was meant."""
    return len(parts)
