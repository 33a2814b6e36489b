"""A model's modules once more over the same weights, so that nothing is ever attached to the model of the caller.

Passes of ours swap projections and choose another attention. Done to the model itself, that would show in every other
thread that uses it, and in every other wrapper of it. A twin is a tree of modules of our own (kilobytes); parameters
and buffers are those of the model, wherever it moves them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import MethodType
from typing import Any, TypeVar

from torch import nn

from focusdoc.errors import UnsupportedModelError

Module = TypeVar("Module", bound=nn.Module)
#: Under this name transformers knows our attention.
ATTENTION = "focusdoc"


def twin(model: Module) -> Module:
    """`model` as modules of their own that share its parameters and buffers.

    Modules that the model gets, loses or replaces later are not seen.

    Raises:
        UnsupportedModelError: a module's forward was replaced by something that cannot be asked of its twin.
    """
    twins: dict[nn.Module, nn.Module] = {}

    def of(module: nn.Module) -> nn.Module:
        if module not in twins:
            made = twins[module] = module.__new__(type(module))
            # A shallow copy: the dicts of parameters and buffers stay shared, so what is moved is moved for both.
            made.__dict__ = module.__dict__.copy()
            made.__dict__["_modules"] = {
                name: None if child is None else of(child) for name, child in module._modules.items()
            }
            _own_forward(module, made)
        return twins[module]

    return of(model)  # type: ignore[return-value]  # a module's twin is of its type


def with_first_layers(decoder: nn.Module, num_layers: int) -> nn.Module:
    """`decoder` (of a twin), with a list of its own of the first of its layers; all modules are shared."""
    made = decoder.__new__(type(decoder))
    made.__dict__ = decoder.__dict__.copy()
    layers = nn.ModuleList(list(decoder.get_submodule("layers").children())[:num_layers])
    made.__dict__["_modules"] = {**decoder._modules, "layers": layers}
    _own_forward(decoder, made)
    return made


def _own_forward(module: nn.Module, made: nn.Module) -> None:
    """What an instance has in place of its class's forward would run the modules of the model, not of its twin."""
    made.__dict__.pop("_compiled_call_impl", None)
    forward = made.__dict__.pop("forward", None)
    if made.__dict__.pop("_hf_hook", None) is not None:  # accelerate's, which moves inputs between devices
        forward = made.__dict__.pop("_old_forward", None)
    if forward is None:
        return
    if not isinstance(forward, MethodType) or forward.__self__ is not module:
        raise UnsupportedModelError(
            f"The forward of a {type(module).__name__} was replaced by {forward!r}; load the model without it."
        )
    made.__dict__["forward"] = MethodType(forward.__func__, made)


def use_attention(
    model: nn.Module, function: Callable[..., Any], name: str = ATTENTION, masked_as: str | None = None
) -> None:
    """Let every module of `model` (a twin) take its attention from `function`, by transformers' attention interface.

    The configuration is a copy that only these modules have.

    Args:
        name: of `function` in the interface.
        masked_as: the attention of transformers' own whose masks it gets; None for no mask, where `function` knows
            from its layout who sees whom.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, _no_mask if masked_as is None else ALL_MASK_ATTENTION_FUNCTIONS[masked_as])
    copies: dict[int, Any] = {}
    for module in model.modules():
        config = module.__dict__.get("config")
        if hasattr(config, "_attn_implementation"):
            if id(config) not in copies:
                copies[id(config)] = copy.deepcopy(config)
                copies[id(config)]._attn_implementation = name
            module.__dict__["config"] = copies[id(config)]


def _no_mask(*args: object, **kwargs: object) -> None:
    """A mask function for transformers that makes no mask."""
