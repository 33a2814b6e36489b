"""A reader behind an OpenAI-compatible endpoint: Ollama, llama-server, LM Studio, vLLM, or a service on the network."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Generator, Iterator
from typing import Any
from urllib.parse import urlsplit

from focusdoc.config import GenerationConfig
from focusdoc.decoding.answer import FinishReason
from focusdoc.errors import ConfigError, ReaderError
from focusdoc.readers.reader import WINDOW, Messages, Written, estimated, no_grammar

#: Environment variable with the endpoint's key.
KEY_VARIABLE = "FOCUSDOC_READER_KEY"
#: Seconds to wait for a connection, and for each piece of an answer; a CPU may read a prompt for minutes.
_CONNECT, _PIECE = 10.0, 600.0
#: Bytes of a refusal that are read at all; they are shown.
_SAID = 300


class EndpointReader:
    """Writes by ``POST {url}/chat/completions``, streamed.

    The key goes to this host alone: redirects are not followed, and of the proxies that the environment names only
    those for https are used, through which it passes encrypted.

    Args:
        url: up to and with the version, such as ``http://localhost:11434/v1``.
        model: what the endpoint calls the model.
        key: sent as a bearer token; None takes `KEY_VARIABLE`, and sends none where it is not set.
        window: see `focusdoc.readers.reader.Reader`.

    Raises:
        ConfigError: the address is none of http or https, or no model is named.
    """

    def __init__(self, url: str, model: str | None, *, key: str | None = None, window: int = WINDOW) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise ConfigError(f"reader is {url!r}; an endpoint's address begins with http:// or https://.")
        if not model:
            raise ConfigError(f"reader is {url!r}; say with reader_model= which of its models is to read.")
        self._url = url.rstrip("/")
        self._key = key or os.environ.get(KEY_VARIABLE)
        self.name = model
        self.window = window

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r}, {self.name!r})"

    def count(self, text: str) -> int:
        """See `Reader.count`: rather too many than too few."""
        return estimated(text)

    def check(self, settings: GenerationConfig) -> None:
        """See `Reader.check`: no grammar can be kept to from here."""
        if settings.grammar is not None:
            raise no_grammar(self.name)

    def write(
        self, messages: Messages, settings: GenerationConfig, cancel: threading.Event | None = None
    ) -> Generator[str, None, Written]:
        """See `Reader.write`."""
        begun = time.perf_counter()
        first: float | None = None
        reason: str | None = None
        usage: dict[str, int] = {}
        count = 0
        for event in self._events(self._asked(messages, settings)):
            usage = event.get("usage") or usage
            for choice in event.get("choices") or ():
                reason = choice.get("finish_reason") or reason
                if text := (choice.get("delta") or {}).get("content"):
                    first = first or time.perf_counter()
                    count += 1
                    yield text
            if cancel is not None and cancel.is_set():
                reason = "cancelled"
                break
        if reason is None:
            raise ReaderError(f"{self.name} at {self._url} ended in the middle of its answer; ask again.")
        ended = time.perf_counter()
        first = first or ended
        ways: dict[str, FinishReason] = {"length": "length", "cancelled": "cancelled"}
        return Written(
            ways.get(reason, "stop"),
            usage.get("prompt_tokens", sum(self.count(content) for _, content in messages)),
            usage.get("completion_tokens", count),
            first - begun,
            ended - first,
        )

    def _asked(self, messages: Messages, settings: GenerationConfig) -> dict[str, Any]:
        asked: dict[str, Any] = {
            "model": self.name,
            "messages": [{"role": role, "content": content} for role, content in messages],
            "max_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        optional: dict[str, Any] = {"stop": list(settings.stop), "seed": settings.seed, "top_k": settings.top_k}
        if settings.repetition_penalty != 1:
            optional["repetition_penalty"] = settings.repetition_penalty
        return asked | {name: value for name, value in optional.items() if value not in (None, [], 0)}

    def _events(self, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What the endpoint sends, event by event.

        Raises:
            ReaderError: it is not there, too slow, refuses, or sends what is no event.
        """
        import httpx

        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            timeout = httpx.Timeout(_PIECE, connect=_CONNECT)
            with (
                httpx.Client(timeout=timeout, headers=headers, trust_env=self._url.startswith("https:")) as client,
                client.stream("POST", f"{self._url}/chat/completions", json=asked) as response,
            ):
                if response.status_code != 200:
                    raise self._refused(response.status_code, next(response.iter_bytes(_SAID), b""))
                for line in response.iter_lines():
                    if line.startswith("data:") and line[5:].strip() != "[DONE]":
                        event = json.loads(line[5:])
                        if not isinstance(event, dict) or event.get("error"):
                            raise ReaderError(f"{self.name} at {self._url} failed: {str(event)[:_SAID]}")
                        yield event
        except httpx.ConnectError as error:
            raise ReaderError(
                f"No reader answers at {self._url} ({error}); start it, or correct the address."
            ) from error
        except httpx.TimeoutException as error:
            raise ReaderError(f"{self.name} at {self._url} was silent for too long; is it overloaded?") from error
        except (httpx.HTTPError, ValueError) as error:
            raise ReaderError(f"{self.name} at {self._url} broke off: {error or type(error).__name__}.") from error

    def _refused(self, status: int, body: bytes) -> ReaderError:
        said = " ".join(body.decode("utf-8", "replace").split())
        if self._key:
            said = said.replace(self._key, "***")
        remedy = {
            401: f"set {KEY_VARIABLE} to a key that it accepts",
            403: f"set {KEY_VARIABLE} to a key that it accepts",
            404: f"check the address, which mostly ends in /v1, and that it has a model named {self.name!r}",
            429: "it is busy; ask again later",
        }.get(status, "see its own log" if status >= 400 else "give the address that it sends to, if you trust it")
        return ReaderError(f"{self._url} refuses {self.name!r} with status {status} ({said}); {remedy}.")
