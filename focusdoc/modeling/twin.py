"""Twins: copies of a model's module tree over the same weights, so that the caller's model is never modified.

Our passes swap projections and use another attention. On the model itself, other threads and wrappers would see that.
A twin has modules of its own (kilobytes); parameters and buffers are shared, even if the model is moved.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import MethodType
from typing import Any, TypeVar

from torch import nn

from focusdoc.errors import UnsupportedModelError

Module = TypeVar("Module", bound=nn.Module)
#: Name of our attention in transformers' attention interface.
ATTENTION = "focusdoc"


def twin(model: Module) -> Module:
    """A copy of `model`'s module tree that shares its parameters and buffers.

    Modules that are added to, removed from or replaced in the model later are not seen.

    Raises:
        UnsupportedModelError: a module's forward was replaced by something that cannot be bound to the twin.
    """
    twins: dict[nn.Module, nn.Module] = {}

    def copy_tree(module: nn.Module) -> nn.Module:
        if module not in twins:
            copied = twins[module] = module.__new__(type(module))
            # A shallow copy: the dicts of parameters and buffers stay shared, so moving one moves both.
            copied.__dict__ = module.__dict__.copy()
            copied.__dict__["_modules"] = {
                name: None if child is None else copy_tree(child) for name, child in module._modules.items()
            }
            _rebind_forward(module, copied)
        return twins[module]

    return copy_tree(model)  # type: ignore[return-value]  # a module's twin is of its type


def with_first_layers(decoder: nn.Module, num_layers: int) -> nn.Module:
    """`decoder` (of a twin) with only its first layers, in a list of its own; all modules are shared."""
    copied = decoder.__new__(type(decoder))
    copied.__dict__ = decoder.__dict__.copy()
    layers = nn.ModuleList(list(decoder.get_submodule("layers").children())[:num_layers])
    copied.__dict__["_modules"] = {**decoder._modules, "layers": layers}
    _rebind_forward(decoder, copied)
    return copied


def _rebind_forward(module: nn.Module, copied: nn.Module) -> None:
    """Bind an instance's own forward to the copy; otherwise it would run the original's modules."""
    copied.__dict__.pop("_compiled_call_impl", None)
    forward = copied.__dict__.pop("forward", None)
    if copied.__dict__.pop("_hf_hook", None) is not None:  # accelerate's hook, which moves inputs between devices
        forward = copied.__dict__.pop("_old_forward", None)
    if forward is None:
        return
    if not isinstance(forward, MethodType) or forward.__self__ is not module:
        raise UnsupportedModelError(
            f"The forward of a {type(module).__name__} was replaced by {forward!r}; load the model without it."
        )
    copied.__dict__["forward"] = MethodType(forward.__func__, copied)


def use_attention(
    model: nn.Module, function: Callable[..., Any], name: str = ATTENTION, masked_as: str | None = None
) -> None:
    """Make every module of `model` (a twin) use `function` through transformers' attention interface.

    The modules get a copy of the config.

    Args:
        name: of `function` in the interface.
        masked_as: the built-in attention whose masks `function` gets; None for no mask, if its layout defines the
            pattern.
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
    """A mask function for transformers that creates no mask."""
