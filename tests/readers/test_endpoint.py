"""A reader behind an OpenAI-compatible endpoint, played by a server in this process that can do everything wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from focusdoc.config import GenerationConfig
from focusdoc.errors import ConfigError, ReaderError
from focusdoc.readers import endpoint
from focusdoc.readers.endpoint import EndpointReader
from focusdoc.readers.reader import Written

MESSAGES = [("system", "Answer."), ("user", "Who?")]


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
    """Sends `events` with `status`, and keeps what it was asked."""

    def __init__(self) -> None:
        self.events: list[str] = WHOLE
        self.status = 200
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.silent = threading.Event()
        self.silent.set()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.asked.append((self.path, dict(self.headers), body))
                self.send_response(owner.status)
                self.end_headers()
                for text in owner.events:
                    owner.silent.wait(10)
                    self.wfile.write(text.encode())
                    self.wfile.flush()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.delenv("FOCUSDOC_READER_KEY", raising=False)
    made = Endpoint()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.silent.set()
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def written(reader: EndpointReader, **settings: Any) -> tuple[list[str], Written]:
    stream, pieces = reader.write(MESSAGES, GenerationConfig(**settings)), []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return pieces, end.value


def test_an_answer_comes_piece_by_piece_with_its_usage(served: Endpoint) -> None:
    pieces, ended = written(EndpointReader(served.url, "some-model"))
    assert pieces == ["Ep", "pie"]
    assert (ended.finish_reason, ended.prompt_tokens, ended.completion_tokens) == ("stop", 11, 2)
    assert ended.first_token >= 0


def test_settings_and_messages_are_what_is_asked(served: Endpoint) -> None:
    written(EndpointReader(served.url + "/", "m", key="k"), max_new_tokens=9, temperature=0.5, stop="END", seed=3)
    ((path, headers, asked),) = served.asked
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer k"
    assert asked["messages"] == [{"role": "system", "content": "Answer."}, {"role": "user", "content": "Who?"}]
    assert (asked["model"], asked["max_tokens"], asked["temperature"]) == ("m", 9, 0.5)
    assert (asked["stop"], asked["seed"], asked["stream"]) == (["END"], 3, True)


def test_the_key_comes_from_the_environment_and_none_is_sent_without(
    served: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(EndpointReader(served.url, "m"))
    monkeypatch.setenv("FOCUSDOC_READER_KEY", "secret")
    written(EndpointReader(served.url, "m"))
    assert [headers.get("Authorization") for _, headers, _ in served.asked] == [None, "Bearer secret"]


def test_a_length_is_told(served: Endpoint) -> None:
    served.events = [delta("Ep"), delta("", "length"), "data: [DONE]\n\n"]
    assert written(EndpointReader(served.url, "m"))[1].finish_reason == "length"


def test_it_can_be_cancelled(served: Endpoint) -> None:
    cancel = threading.Event()
    stream = EndpointReader(served.url, "m").write(MESSAGES, GenerationConfig(), cancel)
    assert next(stream) == "Ep"
    cancel.set()
    with pytest.raises(StopIteration) as end:
        next(stream)
    assert end.value.value.finish_reason == "cancelled"


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "FOCUSDOC_READER_KEY"),
        (403, "FOCUSDOC_READER_KEY"),
        (404, "a model named 'm'"),
        (429, "busy"),
        (500, "log"),
    ],
)
def test_a_refusal_names_the_remedy(served: Endpoint, status: int, said: str) -> None:
    served.status, served.events = status, ['{"error": "no"}']
    with pytest.raises(ReaderError, match=rf"(?s)status {status}.*no.*{said}"):
        written(EndpointReader(served.url, "m"))


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([delta("Ep")], "ended in the middle"),
        ([delta("Ep"), "data: {broken\n\n"], "broke off"),
        ([event(error={"message": "out of memory"})], "out of memory"),
        (["data: 7\n\n"], "failed"),
    ],
    ids=["cut", "no JSON", "an error", "no object"],
)
def test_a_stream_that_breaks_off_is_an_error(served: Endpoint, events: list[str], said: str) -> None:
    served.events = events
    with pytest.raises(ReaderError, match=said):
        written(EndpointReader(served.url, "m"))


def test_one_that_is_down_is_an_error(served: Endpoint) -> None:
    with pytest.raises(ReaderError, match=r"No reader answers at http://127\.0\.0\.1:9/v1"):
        written(EndpointReader("http://127.0.0.1:9/v1", "m"))


def test_one_that_is_silent_is_an_error(served: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_PIECE", 0.2)
    served.silent.clear()
    with pytest.raises(ReaderError, match="silent for too long"):
        written(EndpointReader(served.url, "m"))


@pytest.mark.parametrize(("url", "model"), [("ftp://here/v1", "m"), ("http://", "m"), ("http://here/v1", None)])
def test_addresses_and_models_are_checked(url: str, model: str | None) -> None:
    with pytest.raises(ConfigError, match="reader is"):
        EndpointReader(url, model)
