"""An OpenAI-compatible endpoint in this process that can do everything wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def event(**values: Any) -> str:
    return f"data: {json.dumps(values)}\n\n"


def delta(text: str, reason: str | None = None) -> str:
    return event(choices=[{"delta": {"content": text}, "finish_reason": reason}])


#: What a whole answer looks like on the wire; some servers send comments to keep the line open.
WHOLE = [
    event(choices=[{"delta": {"role": "assistant", "content": None}, "finish_reason": None}]),
    ": still here\n\n",
    delta("Ep"),
    delta("pie"),
    delta("", "stop"),
    event(choices=[], usage={"prompt_tokens": 11, "completion_tokens": 2}),
    "data: [DONE]\n\n",
]


class Endpoint:
    """Sends `events` with `status`, and keeps what it was asked: path, headers, body.

    Attributes:
        silent: cleared, it sends nothing. left: set when a client went before it had all.
    """

    def __init__(self) -> None:
        self.events: list[str] = WHOLE
        self.status = 200
        self.headers: dict[str, str] = {}
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.silent = threading.Event()
        self.silent.set()
        self.left = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.asked.append((self.path, dict(self.headers), body))
                self.send_response(owner.status)
                for name, value in owner.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    for text in owner.events:
                        owner.silent.wait(10)
                        self.wfile.write(text.encode())
                        self.wfile.flush()
                except OSError:  # whoever asked has gone
                    owner.left.set()

            def do_CONNECT(self) -> None:
                owner.asked.append((self.path, dict(self.headers), {}))
                self.send_error(502)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Endpoint]:
        """One that serves in a thread of its own."""
        made = cls()
        thread = threading.Thread(target=made.server.serve_forever)
        thread.start()
        try:
            yield made
        finally:
            made.silent.set()
            made.server.shutdown()
            thread.join()
            made.server.server_close()
