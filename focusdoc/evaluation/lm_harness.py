"""focusdoc as a model of EleutherAI's lm-evaluation-harness (the extra ``lm-eval``).

    python -m focusdoc.evaluation.lm_harness --model focusdoc --tasks ruler --model_args chunk_size=2048

runs the harness's command line with the model registered. Versions of the harness with plugin support find the model
by its entry point, so ``lm_eval --model focusdoc`` is enough there.

A prompt is split as in the paper (section 3.1): the last `local_window` tokens are the local context, the tokens before
them become chunks. Shorter prompts go to the base model alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from torch.nn import functional
from tqdm import tqdm

from focusdoc.decoding.prompt import bos_prefix, encode_messages, encode_text, tokenizer_of
from focusdoc.engine import FocusEngine
from focusdoc.errors import ConfigError
from focusdoc.evaluation.engines import text_of
from focusdoc.evaluation.perplexity import condensed_predictor

#: Prefix of a prompt that is a conversation. The template is applied later, so that content cannot imitate it.
_CHAT = "\ue000focusdoc chat\ue001"
#: Keys of generation_kwargs, besides stop strings and the token limit, with the names of `GenerationConfig`.
_SETTINGS = ("temperature", "top_p", "top_k", "repetition_penalty", "seed")


@register_model("focusdoc")
class FocusdocLM(LM):  # type: ignore[misc]  # the harness is not typed
    """The harness's model; takes the arguments of `FocusEngine.from_pretrained` as strings.

    Args:
        pretrained: a folder or a hub name; None for the default model.
        adapter: a folder, "auto" or "none".
        chunk_size, local_window: see `FocusConfig`.
        engine: an existing engine; the other arguments that load one are then ignored.
        batch_size, max_batch_size: passed by the harness and ignored, since the chunks are the batch.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        *,
        adapter: str = "auto",
        chunk_size: int | None = None,
        local_window: int | None = None,
        device: str | None = None,
        dtype: str = "auto",
        engine: FocusEngine | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        engine = engine or FocusEngine.from_pretrained(
            pretrained, adapter=None if adapter == "none" else adapter, device=device or "auto", dtype=dtype, store=None
        )
        sizes = {"chunk_size": chunk_size, "local_window": local_window}
        changes: dict[str, Any] = {name: int(value) for name, value in sizes.items() if value is not None}
        self.engine = FocusEngine(engine.base, engine.adapter, replace(engine.config, **changes)) if changes else engine
        self._tokenizer = tokenizer_of(self.engine.base)
        self._predict = condensed_predictor(self.engine)

    @property
    def tokenizer_name(self) -> str:
        """The key of the chat template in the harness's caches."""
        return self.engine.base.name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The tokenizer's chat template, for the harness's records."""
        return str(getattr(self._tokenizer, "chat_template", None) or "")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation, serialized; ConfigError if its last message is to be continued, which is not supported."""
        if not add_generation_prompt:
            raise ConfigError("Beginning the model's answer is not supported; leave out gen_prefix.")
        return _CHAT + json.dumps([[turn["role"], turn["content"]] for turn in chat_history])

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """See `lm_eval.api.model.LM.generate_until`."""
        return self._each(requests, self._generate, "generate_until", disable_tqdm)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """See `lm_eval.api.model.LM.loglikelihood`."""
        return self._each(requests, self._continuation, "loglikelihood", disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """See `lm_eval.api.model.LM.loglikelihood_rolling`."""
        return self._each(requests, self._whole, "loglikelihood_rolling", disable_tqdm)

    def _generate(self, context: str, settings: dict[str, Any]) -> str:
        # The harness resolves the four names of the token limit.
        kwargs = dict(normalize_gen_kwargs({name: value for name, value in settings.items() if value is not None}))
        sampling = {name: kwargs.pop(name) for name in _SETTINGS if name in kwargs}
        sampling.setdefault("temperature", 1.0 if kwargs.pop("do_sample") else 0.0)
        stops = [text for text in kwargs.pop("until") if text]
        limit = kwargs.pop("max_gen_toks")
        if unknown := [name for name, value in kwargs.items() if (name, value) != ("num_beams", 1)]:
            raise ConfigError(
                f"generation_kwargs has {', '.join(unknown)}, which focusdoc does not support; leave it out."
            )
        output = self.engine.generate(self._encode(context), max_new_tokens=limit, stop=tuple(stops), **sampling)
        return text_of(self.engine, output.token_ids, stops)

    def _continuation(self, context: str, continuation: str) -> tuple[float, bool]:
        if context.startswith(_CHAT):
            before, after = self._encode(context), encode_text(self._tokenizer, continuation)
        else:
            # Trailing white space of the context is part of the continuation's first token.
            bare = context.rstrip()
            before = self._encode(bare)
            whole = self._encode(context + continuation)
            after = whole[len(before) :] if bare or bos_prefix(self._tokenizer) else whole
        return self._score(before, after)

    def _whole(self, text: str) -> float:
        return self._score([self._prefix()], encode_text(self._tokenizer, text))[0]

    def _score(self, before: Sequence[int], after: Sequence[int]) -> tuple[float, bool]:
        """The log-likelihood of `after`, and whether greedy decoding generates it; in steps of half a local window."""
        total, is_greedy, size = 0.0, True, max(1, self.engine.config.local_window // 2)
        for start in range(0, len(after), size):
            part = list(after[start : start + size])
            with torch.no_grad():
                logits = self._predict([*before, *after[:start], *part], len(part)).float()
            gold = torch.tensor(part, device=logits.device)
            total -= float(functional.cross_entropy(logits, gold, reduction="sum"))
            is_greedy = is_greedy and bool((logits.argmax(dim=-1) == gold).all())
        return total, is_greedy

    def _encode(self, context: str) -> list[int]:
        with self.engine.base.tokenizer_lock:
            if context.startswith(_CHAT):
                return encode_messages(self._tokenizer, json.loads(context.removeprefix(_CHAT)))
            ids = encode_text(self._tokenizer, context)
        bos = bos_prefix(self._tokenizer)
        return [*bos, *ids] if ids or bos else [self._prefix()]

    def _prefix(self) -> int:
        """The token that replaces an empty context."""
        for token in (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        raise ConfigError(f"{self.engine.base.name} has neither a BOS nor an EOS token for an empty context.")

    def _each(self, requests: list[Any], work: Callable[..., Any], name: str, disable_tqdm: bool) -> list[Any]:
        results = []
        for request in tqdm(requests, desc=f"focusdoc {name}", disable=disable_tqdm):
            result = work(*request.args)
            self.cache_hook.add_partial(name, request.args, result)
            results.append(result)
        return results


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
