"""Server-sent events, and cancelling the answers of disconnected clients."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.exceptions import HTTPException

from focusdoc.chat.threads import ReadingCancelledError
from focusdoc.decoding.answer import Answer, TextPiece
from focusdoc.errors import FocusdocError
from focusdoc.server.refusals import FAILED, error_body, status_of

#: Seconds without an event after which a stream sends a comment, so that proxies keep the connection open.
KEEP_ALIVE = 10.0
#: Seconds between two checks whether the client is connected.
_LOOK = 0.25

T = TypeVar("T")

_log = logging.getLogger(__name__)


async def last_answer(pieces: AsyncGenerator[TextPiece, None]) -> Answer:
    """Consume a stream and return its answer; ReadingCancelledError if it was cancelled before there was one."""
    found = None
    async with aclosing(pieces):
        async for piece in pieces:
            found = piece.answer
    if found is None:
        raise ReadingCancelledError("The call was cancelled while its documents were read.")
    return found


async def unless_gone(work: Coroutine[Any, Any, T], request: Request) -> T:
    """The result of `work`; cancels it and raises HTTPException 499 if the client disconnects."""
    task = asyncio.ensure_future(work)
    try:
        await _ends(task, request)
        return task.result()
    finally:
        task.cancel()


async def _ends(task: asyncio.Future[Any], request: Request, seconds: float = math.inf) -> bool:
    """Whether `task` ends within `seconds`; cancels it and raises HTTPException 499 if the client disconnects."""
    while not (await asyncio.wait({task}, timeout=_LOOK))[0]:
        if await request.is_disconnected():
            task.cancel()
            raise HTTPException(499, "The client disconnected.")
        seconds -= _LOOK
        if seconds <= 0:
            return False
    return True


async def sse(
    events: AsyncGenerator[dict[str, Any], None], request: Request, *, done: bool = False, named: bool = False
) -> Response:
    """A response of server-sent events.

    An error before the first event, within `KEEP_ALIVE` seconds, is raised; a later one becomes an event.

    Args:
        done: end with OpenAI's ``[DONE]``.
        named: send the type of each event as its name.
    """
    step: asyncio.Future[dict[str, Any]] = asyncio.ensure_future(anext(events))
    if await _ends(step, request, KEEP_ALIVE) and not isinstance(step.exception(), StopAsyncIteration):
        step.result()

    async def lines(step: asyncio.Future[dict[str, Any]]) -> AsyncGenerator[str, None]:
        try:
            while True:
                if not (await asyncio.wait({step}, timeout=KEEP_ALIVE))[0]:
                    yield ": still at work\n\n"
                    continue
                event = step.result()
                name = f"event: {event['type']}\n" if named else ""
                yield f"{name}data: {json.dumps(event, ensure_ascii=False)}\n\n"
                step = asyncio.ensure_future(anext(events))
        except StopAsyncIteration:
            if done:
                yield "data: [DONE]\n\n"
        except FocusdocError as error:
            yield f"data: {json.dumps(error_body(status_of(error), str(error)))}\n\n"
        except Exception:
            _log.exception("A stream failed")
            yield f"data: {json.dumps(error_body(500, FAILED))}\n\n"
        finally:
            step.cancel()
            with suppress(RuntimeError):  # it is still running, and ends by itself
                await events.aclose()

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(lines(step), media_type="text/event-stream", headers=headers)
