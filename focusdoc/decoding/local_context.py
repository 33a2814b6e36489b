"""What the decoder sees in full: token ids as they came, with the BOS token where the mode wants one."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from torch import Tensor

from focusdoc.config import FocusConfig
from focusdoc.errors import ConfigError
from focusdoc.modeling.base import BaseModel


def local_and_prompt(base: BaseModel, config: FocusConfig, ids: list[int]) -> tuple[list[int], list[int]]:
    """The local context and the dynamic prompt cut from its tail.

    In refresh mode the prompt is at most a chunk long (paper_mode section 1.3: p = min(512, S, local size)). Where
    the BOS rule holds, each has the BOS token in front unless it begins with it.

    Args:
        config: with ``chunk_size`` filled in.
        ids: the local context, at least one token.
    """
    window = config.prompt_window
    if config.local_attention == "refresh":
        window = min(window, config.chunk_size or window)
    prompt_ids = ids[-window:]
    if not config.uses_bos:
        return ids, prompt_ids
    bos = bos_token(base, config)
    return (
        ids if ids[0] == bos else [bos, *ids],
        prompt_ids if prompt_ids[0] == bos else [bos, *prompt_ids],
    )


def bos_token(base: BaseModel, config: FocusConfig) -> int:
    """The BOS token of the configuration, else the model's.

    Raises:
        ConfigError: neither names one.
    """
    bos = config.bos_token_id
    if bos is None:
        bos = getattr(base.config, "bos_token_id", None)
    if not isinstance(bos, int):
        raise ConfigError(f"{base.name} names no BOS token; set FocusConfig.bos_token_id, or prompt_bos=False.")
    return bos


def flat_ids(input_ids: Sequence[int] | Tensor, vocab_size: int) -> list[int]:
    """Token ids as a list; a tensor may be [n] or [1, n].

    Raises:
        ConfigError: they are not one sequence of at least one token of the vocabulary.
    """
    if isinstance(input_ids, Tensor):
        if input_ids.dim() == 2 and input_ids.shape[0] == 1:
            input_ids = input_ids[0]
        if input_ids.dim() != 1:
            raise ConfigError(f"input_ids has the shape {tuple(input_ids.shape)}; pass one sequence, [n] or [1, n].")
        input_ids = input_ids.tolist()
    try:
        ids = [operator.index(token) for token in input_ids]
    except TypeError as error:
        raise ConfigError(f"input_ids must be one sequence of whole numbers ({error}).") from error
    if not ids:
        raise ConfigError("input_ids is empty; pass at least one token.")
    wrong = next((token for token in ids if not 0 <= token < vocab_size), None)
    if wrong is not None:
        raise ConfigError(f"input_ids holds {wrong}; the model's tokens are 0 to {vocab_size - 1}.")
    return ids
