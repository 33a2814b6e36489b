"""A reader behind an OpenAI-compatible endpoint, played by a server in this process that can do everything wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from endpoints import Endpoint, delta, event
from focusdoc.config import GenerationConfig
from focusdoc.errors import ConfigError, ReaderError
from focusdoc.readers import endpoint
from focusdoc.readers.endpoint import EndpointReader
from focusdoc.readers.reader import Written

NO_GRAMMAR: Any = type("Grammar", (), {"start": None})()
MESSAGES = [("system", "Answer."), ("user", "Who?")]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.delenv("FOCUSDOC_READER_KEY", raising=False)
    with Endpoint.running() as made:
        yield made


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


def test_settings_that_not_every_endpoint_knows_are_sent_where_they_are_set(served: Endpoint) -> None:
    written(EndpointReader(served.url, "m"))
    written(EndpointReader(served.url, "m"), top_k=5, repetition_penalty=1.2)
    (_, _, plain), (_, _, asked) = served.asked
    assert not {"top_k", "repetition_penalty", "seed", "stop"} & plain.keys()
    assert (asked["top_k"], asked["repetition_penalty"]) == (5, 1.2)


class TestKey:
    """It goes to the endpoint's own host alone."""

    def test_a_redirect_is_not_followed(self, served: Endpoint) -> None:
        with Endpoint.running() as other:
            for status in (301, 302, 307, 308):
                served.status, served.headers = status, {"Location": f"{other.url}/chat/completions"}
                with pytest.raises(ReaderError, match=rf"status {status}.*give the address that it sends to"):
                    written(EndpointReader(served.url, "m", key="secret"))
            assert other.asked == []

    def test_no_proxy_of_the_environment_reads_it(self, served: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with Endpoint.running() as proxy:
            for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
                monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
            assert written(EndpointReader(served.url, "m", key="secret"))[0] == ["Ep", "pie"]
            assert proxy.asked == []
            with pytest.raises(ReaderError, match="broke off"):
                written(EndpointReader("https://models.example/v1", "m", key="secret"))
            ((target, headers, _),) = proxy.asked  # to be connected through; what passes is encrypted
            assert target == "models.example:443"
            assert "secret" not in str(headers)

    def test_is_in_no_message_even_where_the_endpoint_repeats_it(self, served: Endpoint) -> None:
        served.status, served.events = 401, ["Wrong key: secret"]
        reader = EndpointReader(served.url, "m", key="secret")
        with pytest.raises(ReaderError, match=r"Wrong key: \*\*\*") as refused:
            written(reader)
        assert "secret" not in str(refused.value)
        assert "secret" not in repr(reader)


def test_what_a_refusal_says_is_cut_and_not_read_to_its_end(served: Endpoint) -> None:
    served.status = 500
    served.events = ["x" * 1000, *["y" * 1_000_000] * 50]
    with pytest.raises(ReaderError) as refused:
        written(EndpointReader(served.url, "m"))
    assert "x" * 100 in str(refused.value)
    assert "yy" not in str(refused.value)
    assert len(str(refused.value)) < 500
    assert served.left.wait(10)


def test_a_grammar_is_refused(served: Endpoint) -> None:
    with pytest.raises(ConfigError, match="does not support grammars"):
        EndpointReader(served.url, "m").check(GenerationConfig(grammar=NO_GRAMMAR))


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
    monkeypatch.setattr(endpoint, "_PIECE_TIMEOUT", 0.2)
    served.silent.clear()
    with pytest.raises(ReaderError, match="silent for too long"):
        written(EndpointReader(served.url, "m"))


@pytest.mark.parametrize(("url", "model"), [("ftp://here/v1", "m"), ("http://", "m"), ("http://here/v1", None)])
def test_addresses_and_models_are_checked(url: str, model: str | None) -> None:
    with pytest.raises(ConfigError, match="reader is"):
        EndpointReader(url, model)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b"])
def test_line_separators_in_an_answer_are_text(served: Endpoint, separator: str) -> None:
    text = f"one{separator}two"
    data = json.dumps({"choices": [{"delta": {"content": text}, "finish_reason": "stop"}]}, ensure_ascii=False)
    served.events = [f"data: {data}\r\n\r\n", "data: [DONE]\n\n"]
    assert written(EndpointReader(served.url, "m"))[0] == [text]


def test_a_seed_of_zero_is_sent(served: Endpoint) -> None:
    written(EndpointReader(served.url, "m"), temperature=0.7, seed=0)
    assert served.asked[0][2]["seed"] == 0


@pytest.mark.parametrize(
    "said",
    [
        {"choices": [None]},
        {"choices": 3},
        {"choices": [{"delta": {"content": ["text"]}}]},
        {"choices": [{"delta": "text"}]},
        {"choices": [], "usage": [1, 2]},
    ],
)
def test_an_event_of_another_form_is_an_error(served: Endpoint, said: Any) -> None:
    served.events = [f"data: {json.dumps(said)}\n\n"]
    with pytest.raises(ReaderError, match="failed: "):
        written(EndpointReader(served.url, "m"))


def test_usage_without_numbers_is_estimated(served: Endpoint) -> None:
    usage = {"prompt_tokens": None, "completion_tokens": None}
    served.events = [delta("Ep"), delta("pie", "stop"), event(choices=[], usage=usage)]
    _, ended = written(EndpointReader(served.url, "m"))
    assert ended.prompt_tokens > 0
    assert ended.completion_tokens == 2


@pytest.mark.parametrize(
    ("text", "tokens"),  # as Qwen2.5's tokenizer counts them
    [
        ("图书馆的效率很高。" * 100, 500),
        ("12 345 6789 10\n" * 50, 700),
        ("The keeper counts ships at dawn. " * 50, 350),
    ],
)
def test_tokens_are_estimated_as_not_too_few(served: Endpoint, text: str, tokens: int) -> None:
    assert tokens <= EndpointReader(served.url, "m").count(text) <= 4 * tokens
