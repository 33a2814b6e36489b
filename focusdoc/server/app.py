"""The web application: files, chat completions, responses, models, health and metrics, as in OpenAI's API."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import threading
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Form, Query, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from focusdoc.chat.threads import stream_in_thread
from focusdoc.decoding.answer import Answer
from focusdoc.server import wire
from focusdoc.server.answers import ServerSettings, Turns, answer
from focusdoc.server.files import StoredFile
from focusdoc.server.library import Library
from focusdoc.server.metrics import CountedRequests, Metrics
from focusdoc.server.refusals import LimitedBody, OwnOrigin, add_errors
from focusdoc.server.render import picture
from focusdoc.server.responses import ResponseRequest, StoredResponses, WrittenResponse
from focusdoc.server.streams import last_answer, sse, unless_gone

_PAGE = Path(__file__).with_name("page.html")
#: The start page loads nothing from other sites and cannot be framed.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
#: Any other file is an octet stream.
_MEDIA_TYPES = {".pdf": "application/pdf", ".txt": "text/plain; charset=utf-8", ".md": "text/plain; charset=utf-8"}
#: OpenAI's limits of `expires_after`, in seconds.
_SHORTEST, _LONGEST = 3600, 2_592_000


def _owner_of(request: Request) -> str:
    """A digest of the request's API key, or empty if the server needs none; HTTPException 401 if it is wrong."""
    keys: list[bytes] = request.app.state.keys
    if not keys:
        return ""
    given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
    # All keys are compared, so that the time reveals nothing about them.
    if not any([hmac.compare_digest(given, key) for key in keys]):
        raise HTTPException(401, "The API key is missing or wrong; send it as a bearer token.")
    return hashlib.sha256(given).hexdigest()[:32]


Owner = Annotated[str, Depends(_owner_of)]


def create_app(library: Library, settings: ServerSettings, model: str) -> FastAPI:
    """The application, which starts and stops `library`; `model` is the model's name for clients."""
    metrics, responses = Metrics(library), StoredResponses()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        library.start()
        app.state.turns = Turns(settings, library.free_bytes)
        metrics.waiting = lambda: app.state.turns.waiting
        library.is_answering = lambda: app.state.turns.running > 0
        yield
        await asyncio.to_thread(library.stop)

    app = FastAPI(title="focusdoc", lifespan=lifespan, redoc_url=None)
    app.add_middleware(
        LimitedBody,
        max_upload=library.files.max_bytes,
        max_json=settings.max_json_bytes,
        free_disk=library.files.free_bytes,
    )
    app.add_middleware(OwnOrigin, any_name=bool(settings.keys), allowed=settings.origins)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.origins,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=("*",),
        expose_headers=("Retry-After", "X-Mark-Top"),
    )
    app.add_middleware(CountedRequests, metrics=metrics)
    add_errors(app)
    app.state.keys = [key.encode() for key in settings.keys]

    @app.get("/", include_in_schema=False)
    def start_page() -> Response:
        return Response(_PAGE.read_bytes(), media_type="text/html; charset=utf-8", headers=_PAGE_HEADERS)

    @app.get("/health")
    def health() -> Response:
        status = "error" if library.failure else "ok" if library.is_ready else "loading"
        if status == "ok" and app.state.turns.is_full:
            status = "busy"
        return JSONResponse({"status": status, "details": library.failure}, 200 if status == "ok" else 503)

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
        # Sandboxed, so that browsers never show it as a page of this server's origin.
        headers = {"Content-Security-Policy": "sandbox", "X-Content-Type-Options": "nosniff"}
        media_type = _MEDIA_TYPES.get(Path(file.filename).suffix.lower(), "application/octet-stream")
        return FileResponse(library.files.content(file), media_type=media_type, headers=headers)

    @app.get("/v1/files/{file_id}/pages/{number}")
    def page(owner: Owner, file_id: str, number: int, quote: Annotated[str, Query(max_length=4000)] = "") -> Response:
        """A page of a PDF as a PNG with the quote marked; of other files, the page's text as JSON."""
        file = library.files.get(file_id, owner)
        document = library.reading(file).document
        if document is None or not 1 <= number <= len(document.pages):
            raise HTTPException(404, f"The file {file_id} has no page {number}, or has not been read yet.")
        data = library.files.content(file).read_bytes()
        if document.metadata.get("format") == "pdf":
            drawn, top = picture(data, number, quote)
            return Response(drawn, media_type="image/png", headers={"X-Mark-Top": str(top)})
        found = document.pages[number - 1]
        return JSONResponse({"number": number, "label": found.label, "text": document.text[found.start : found.end]})

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

    def files_of(owner: str, conversation: wire.Conversation) -> list[StoredFile]:
        """The uploaded files that a conversation names; UnknownFileError if one is missing or has another owner."""
        return [library.files.get(each, owner) for each in dict.fromkeys(conversation.file_ids)]

    @app.post("/v1/chat/completions")
    async def chat_completions(owner: Owner, request: Request, asked: wire.ChatRequest) -> Response:
        chat = library.chat  # refuses the request if the model is not loaded
        options = asked.options()
        if asked.response_format is not None and asked.response_format.type != "text":
            schema = asked.response_format.json_schema or wire.JsonSchema()
            options["grammar"] = await asyncio.to_thread(chat.grammar, schema.schema_)
        conversation = wire.conversation(asked.messages)
        files = files_of(owner, conversation)
        pieces = answer(library, app.state.turns, metrics, conversation, files, options)
        written = wire.Completion(model, files, str(request.base_url), partial(library.page_shares, files))
        if asked.stream:
            with_usage = asked.stream_options is not None and asked.stream_options.include_usage
            return await sse(written.chunks(pieces, with_usage=with_usage), request, done=True)
        return JSONResponse(written.whole(await unless_gone(last_answer(pieces), request)))

    @app.post("/v1/responses")
    async def create_response(owner: Owner, request: Request, asked: ResponseRequest) -> Response:
        _ = library.chat
        before = responses.get(asked.previous_response_id, owner) if asked.previous_response_id else None
        conversation = asked.conversation(before)
        files = files_of(owner, conversation)
        pieces = answer(library, app.state.turns, metrics, asked.instructed(conversation), files, asked.options())
        written = WrittenResponse(asked, model, files)

        def keep(whole: Answer) -> None:
            if asked.store:
                responses.keep(written.id, owner, conversation.with_answer(whole.text), written.whole(whole))

        if asked.stream:
            return await sse(written.events(pieces, keep), request, named=True)
        whole = await unless_gone(last_answer(pieces), request)
        keep(whole)
        return JSONResponse(written.whole(whole))

    @app.get("/v1/responses/{response_id}")
    def get_response(owner: Owner, response_id: str) -> dict[str, Any]:
        return responses.get(response_id, owner).response

    @app.delete("/v1/responses/{response_id}")
    def delete_response(owner: Owner, response_id: str) -> dict[str, Any]:
        responses.delete(response_id, owner)
        return {"id": response_id, "object": "response", "deleted": True}

    return app
