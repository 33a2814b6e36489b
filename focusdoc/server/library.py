"""The documents of uploaded files: read one after another in the background, then shared by all questions."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

from focusdoc.chat.messages import Message
from focusdoc.chat.threads import ReadingCancelledError
from focusdoc.decoding.answer import Answer
from focusdoc.decoding.looking import page_shares
from focusdoc.documents import Document, load
from focusdoc.errors import FocusdocError
from focusdoc.memory.plan import QUESTION_TOKENS, free_bytes
from focusdoc.server.files import FileStore, StoredFile

if TYPE_CHECKING:
    from focusdoc.chat.conversation import Chat

#: Characters per token, to estimate the length of a document without a memory.
_CHARACTERS_OF_TOKEN = 4
#: Most seconds that reading waits for answers between two passes.
_YIELD_SECONDS = 10.0
#: Seconds between two sweeps of expired files.
_SWEEP_SECONDS = 60.0

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Reading:
    """Progress of a file.

    Attributes:
        status: "uploaded" until it has been read, then "processed" or "error".
        details: why reading failed, or what the parser left out.
        done, total: tokens read and total tokens; 0 until known.
    """

    status: Literal["uploaded", "processed", "error"] = "uploaded"
    details: str | None = None
    done: int = 0
    total: int = 0
    document: Document | None = None
    cancel: threading.Event = field(default_factory=threading.Event)


class FileNotReadyError(FocusdocError):
    """A file cannot be asked: reading it failed, or it was deleted."""


class NotLoadedError(FocusdocError):
    """The model is still loading, or loading failed."""


class Library:
    """Reads uploaded files and provides their documents; `chat` makes the chat in the background, loading the model."""

    def __init__(self, files: FileStore, chat: Callable[[], Chat]) -> None:
        self.files = files
        self._make_chat = chat
        self._chat: Chat | None = None
        #: Why the server cannot answer questions or read files until it is restarted.
        self.failure: str | None = None
        self._readings: dict[str, Reading] = {}
        self._changed = threading.Condition()
        #: Whether answers are being written; reading yields to them.
        self.is_answering: Callable[[], bool] = lambda: False
        self._queue: queue.Queue[StoredFile | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="focusdoc-reading", daemon=True)

    def start(self) -> None:
        """Load the model and read the stored files, in the background."""
        for file in self.files.all():
            self.add(file)
        self._thread.start()

    def stop(self) -> None:
        """Cancel reading after the current pass; waits up to 30 seconds."""
        for reading in self._readings.values():
            reading.cancel.set()
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    @property
    def chat(self) -> Chat:
        """The chat; raises NotLoadedError while the model is loading, or if loading failed."""
        if self._chat is None:
            raise NotLoadedError(self.failure or "The model is being loaded; try again in a few seconds.")
        return self._chat

    @property
    def is_ready(self) -> bool:
        """Whether questions can be answered."""
        return self._chat is not None

    def add(self, file: StoredFile) -> None:
        """Queue a file for reading."""
        self._readings[file.id] = Reading()
        self._queue.put(file)

    def reading(self, file: StoredFile) -> Reading:
        """Progress of a file; an error if it was deleted, or if nothing is read any more."""
        reading = self._readings.get(file.id) or Reading(status="error", details="It was deleted.")
        if reading.status == "uploaded" and self.failure is not None:
            return Reading(status="error", details=self.failure)
        return reading

    def document(self, file: StoredFile, cancel: threading.Event) -> Document:
        """Wait until a file has been read, and return its document.

        Raises:
            FileNotReadyError: reading failed, or the file was deleted. ReadingCancelledError: `cancel` was set.
        """
        with self._changed:
            while (reading := self.reading(file)).status == "uploaded":
                if cancel.is_set():
                    raise ReadingCancelledError("cancelled")
                self._changed.wait(0.05)
        if reading.status == "error" or reading.document is None:
            raise FileNotReadyError(f"The file {file.id} cannot be asked: {reading.details}")
        return reading.document

    def progress(self, file: StoredFile) -> Iterator[Reading]:
        """Yield the progress of a file at least twice a second, until reading ends."""
        while True:
            reading = self.reading(file)
            yield reading
            if reading.status != "uploaded":
                return
            with self._changed:
                self._changed.wait(0.5)

    def free_bytes(self) -> int:
        """Free bytes on the model's device."""
        return free_bytes(self.chat.engine.base.device)

    def answer_bytes(
        self, documents: Sequence[Document], messages: Sequence[Message] = (), max_new_tokens: int = 0
    ) -> int:
        """Estimate the most bytes of keys and values that an answer adds.

        They are those behind all chunks, and those of chunks without a memory: of new documents, and of messages longer
        than the local window.
        """
        engine, pool = self.chat.engine, self.chat.pool
        memories = [pool.find(document.text) for document in documents]
        known = [memory.num_tokens for memory in memories if memory is not None]
        new = [len(each.text) for each, memory in zip(documents, memories, strict=True) if memory is None]
        parts = [part for message in messages for part in message.parts]
        prefixes = [pool.longest_prefix(part) for part in parts]
        known += [memory.num_tokens for prefix in prefixes if prefix and (memory := pool.find(prefix)) is not None]
        pasted = sum(map(len, parts)) - sum(len(prefix) for prefix in prefixes if prefix)
        unread = [length // _CHARACTERS_OF_TOKEN for length in new]
        unread.append(max(0, pasted // _CHARACTERS_OF_TOKEN - engine.config.local_window))
        chunks = sum(math.ceil(tokens / engine.chunk_size) for tokens in (*known, *unread))
        tail = engine.num_tail_tokens(QUESTION_TOKENS, max_new_tokens)
        return (chunks * tail + sum(unread)) * engine.base.kv_bytes_per_token

    def page_shares(self, files: Sequence[StoredFile], answer: Answer) -> dict[str, list[float]]:
        """Each page's share of an answer's attention mass, by file id; only for files with several pages.

        `files` are in the order of the question.
        """
        found: dict[str, list[float]] = {}
        shares = answer.chunk_shares
        for file in files:
            document = self.reading(file).document
            memory = self.chat.pool.find(document.text) if document is not None else None
            if document is None or memory is None or len(shares) < memory.num_chunks:
                break  # deleted or evicted meanwhile
            own, shares = shares[: memory.num_chunks], shares[memory.num_chunks :]
            if len(document.pages) > 1:
                by_page = page_shares(document, memory.chunks, own)
                found[file.id] = [round(share, 4) for share in by_page.values()]
        return found

    def delete(self, file: StoredFile) -> None:
        """Delete a file, and its memory once no other file has the same content."""
        self.files.delete(file)
        reading = self._readings.pop(file.id, None)
        if reading is None:
            return
        reading.cancel.set()
        self._notify()
        if reading.document is not None and not any(other.sha256 == file.sha256 for other in self.files.all()):
            self.chat.forget(reading.document.text)

    def _work(self) -> None:
        try:
            self._chat = _in_own_thread(self._make_chat)
            self._read_all()
        except FocusdocError as error:
            self.failure = str(error)
            _log.error("The server cannot continue: %s", error)
        except Exception:  # /health reports every failure
            self.failure = "The server failed; its log says why."
            _log.exception("The server cannot continue")
        self._notify()

    def _read_all(self) -> None:
        swept = time.monotonic()
        while True:
            with suppress(queue.Empty):
                if (file := self._queue.get(timeout=_SWEEP_SECONDS)) is None:
                    return
                _in_own_thread(partial(self._read, file))
            if time.monotonic() - swept >= _SWEEP_SECONDS:
                swept = time.monotonic()
                self._delete_expired()

    def _delete_expired(self) -> None:
        for file in self.files.expired():
            try:
                self.delete(file)
            except (OSError, FocusdocError) as error:
                _log.error("The expired file %s cannot be deleted: %s", file.id, error)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _read(self, file: StoredFile) -> None:
        reading = self._readings.get(file.id)
        if reading is None or reading.cancel.is_set():
            return

        def progress(done: int, total: int) -> None:
            reading.done, reading.total = done, total
            self._notify()
            until = time.monotonic() + _YIELD_SECONDS  # answers go first
            while self.is_answering() and not reading.cancel.is_set() and time.monotonic() < until:
                time.sleep(0.02)

        try:
            document = load(self.files.content(file).read_bytes(), name=file.document_name)
            memory, _ = self.chat.read(document, cancel=reading.cancel, progress=progress)
            progress(memory.num_tokens, memory.num_tokens)
            reading.document, reading.status = document, "processed"
            reading.details = "; ".join(document.left_out) or None
        except ReadingCancelledError:
            reading.status, reading.details = "error", "Reading was cancelled."
        except FocusdocError as error:
            reading.status, reading.details = "error", str(error)
        except OSError as error:  # its text would name a path of the server
            _log.error("Reading %s failed: %s", file.id, error)
            reading.status, reading.details = "error", f"It could not be read ({error.strerror})."
        except Exception:  # a bug must not end the thread that reads all files
            _log.exception("Reading %s failed", file.id)
            reading.status, reading.details = "error", "It could not be read; the server's log says why."
        self._notify()


def _in_own_thread(work: Callable[[], T]) -> T:
    """Run `work()` in a thread that ends afterwards; see `focusdoc.chat.threads`."""
    with ThreadPoolExecutor(1, thread_name_prefix="focusdoc-reading") as own:
        return own.submit(work).result()
