"""Twins: copies of a model's module tree over the same weights, so that the caller's model is never modified.

Our passes replace projections and use another attention. On the model itself, other threads and wrappers would see
that. A twin has modules of its own (kilobytes); parameters and buffers are shared, even if the model is moved.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import Tensor, nn

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
            children = {name: None if child is None else copy_tree(child) for name, child in module._modules.items()}
            twins[module] = _with_children(module, children)
        return twins[module]

    return copy_tree(model)  # type: ignore[return-value]  # a module's twin is of its type


def with_first_layers(decoder: nn.Module, num_layers: int) -> nn.Module:
    """`decoder` (of a twin) with only its first layers, in a list of its own; all modules are shared."""
    layers = nn.ModuleList(list(decoder.get_submodule("layers").children())[:num_layers])
    return _with_children(decoder, {**decoder._modules, "layers": layers})


def _with_children(module: nn.Module, children: Mapping[str, nn.Module | None]) -> nn.Module:
    """A copy of a module with other children; a forward of the instance's own is bound to the copy."""
    copied = module.__new__(type(module))
    # A shallow copy: the dicts of parameters and buffers stay shared, so moving one moves both.
    own = copied.__dict__ = {**module.__dict__, "_modules": dict(children)}
    own.pop("_compiled_call_impl", None)
    forward = own.pop("forward", None)
    if own.pop("_hf_hook", None) is not None:  # accelerate's hook, which moves inputs between devices
        forward = own.pop("_old_forward", None)
    if forward is not None:
        if not isinstance(forward, MethodType) or forward.__self__ is not module:
            raise UnsupportedModelError(
                f"The forward of a {type(module).__name__} was replaced by {forward!r}; load the model without it."
            )
        own["forward"] = MethodType(forward.__func__, copied)
    return copied


class Replacement(NamedTuple):
    """The child `name` of the module `parent`, and the `module` with the same interface that replaces it."""

    parent: nn.Module
    name: str
    module: nn.Module


@contextmanager
def swap_in(replacements: Sequence[Replacement]) -> Iterator[None]:
    """Replace modules inside the block; of two replacements with the same place, the later one wins."""
    originals = [(parent, name, parent.get_submodule(name)) for parent, name, _ in replacements]
    try:
        for parent, name, module in replacements:
            parent._modules[name] = module  # not by setattr, which would do more than change the parent's child
        yield
    finally:
        for parent, name, module in originals:
            parent._modules[name] = module


class AttentionLayout(Protocol):
    """The attention pattern of a pass: maps every layer's rotated queries, keys and values to attention outputs."""

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None
    ) -> Tensor:
        """Attention of one layer.

        Args:
            query: [batch, num_heads, rows, head_dim]; key and value: [batch, num_kv_heads, rows, head_dim].
            window: the layer's sliding window in tokens, or None.

        Returns:
            [batch, rows, num_heads, head_dim].
        """
        ...


def _attend_by_layout(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    focus: AttentionLayout,
    scaling: float,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention function for transformers that passes each layer's tensors to the layout of the pass."""
    layer: int = module.layer_idx  # type: ignore[assignment]  # nn.Module attributes are untyped
    return focus.attend(layer, query, key, value, scaling, sliding_window), None


def use_attention(
    model: nn.Module, function: Callable[..., Any] | None = None, name: str = ATTENTION, masked_as: str | None = None
) -> None:
    """Make every module of `model` (a twin) use `function` through transformers' attention interface.

    The modules get a copy of the config.

    Args:
        function: called `name` in the interface; None for that of a pass's layout.
        masked_as: the built-in attention whose masks `function` gets; None for no mask, if its layout defines the
            pattern.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(name, function or _attend_by_layout)
    mask = (lambda *_, **__: None) if masked_as is None else ALL_MASK_ATTENTION_FUNCTIONS[masked_as]
    AttentionMaskInterface.register(name, mask)
    copies: dict[int, Any] = {}
    for module in model.modules():
        config = module.__dict__.get("config")
        if hasattr(config, "_attn_implementation"):
            if id(config) not in copies:
                copies[id(config)] = copy.deepcopy(config)
                copies[id(config)]._attn_implementation = name
            module.__dict__["config"] = copies[id(config)]
