"""Refused requests: errors in OpenAI's format, limits of request bodies, and the origin check."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from focusdoc.errors import FocusdocError, MemoryShortageError, ReaderError
from focusdoc.server.files import FileTooLargeError, UnknownFileError
from focusdoc.server.library import NotLoadedError

#: Seconds after which a refused client may try again.
RETRY_AFTER = 5

#: The message of an unexpected error.
FAILED = "The server failed; its log says why."
_FULL = "The server's disk is full; delete files, or try a smaller one."

_log = logging.getLogger(__name__)


class BusyError(FocusdocError):
    """The queue of answers is full."""


#: The HTTP status of each kind of error; all others are the client's mistake (400).
_STATUS: tuple[tuple[type[FocusdocError], int], ...] = (
    (UnknownFileError, 404),
    (FileTooLargeError, 413),
    (BusyError, 429),
    (MemoryShortageError, 503),
    (NotLoadedError, 503),
    (ReaderError, 502),
)


def status_of(error: FocusdocError) -> int:
    """The HTTP status of an error."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 400)


def error_body(status: int, message: str) -> dict[str, Any]:
    """An error in OpenAI's format."""
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def _error(status: int, message: str) -> JSONResponse:
    headers = {"Retry-After": str(RETRY_AFTER)} if status in (429, 503) else None
    return JSONResponse(error_body(status, message), status, headers)


def add_errors(app: FastAPI) -> None:
    """Make `app` return errors as one sentence in OpenAI's format; details of unexpected ones are only logged."""

    @app.exception_handler(FocusdocError)
    def ours(request: Request, error: FocusdocError) -> Response:
        return _error(status_of(error), str(error))

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> Response:
        return _error(error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return _error(400, f"The request is not valid: {where or 'its body'}: {first['msg']}.")

    @app.exception_handler(OSError)
    def system(request: Request, error: OSError) -> Response:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _error(507, _FULL)
        return fault(request, error)

    @app.exception_handler(Exception)
    def fault(request: Request, error: Exception) -> Response:
        _log.exception("A request failed")
        return _error(500, FAILED)


class LimitedBody:
    """Refuses bodies that are too long, whatever their headers say, and uploads that do not fit on the disk."""

    def __init__(self, app: ASGIApp, max_upload: int, max_json: int, free_disk: Callable[[], int]) -> None:
        self._app, self._max_upload, self._max_json, self._free_disk = app, max_upload, max_json, free_disk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_upload = scope["path"] == "/v1/files"
        limit = self._max_upload + (1 << 20) if is_upload else self._max_json
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > limit:
            await _error(413, f"The request has more than the {limit:,} bytes allowed.")(scope, receive, send)
            return
        if is_upload and length.isdigit() and int(length) > self._free_disk():
            await _error(507, _FULL)(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise HTTPException(413, f"The request has more than the {limit:,} bytes allowed.")
            return message

        await self._app(scope, counted, send)


class OwnOrigin:
    """Refuses cross-site requests from browsers, and requests under other host names than localhost.

    Without API keys, any page open in a browser could upload files here, or read them under a host name of its own
    that resolves to this address (DNS rebinding).

    Args:
        any_name: accept any host name, since API keys are required.
        allowed: origins whose pages may send requests.
    """

    def __init__(self, app: ASGIApp, *, any_name: bool, allowed: Collection[str] = ()) -> None:
        self._app, self._any_name, self._allowed = app, any_name, allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            host, origin = (headers.get(name, b"").decode("latin-1") for name in (b"host", b"origin"))
            if not self._any_name and _name_of(host) not in ("localhost", "127.0.0.1", "::1"):
                await _error(403, f"The host name {host!r} is not allowed; use localhost.")(scope, receive, send)
                return
            if origin and origin.partition("://")[2] != host and origin not in self._allowed:
                message = f"Requests from the website {origin!r} are not allowed; --cors allows them."
                await _error(403, message)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _name_of(host: str) -> str | None:
    """The name or address in a Host header, without its port; None if it is malformed."""
    if set(host) & set("@/?#\\"):
        return None
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
