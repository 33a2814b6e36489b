"""The engine over bare token ids, which needs no tokenizer: long inputs are split as in the paper, and continued."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from focusdoc.config import GenerationConfig
from focusdoc.decoding.answer import Generation, Usage
from focusdoc.decoding.generation import StepDecoder, TokenLoop, complete
from focusdoc.decoding.plain import PlainDecoder
from focusdoc.decoding.prompt import flat_ids, local_and_prompt
from focusdoc.engine_core import EngineCore
from focusdoc.errors import ConfigError


class TokenEngine(EngineCore):
    """What `focusdoc.engine.FocusEngine` does without documents and questions."""

    @torch.no_grad()
    def generate(
        self,
        input_ids: Sequence[int] | Tensor,
        *,
        return_logits: bool = False,
        cancel: threading.Event | None = None,
        **generation: Any,
    ) -> Generation:
        """Continue bare token ids of any length; no tokenizer is needed.

        Split as in the paper (section 3.1): the last `local_window` tokens are the local context, what stands
        before them is cut into chunks from the left. Inputs below the threshold take the plain path.

        Args:
            input_ids: a list, or a tensor [n] or [1, n].
            return_logits: keep the logits each token was chosen from.
            generation: fields of `GenerationConfig`, such as ``max_new_tokens=6``.

        Raises:
            ConfigError: the ids are not whole numbers of the vocabulary, or a generation setting is out of range.
            PromptTooLongError: input and new tokens take more positions than the model has.
            AdapterError: the input is cut into chunks, and there is no adapter.
        """
        settings = GenerationConfig(**generation)
        if settings.stop and self.base.tokenizer is None:
            raise ConfigError("Stop strings need a tokenizer, and this model has none; use max_new_tokens instead.")
        ids = flat_ids(input_ids, self.base.config.vocab_size)
        begun = time.perf_counter()
        split = len(ids) - self.config.local_window
        way = self.own_way
        decoder: StepDecoder
        if len(ids) < self.config.threshold or split <= 0:
            # All of it is the local context, which has its BOS with no candidate in front as well.
            local_ids, _ = local_and_prompt(self.base, self.config, ids)
            way.check_room([], len(local_ids), settings)
            decoder = PlainDecoder(self.base)
            logits = decoder.start(local_ids)
            usage = Usage(0, 0, len(local_ids), 0)
        else:
            way.check_ready()
            local_ids, prompt_ids = local_and_prompt(self.base, self.config, ids[split:])
            way.check_room([split], len(local_ids), settings)
            blocks, _ = self._document_reader(self.documents.base, None).read(ids[:split])
            over = way.decoder(blocks, settings.max_new_tokens)
            logits = way.start_behind(over, ids[:split], local_ids, prompt_ids, settings.max_new_tokens)
            usage = Usage(split, over.num_chunks, len(local_ids), 0, split)
            decoder = over
        loop = TokenLoop(decoder, logits, settings, history=ids, eos_token_ids=self.base.eos_token_ids, cancel=cancel)
        return complete(loop, settings, self.base.tokenizer, begun=begun, usage=usage, keep_logits=return_logits)
