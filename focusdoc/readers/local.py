"""A reader in this process: a transformers model with its own attention over the passages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence

from focusdoc.config import GenerationConfig
from focusdoc.decoding.answering import Writer
from focusdoc.decoding.plain import PlainDecoder, PrefixCache
from focusdoc.decoding.prompt import Request, encode_messages, encode_text
from focusdoc.errors import PromptTooLongError
from focusdoc.modeling.base import BaseModel
from focusdoc.modeling.lora import Lora
from focusdoc.readers.reader import Messages, Written


class LocalReader:
    """Writes with a base model as transformers runs it.

    Args:
        base: its tokenizer needs a chat template.
        lora: LoRA weights for drafts and their judgement.

    Attributes:
        drafter: the reader with these weights, or None; see `focusdoc.readers.reader.drafter_of`.

    Raises:
        AdapterError: `lora` is another model's.
    """

    def __init__(self, base: BaseModel, lora: Lora | None = None) -> None:
        self.base = base
        self.lora = lora
        self.drafter = None if lora is None else LocalReader(base.with_lora(lora))
        self.name = base.name
        self.window = base.context_length
        #: Prompts share the instruction, and follow-up questions the passages.
        self._prefixes = PrefixCache()

    def __repr__(self) -> str:
        lora = "" if self.lora is None else f", LoRA {self.lora.fingerprint!r}"
        return f"{type(self).__name__}({self.name!r}, {self.base.fingerprint!r}, {self.base.dtype}{lora})"

    def __deepcopy__(self, memo: dict[int, object]) -> LocalReader:
        """Return itself: weights are never copied."""
        return self

    def count(self, text: str) -> int:
        """See `Reader.count`; exact."""
        with self.base.tokenizer_lock:
            return len(encode_text(self.base.tokenizer, text))

    def check(self, settings: GenerationConfig) -> None:
        """See `Reader.check`; supports all settings. A grammar must be for its tokenizer (`FocusEngine.writer`)."""

    def write(
        self, messages: Messages, settings: GenerationConfig, cancel: threading.Event | None = None
    ) -> Generator[str, None, Written]:
        """See `Reader.write`.

        Raises:
            PromptTooLongError: prompt and answer do not fit the model's window.
        """
        return self.write_reprompted(messages, settings, cancel, lambda written: None)

    def write_reprompted(
        self,
        messages: Messages,
        settings: GenerationConfig,
        cancel: threading.Event | None,
        new_prompt: Callable[[str], Messages | None],
    ) -> Generator[str, None, Written]:
        """See `Reprompting`.

        Raises:
            PromptTooLongError: prompt and answer do not fit the model's window.
        """
        ids = self._encode(messages)

        def prompt(written: Sequence[int]) -> list[int] | None:
            messages = new_prompt(self.base.tokenizer.decode(written))  # type: ignore[union-attr]
            return None if messages is None else self._encode(messages)

        if len(ids) + settings.max_new_tokens > self.window:
            raise PromptTooLongError(
                f"{len(ids)} tokens of passages and question and {settings.max_new_tokens} new ones exceed the "
                f"{self.window} tokens of {self.name}; lower max_new_tokens or the reader's budget."
            )
        request = Request((), ids, ids, settings, self.base.tokenizer, cancel=cancel)
        decoder = PlainDecoder(self.base, self._prefixes, prompt)
        started_at = time.perf_counter()
        for piece in Writer(decoder, decoder.start(ids), request, started_at=started_at).pieces():
            if piece:
                yield str(piece)
        decoder.close()
        answer = piece.answer
        assert answer is not None
        usage, timings = answer.usage, answer.timings
        return Written(
            answer.finish_reason,
            usage.prompt_tokens,
            usage.completion_tokens,
            timings.first_token,
            timings.decode,
            answer.log_likelihood,
        )

    def yes_log_odds(self, messages: Messages) -> float:
        """See `Judge`."""
        ids = self._encode(messages)
        with self.base.tokenizer_lock:
            yes, no = (encode_text(self.base.tokenizer, word)[0] for word in ("Yes", "No"))
        decoder = PlainDecoder(self.base, self._prefixes)
        logits = decoder.start(ids)
        decoder.close()
        return float(logits[yes] - logits[no])

    def _encode(self, messages: Messages) -> list[int]:
        with self.base.tokenizer_lock:
            return encode_messages(self.base.tokenizer, messages)
