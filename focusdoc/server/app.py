"""The application: files, chat completions, models, health and metrics, as clients of OpenAI's API expect them."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Form, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from focusdoc.chat.threads import run_in_thread, stream_in_thread
from focusdoc.decoding.answer import TextPiece
from focusdoc.documents import Document, load
from focusdoc.server import wire
from focusdoc.server.files import StoredFile
from focusdoc.server.library import Library
from focusdoc.server.metrics import Metrics
from focusdoc.server.refusals import BusyError, LimitedBody, add_errors
from focusdoc.server.streams import last_answer, sse, unless_gone

#: OpenAI's bounds of a file's life, in seconds.
_SHORTEST, _LONGEST = 3600, 2_592_000


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """What a server allows.

    Attributes:
        keys: API keys, each of which sees its own files only; none for no key at all.
        max_concurrent: answers that are written at once.
        max_waiting: answers that may wait for their turn; more are refused with 429.
        max_json_bytes: of a request that is no upload.
    """

    keys: tuple[str, ...] = ()
    max_concurrent: int = 4
    max_waiting: int = 32
    max_json_bytes: int = 64 << 20


class _Turns:
    """A bounded queue for answers."""

    def __init__(self, settings: ServerSettings) -> None:
        self._slots = asyncio.Semaphore(settings.max_concurrent)
        self._most = settings.max_waiting
        self.waiting = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Hold a slot.

        Raises:
            BusyError: too many wait.
        """
        if self._slots.locked() and self.waiting >= self._most:
            raise BusyError(f"{self.waiting} questions wait already; try again in a few seconds.")
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._slots.release()


def _owner_of(request: Request) -> str:
    """Whose request it is: a digest of its key; empty where none is needed.

    Raises:
        HTTPException: 401.
    """
    keys: list[bytes] = request.app.state.keys
    if not keys:
        return ""
    given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
    # All keys are compared, so that the time says nothing about which begins alike.
    if not any([hmac.compare_digest(given, key) for key in keys]):
        raise HTTPException(401, "The API key is missing or wrong; send it as a bearer token.")
    return hashlib.sha256(given).hexdigest()[:32]


Owner = Annotated[str, Depends(_owner_of)]


