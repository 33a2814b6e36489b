"""Prometheus metrics of the server."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from focusdoc.decoding.answer import Answer
from focusdoc.server.library import Library


class Metrics:
    """The metrics of one application: requests, answers, tokens and seconds."""

    def __init__(self, library: Library) -> None:
        self._registry = CollectorRegistry()
        #: Returns the number of queued answers.
        self.waiting: Callable[[], int] = lambda: 0

        def counter(name: str, about: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"focusdoc_{name}", about, labels, registry=self._registry)

        self._requests = counter("requests", "Requests, including refused ones.", ("method", "route", "status"))
        self._answers = counter("answers", "Completed answers.")
        self._written = counter("completion_tokens", "Tokens of answers.")
        self._read = counter("document_tokens_read", "Document tokens read for answers.")
        self._reused = counter("document_tokens_reused", "Document tokens that answers found in memory.")
        self._first = Histogram(
            "focusdoc_first_token_seconds",
            "Seconds from getting a slot to the first token.",
            buckets=(0.25, 0.5, 1, 2, 4, 8, 16, 32, 64),
            registry=self._registry,
        )
        waiting = Gauge("focusdoc_waiting", "Queued answers.", registry=self._registry)
        waiting.set_function(lambda: self.waiting())
        held = Gauge("focusdoc_memory_bytes", "Bytes of cached keys and values.", registry=self._registry)
        held.set_function(lambda: library.chat.pool.num_bytes if library.is_ready else 0)

    def requested(self, scope: Scope, status: int) -> None:
        """Count an answered or refused request."""
        # Paths and unknown methods are no labels: clients could create any number of series.
        route = getattr(scope.get("route"), "path", "")
        method = scope["method"] if route else ""
        self._requests.labels(method, route, status).inc()

    def first_token(self, seconds: float) -> None:
        """Record the seconds to the first token of an answer."""
        self._first.observe(seconds)

    def answered(self, answer: Answer) -> None:
        """Count a completed answer and its tokens."""
        used = answer.usage
        self._answers.inc()
        self._written.inc(used.completion_tokens)
        self._read.inc(used.encoded_tokens)
        self._reused.inc(max(0, used.document_tokens - used.encoded_tokens))

    def text(self) -> str:
        """All metrics in Prometheus's text format."""
        return generate_latest(self._registry).decode()


class CountedRequests:
    """Middleware that counts every request by its status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        started = False

        async def counted(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._metrics.requested(scope, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except Exception:
            if not started:
                self._metrics.requested(scope, 500)  # the error response is sent outside of this middleware
            raise
