"""A reader behind an OpenAI-compatible endpoint: Ollama, llama-server, LM Studio, vLLM or a remote service."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from focusdoc.config import GenerationConfig
from focusdoc.decoding.answer import FinishReason
from focusdoc.errors import ConfigError, ReaderError
from focusdoc.readers.reader import WINDOW, Messages, Written, approximate_tokens, grammar_error

#: Environment variable with the endpoint's API key.
KEY_VARIABLE = "FOCUSDOC_READER_KEY"
#: Timeouts in seconds for connecting and for each piece of an answer; prefill on a CPU can take minutes.
_CONNECT_TIMEOUT, _PIECE_TIMEOUT = 10.0, 600.0
#: Bytes of an error response to read and show.
_MAX_REFUSAL_BYTES = 300


class EndpointReader:
    """Writes with ``POST {url}/chat/completions``, streamed.

    The key is sent to this host only: redirects are not followed, and of the proxies in the environment only those for
    https are used, through which the key passes encrypted.

    Args:
        url: the base URL including the version, such as ``http://localhost:11434/v1``.
        model: the model name at the endpoint.
        key: bearer token; None for `KEY_VARIABLE`, if it is set.
        window: see `focusdoc.readers.reader.Reader`.

    Raises:
        ConfigError: the URL is not http or https, or there is no model name.
    """

    def __init__(self, url: str, model: str | None, *, key: str | None = None, window: int = WINDOW) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise ConfigError(f"reader is {url!r}; an endpoint's address begins with http:// or https://.")
        if not model:
            raise ConfigError(f"reader is {url!r}; name one of its models with reader_model=.")
        self._url = url.rstrip("/")
        self._key = key or os.environ.get(KEY_VARIABLE)
        self.name = model
        self.window = window

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r}, {self.name!r})"

    def count(self, text: str) -> int:
        """See `Reader.count`; an upper estimate."""
        return approximate_tokens(text)

    def check(self, settings: GenerationConfig) -> None:
        """See `Reader.check`; grammars are not supported."""
        if settings.grammar is not None:
            raise grammar_error(self.name)

    def write(
        self, messages: Messages, settings: GenerationConfig, cancel: threading.Event | None = None
    ) -> Generator[str, None, Written]:
        """See `Reader.write`."""
        started = time.perf_counter()
        first: float | None = None
        reason: str | None = None
        usage: dict[str, int] = {}
        count = 0
        for event in self._events(self._payload(messages, settings)):
            try:
                usage = dict(event.get("usage") or usage)
                choices = event.get("choices") or ()
                reason = next((each["finish_reason"] for each in choices if each.get("finish_reason")), reason)
                texts = [text for each in choices if (text := (each.get("delta") or {}).get("content"))]
                if not all(isinstance(text, str) for text in (*texts, reason or "")):
                    raise TypeError
            except (AttributeError, TypeError, ValueError) as error:
                raise self._failure(event) from error
            for text in texts:
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
        reasons: dict[str, FinishReason] = {"length": "length", "cancelled": "cancelled"}
        return Written(
            reasons.get(reason, "stop"),
            usage.get("prompt_tokens") or sum(self.count(content) for _, content in messages),
            usage.get("completion_tokens") or count,
            first - started,
            ended - first,
        )

    def _payload(self, messages: Messages, settings: GenerationConfig) -> dict[str, Any]:
        payload: dict[str, Any] = {
            "model": self.name,
            "messages": [{"role": role, "content": content} for role, content in messages],
            "max_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        optional: dict[str, Any] = {
            "stop": list(settings.stop) or None,
            "seed": settings.seed,
            "top_k": settings.top_k or None,
        }
        if settings.repetition_penalty != 1:
            optional["repetition_penalty"] = settings.repetition_penalty
        return payload | {name: value for name, value in optional.items() if value is not None}

    def _events(self, payload: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The endpoint's server-sent events.

        Raises:
            ReaderError: the endpoint is unreachable or too slow, refuses the request, or sends something else.
        """
        import httpx

        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            timeout = httpx.Timeout(_PIECE_TIMEOUT, connect=_CONNECT_TIMEOUT)
            with (
                httpx.Client(timeout=timeout, headers=headers, trust_env=self._url.startswith("https:")) as client,
                client.stream("POST", f"{self._url}/chat/completions", json=payload) as response,
            ):
                if response.status_code != 200:
                    raise self._refusal(response.status_code, next(response.iter_bytes(_MAX_REFUSAL_BYTES), b""))
                for line in _lines(response.iter_bytes()):
                    if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                        event = json.loads(line[5:])
                        if not isinstance(event, dict) or event.get("error"):
                            raise self._failure(event)
                        yield event
        except httpx.ConnectError as error:
            raise ReaderError(
                f"No reader answers at {self._url} ({error}); start it, or correct the address."
            ) from error
        except httpx.TimeoutException as error:
            raise ReaderError(f"{self.name} at {self._url} was silent for too long; is it overloaded?") from error
        except (httpx.HTTPError, ValueError) as error:
            raise ReaderError(f"{self.name} at {self._url} broke off: {error or type(error).__name__}.") from error

    def _failure(self, event: object) -> ReaderError:
        return ReaderError(f"{self.name} at {self._url} failed: {str(event)[:_MAX_REFUSAL_BYTES]}")

    def _refusal(self, status: int, body: bytes) -> ReaderError:
        reason = " ".join(body.decode("utf-8", "replace").split())
        if self._key:
            reason = reason.replace(self._key, "***")
        remedy = {
            401: f"set {KEY_VARIABLE} to a key that it accepts",
            403: f"set {KEY_VARIABLE} to a key that it accepts",
            404: f"check the address, which mostly ends in /v1, and that it has a model named {self.name!r}",
            429: "it is busy; ask again later",
        }.get(status, "see its own log" if status >= 400 else "give the address that it sends to, if you trust it")
        return ReaderError(f"{self._url} refuses {self.name!r} with status {status} ({reason}); {remedy}.")


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a stream, split at line feeds only: answers may contain other line separators (U+2028)."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    yield rest