def create_app(library: Library, settings: ServerSettings, model: str) -> FastAPI:
    """The application.

    Args:
        library: started when the application starts.
        model: the name that clients see.
    """
    metrics = Metrics(library)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        library.start()
        app.state.turns = _Turns(settings)
        metrics.waiting = lambda: app.state.turns.waiting
        yield
        await asyncio.to_thread(library.stop)

    app = FastAPI(title="focusdoc", lifespan=lifespan, redoc_url=None)
    app.add_middleware(LimitedBody, max_upload=library.files.max_bytes, max_json=settings.max_json_bytes)
    add_errors(app)
    app.state.keys = [key.encode() for key in settings.keys]

    @app.get("/health")
    def health() -> Response:
        if library.is_ready:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "error" if library.failure else "loading", "details": library.failure}, 503)

    @app.get("/metrics")
    def show_metrics(owner: Owner) -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    def models(owner: Owner) -> dict[str, Any]:
        return {"object": "list", "data": [{"id": model, "object": "model", "created": 0, "owned_by": "focusdoc"}]}

    @app.post("/v1/files")
    def upload(
        owner: Owner,
        file: UploadFile,
        purpose: Annotated[str, Form(max_length=40)] = "user_data",
        expires_after_anchor: Annotated[str | None, Form(alias="expires_after[anchor]")] = None,
        expires_after_seconds: Annotated[
            int | None, Form(alias="expires_after[seconds]", ge=_SHORTEST, le=_LONGEST)
        ] = None,
    ) -> dict[str, Any]:
        name = (file.filename or "file").replace("\x00", "")[-200:]
        stored = library.files.add(
            file.file, filename=name, purpose=purpose, owner=owner, expires_after=expires_after_seconds
        )
        library.add(stored)
        return wire.file_object(stored, library.reading(stored))

    @app.get("/v1/files")
    def list_files(owner: Owner, purpose: str | None = None) -> dict[str, Any]:
        found = [file for file in library.files.all() if file.owner == owner and purpose in (None, file.purpose)]
        data = [wire.file_object(file, library.reading(file)) for file in reversed(found)]
        return {"object": "list", "data": data, "has_more": False}

    @app.get("/v1/files/{file_id}")
    def get_file(owner: Owner, file_id: str) -> dict[str, Any]:
        file = library.files.get(file_id, owner)
        return wire.file_object(file, library.reading(file))

    @app.get("/v1/files/{file_id}/content")
    def content(owner: Owner, file_id: str) -> Response:
        file = library.files.get(file_id, owner)
        # Never shown by a browser as a page of this server.
        headers = {"Content-Security-Policy": "sandbox", "X-Content-Type-Options": "nosniff"}
        return FileResponse(library.files.content(file), media_type=_media_type(file), headers=headers)

    @app.get("/v1/files/{file_id}/events")
    async def events(owner: Owner, request: Request, file_id: str) -> Response:
        file = library.files.get(file_id, owner)

        def progress(cancel: threading.Event) -> Generator[dict[str, Any], None, None]:
            for reading in library.progress(file):
                yield wire.file_object(file, reading)
                if cancel.is_set():
                    return

        return await sse(await stream_in_thread(progress), request)

    @app.delete("/v1/files/{file_id}")
    def delete(owner: Owner, file_id: str) -> dict[str, Any]:
        library.delete(library.files.get(file_id, owner))
        return {"id": file_id, "object": "file", "deleted": True}

    @app.post("/v1/chat/completions")
    async def chat_completions(owner: Owner, request: Request, asked: wire.ChatRequest) -> Response:
        chat = library.chat  # before anything is promised
        messages, wanted = wire.conversation(asked)
        files = [library.files.get(each, owner) for each in wanted if isinstance(each, str)]
        inline = [each for each in wanted if isinstance(each, wire.Inline)]
        options = asked.options()
        if asked.response_format is not None and asked.response_format.type != "text":
            schema = asked.response_format.json_schema or wire.JsonSchema()
            options["grammar"] = await asyncio.to_thread(chat.grammar, schema.schema_)

        def opened(cancel: threading.Event) -> list[Document]:
            return [
                *(library.document(file, cancel) for file in files),
                *(load(each.data, name=each.filename) for each in inline),
            ]

        async def answer() -> AsyncGenerator[TextPiece, None]:
            documents = await run_in_thread(opened)  # whoever waits for a reading holds no slot
            async with app.state.turns.turn():
                begun = time.perf_counter()

                def pieces(cancel: threading.Event) -> Generator[TextPiece, None, None]:
                    options["cancel"] = cancel
                    return chat.stream(messages, documents, **options)

                async with aclosing(await stream_in_thread(pieces)) as stream:
                    async for piece in stream:
                        if begun:
                            metrics.first_token(time.perf_counter() - begun)
                            begun = 0.0
                        if piece.answer is not None:
                            metrics.answered(piece.answer)
                        yield piece

        name, known = f"chatcmpl-{secrets.token_hex(12)}", {file.document_name: file for file in files}
        base_url = str(request.base_url)
        if asked.stream:
            with_usage = asked.stream_options is not None and asked.stream_options.include_usage
            chunks = wire.Chunks(name, model)

            async def events() -> AsyncGenerator[dict[str, Any], None]:
                first = True
                async with aclosing(answer()) as pieces:
                    async for piece in pieces:
                        if piece:
                            yield chunks.text(str(piece), first=first)
                            first = False
                        if piece.answer is not None:
                            cited = wire.citations(piece.answer, known, base_url)
                            for chunk in chunks.end(piece.answer, cited, with_usage=with_usage):
                                yield chunk

            return await sse(events(), request, done=True)
        whole = await unless_gone(last_answer(answer()), request)
        cited = wire.citations(whole, known, base_url)
        return JSONResponse(wire.completion(name, model, whole, cited))

    return app


def _media_type(file: StoredFile) -> str:
    """Of the kinds that browsers show; anything else is bytes."""
    kinds = {".pdf": "application/pdf", ".txt": "text/plain; charset=utf-8", ".md": "text/plain; charset=utf-8"}
    return kinds.get(Path(file.filename).suffix.lower(), "application/octet-stream")
