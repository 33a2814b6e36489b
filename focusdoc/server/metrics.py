"""What the server measures, in Prometheus's text format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from focusdoc.decoding.answer import Answer
from focusdoc.server.library import Library


class Metrics:
    """Counts answers, tokens and seconds; each application has its own."""

    def __init__(self, library: Library) -> None:
        self._registry = CollectorRegistry()
        #: How many answers wait for their turn.
        self.waiting: Callable[[], int] = lambda: 0

        def counter(name: str, about: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"focusdoc_{name}", about, labels, registry=self._registry)

        self._requests = counter("requests", "Requests, refused ones too.", ("method", "route", "status"))
        self._answers = counter("answers", "Answers that were written to their end.")
        self._written = counter("completion_tokens", "Tokens of answers.")
        self._read = counter("document_tokens_read", "Tokens of documents read for answers.")
        self._reused = counter("document_tokens_reused", "Tokens of documents that were in memory when asked.")
        self._first = Histogram(
            "focusdoc_first_token_seconds",
            "Seconds from the turn of a question to its first token.",
            buckets=(0.25, 0.5, 1, 2, 4, 8, 16, 32, 64),
            registry=self._registry,
        )
        waiting = Gauge("focusdoc_waiting", "Answers that wait for their turn.", registry=self._registry)
        waiting.set_function(lambda: self.waiting())
        held = Gauge("focusdoc_memory_bytes", "Bytes of keys and values held.", registry=self._registry)
        held.set_function(lambda: library.chat.pool.num_bytes if library.is_ready else 0)

    def requested(self, scope: Scope, status: int) -> None:
        """A request has been answered or refused."""
        # The route, not the path, and no method of a client's own: what clients send must not make series without end.
        route = getattr(scope.get("route"), "path", "")
        method = scope["method"] if route else ""
        self._requests.labels(method, route, status).inc()

    def first_token(self, seconds: float) -> None:
        """The first token of an answer has come."""
        self._first.observe(seconds)

    def answered(self, answer: Answer) -> None:
        """An answer is whole."""
        used = answer.usage
        self._answers.inc()
        self._written.inc(used.completion_tokens)
        self._read.inc(used.encoded_tokens)
        self._reused.inc(max(0, used.document_tokens - used.encoded_tokens))

    def text(self) -> str:
        """All of it, as Prometheus scrapes it."""
        return generate_latest(self._registry).decode()


class CountedRequests:
    """Counts every request by its status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requested(scope, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except Exception:
            self._metrics.requested(scope, 500)  # that answer is written outside of this middleware
            raise
