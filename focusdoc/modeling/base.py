"""The frozen base model: loading, dimensions, and passes through its decoder with our attention layouts."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from focusdoc.errors import ConfigError, MemoryShortageError, ModelNotFoundError
from focusdoc.modeling.candidate import CandidateRows, LayerWeights, candidate_projections
from focusdoc.modeling.catalogue import DEFAULT_MODEL, FEW_ROWS_FILE, known_model
from focusdoc.modeling.families import attention_layers, family_of
from focusdoc.modeling.few_rows import few_row_twin
from focusdoc.modeling.fingerprint import fingerprint
from focusdoc.modeling.gated import fused_mlps, mlp_name
from focusdoc.modeling.installed import model_path
from focusdoc.modeling.lora import Lora, lora_twin
from focusdoc.modeling.packed import PackedProjections, can_pack, packed_linear
from focusdoc.modeling.process import prepare_process
from focusdoc.modeling.quiet import no_progress_bars
from focusdoc.modeling.rotary import Rotary
from focusdoc.modeling.stand_in import Replacement, swap_in
from focusdoc.modeling.twin import twin, use_attention, with_first_layers
from focusdoc.storage import expanded

#: Candidate weights of every layer, plain or packed.
CandidateWeights = Sequence[LayerWeights] | PackedProjections


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


class BaseModel:
    """A frozen Hugging Face decoder-only model with separate q/k/v/o projections.

    The caller's model is never modified: passes run through twins of its modules that share its weights. Candidate
    projections are attached to a twin for one pass and detached in ``finally``, under a lock, so threads can share a
    `BaseModel`.

    Args:
        model: the transformers causal language model.
        tokenizer: its tokenizer; None if only token ids are used.
        name: its name in messages and adapters.

    Attributes:
        model: a twin in evaluation mode, with its own attention; nothing is attached to it.
        decoding_model: used for ordinary decoding: `model`, or a faster twin of it.
        decoder: the decoder of another twin, used by `run`.

    Raises:
        UnsupportedModelError: the architecture is not one of the supported families.
    """

    def __init__(self, model: Any, tokenizer: Any | None = None, name: str | None = None) -> None:
        self.family = family_of(model)
        self.model = twin(model).eval()
        self.decoding_model: nn.Module = self.model
        #: A copy, since encoding changes the tokenizer's state (whether special tokens are split).
        self.tokenizer = copy.deepcopy(tokenizer)
        self.config = model.config.get_text_config()
        self.name = name or getattr(self.config, "_name_or_path", "") or type(model).__name__
        ours = twin(self.model)
        use_attention(ours, _attend_by_layout)
        self.decoder: nn.Module = ours.get_decoder()
        self.attention_layers: Sequence[nn.Module] = attention_layers(ours)
        self.num_layers = len(self.attention_layers)
        self.num_heads: int = self.config.num_attention_heads
        self.num_kv_heads: int = getattr(self.config, "num_key_value_heads", None) or self.num_heads
        self.head_dim: int = getattr(self.config, "head_dim", None) or self.config.hidden_size // self.num_heads
        self.context_length: int = self.config.max_position_embeddings
        layer_types = getattr(self.config, "layer_types", None)
        self.rotary = Rotary(
            self.decoder.get_submodule("rotary_emb"), tuple(layer_types) if layer_types else None, self.num_layers
        )
        if self.device.type == "cpu":
            prepare_process()
        #: Held during a pass, and to access the modules that passes swap.
        self.lock = threading.RLock()
        #: Held while the tokenizer encodes.
        self.tokenizer_lock = threading.RLock()
        self._process = os.getpid()

    def first_layers(self, num_layers: int) -> BaseModel:
        """The first layers of this model, for keys and values only; they share weights, modules and lock.

        Args:
            num_layers: at least 1; if all, return the model itself.
        """
        if num_layers >= self.num_layers:
            return self
        lower = copy.copy(self)
        with self.lock:
            lower.decoder = with_first_layers(self.decoder, num_layers)
            lower.__dict__["_fused_mlps"] = self._fused_mlps  # packed once; those of higher layers are unused
        lower.__dict__.pop("_no_last_mlp", None)
        lower.attention_layers = self.attention_layers[:num_layers]
        lower.num_layers = num_layers
        return lower

    def with_lora(self, lora: Lora) -> BaseModel:
        """This model with LoRA in `decoding_model`; everything else is shared.

        Raises:
            AdapterError: the LoRA weights are another model's.
        """
        tuned = copy.copy(self)
        tuned.decoding_model = lora_twin(self.decoding_model, lora)
        return tuned

    @property
    def is_partial(self) -> bool:
        """Whether these are only the first layers of the model; see `first_layers`."""
        return self.num_layers < int(self.config.num_hidden_layers)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.decoder.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights and of the KV."""
        return next(self.decoder.parameters()).dtype

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the weights and configuration, independent of the dtype they are loaded in."""
        return fingerprint(self.model)

    @property
    def num_parameters(self) -> int:
        """Number of weights, counting a tied embedding once."""
        return sum(parameter.numel() for parameter in self.decoder.parameters())

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token over all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.dtype.itemsize

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """The tokens that end an answer."""
        found: set[int] = set()
        for owner in (getattr(self.model, "generation_config", None), self.config, self.tokenizer):
            ids = getattr(owner, "eos_token_id", None)
            found.update([ids] if isinstance(ids, int) else ids or [])
        return frozenset(found)

    def run(
        self,
        token_ids: Tensor,
        positions: Tensor,
        layout: AttentionLayout,
        *,
        weights: CandidateWeights = (),
        num_candidates: int = 0,
    ) -> Tensor:
        """One pass through the decoder layers with `layout`.

        Args:
            token_ids, positions: int64 [batch, rows].
            weights: candidate weights of every layer; required if `num_candidates` is above 0.
            num_candidates: number of candidate rows, which come last.

        Returns:
            Final hidden states [batch, rows, hidden_size], after the last norm.
        """
        self.check_process()
        with self.lock:
            if num_candidates == 0:
                with swap_in([] if torch.is_grad_enabled() else self._fused_mlps):
                    return self._decode(token_ids, positions, layout)
            with self._candidates(weights) as rows:
                rows.count = num_candidates
                return self._decode(token_ids, positions, layout)

    def run_kv_only(self, token_ids: Tensor, positions: Tensor, layout: AttentionLayout) -> None:
        """Like `run`, only for the KV that `layout` stores: no gradients, no output, no last MLP."""
        self.check_process()
        with self.lock, torch.no_grad(), swap_in([*self._fused_mlps, *self._no_last_mlp]):
            self._decode(token_ids, positions, layout)

    def check_process(self) -> None:
        """Refuse to run in a fork of the process that loaded the model, where torch's threads do not exist.

        Raises:
            ConfigError: this is another process.
        """
        if os.getpid() != self._process:
            raise ConfigError(
                f"{self.name} was loaded in process {self._process}, and this is its fork {os.getpid()}, where torch "
                "would wait forever for threads that were not copied; load the model in the child process, or start it "
                "with multiprocessing's 'spawn' (gunicorn: without --preload)."
            )

    def _candidates(self, weights: CandidateWeights) -> AbstractContextManager[CandidateRows]:
        if isinstance(weights, PackedProjections):
            return weights.attached()
        return candidate_projections(self.attention_layers, self.family.attributes, weights)

    def packed(self, weights: Sequence[LayerWeights]) -> CandidateWeights:
        """`weights` packed for decoding steps, with the model's own weights, if the CPU supports it."""
        self.check_process()
        if not can_pack(self.decoder):
            return weights
        with self.lock:  # during a pass, modules are replaced
            return PackedProjections(self._layers, self.attention_layers, self.family, weights, self._fused_mlps)

    @property
    def _layers(self) -> list[nn.Module]:
        return list(self.decoder.get_submodule("layers").children())

    @cached_property
    def _fused_mlps(self) -> list[Replacement]:
        return fused_mlps(self._layers, self.family) if can_pack(self.decoder) else []

    @cached_property
    def _no_last_mlp(self) -> list[Replacement]:
        """Removes the last layer's MLP, whose output `run_kv_only` does not need."""
        last = self._layers[-1]
        name = mlp_name(last, self.family)
        return [] if name is None else [Replacement(last, name, nn.Identity())]

    def _decode(self, token_ids: Tensor, positions: Tensor, layout: AttentionLayout) -> Tensor:
        try:
            hidden: Tensor = self.decoder(
                input_ids=token_ids, position_ids=positions, use_cache=False, focus=layout
            ).last_hidden_state
        except torch.OutOfMemoryError as error:
            raise MemoryShortageError(
                f"{self.device} ran out of memory in a pass over {token_ids.numel():,} tokens; close other programs, "
                "lower chunk_batch or read_batch, or ask a part of the document."
            ) from error
        return hidden

    @property
    def _head(self) -> nn.Module:
        head: nn.Module = self.model.get_output_embeddings()
        return head

    @cached_property
    def _packed_head(self) -> nn.Module:
        return packed_linear(self._head) if can_pack(self.decoder) else self._head

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 next-token logits [..., vocab] of final hidden states [..., hidden_size]."""
        self.check_process()
        with self.lock:
            head = self._head if torch.is_grad_enabled() else self._packed_head
        logits: Tensor = head(hidden).float()
        logits = logits / getattr(self.config, "logits_scaling", 1.0)  # Granite
        cap = getattr(self.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap


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
    """The attention function registered with transformers: passes each layer's tensors to the layout."""
    layer: int = module.layer_idx  # type: ignore[assignment]  # nn.Module attributes are untyped
    return focus.attend(layer, query, key, value, scaling, sliding_window), None


def load_base(
    model: str | Path | Any | None = None,
    *,
    tokenizer: Any | None = None,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    few_rows: bool = False,
) -> BaseModel:
    """Load a base model by catalogue name, from a folder or the hub, or from a model object.

    Never runs code that comes with a model, and reads weights from safetensors only.

    Args:
        model: None for the embedded default. Catalogue names take precedence; ``"./NAME"`` is a folder of such a name.
        tokenizer: a transformers tokenizer; None loads the one beside the weights. A model object has none.
        device: ``"auto"`` (a CUDA GPU if there is one, else the CPU) or a torch device name. For a model object,
            ``"auto"`` keeps its device and dtype, and a different device or dtype makes a copy.
        dtype: ``"auto"`` (the checkpoint's; float16 becomes float32 on the CPU) or a torch dtype or its name.
        few_rows: decode a catalogue model with low-bit weights where that is faster; see `focusdoc.modeling.few_rows`.

    Raises:
        ModelNotFoundError: there is no loadable model. UnsupportedModelError: the architecture is not supported.
        ConfigError: unknown dtype or device.
    """
    if model is not None and not isinstance(model, str | Path):
        family_of(model)
        wanted = model.device if device == "auto" else resolve_device(device)
        kind = model.dtype if dtype == "auto" else _dtype(dtype, model.config, wanted)
        if (wanted, kind) != (model.device, model.dtype):
            model = _move(copy.deepcopy(model).to(kind), wanted)  # do not modify the caller's model
        return BaseModel(model, tokenizer)
    torch_device = resolve_device(device)
    model = DEFAULT_MODEL if model is None else model
    known = known_model(model)
    name = str(model) if known is None else known.name
    path = model_path(known) if known is not None else expanded(model) if name.startswith("~") else model
    from transformers import AutoConfig, AutoModelForCausalLM

    with _as_model_error(name):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    family_of(config)
    chosen = _dtype(dtype, config, torch_device)
    with _as_model_error(name), no_progress_bars():
        loaded, report = AutoModelForCausalLM.from_pretrained(
            path, dtype=chosen, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    if missing := sorted(report["missing_keys"]):
        # transformers would initialize them randomly.
        raise ModelNotFoundError(f"The base model {name!r} lacks {len(missing)} weights, {missing[0]} among them.")
    with _as_model_error(name):
        tokenizer = tokenizer or _tokenizer(path)
    base = BaseModel(_move(loaded, torch_device), tokenizer, Path(name).name)
    if few_rows and known is not None:
        base.decoding_model = few_row_twin(base.model, Path(path) / FEW_ROWS_FILE)
    return base


@contextmanager
def _as_model_error(name: str) -> Iterator[None]:
    """Turn any exception of transformers about a missing or damaged model into a ModelNotFoundError."""
    try:
        yield
    except Exception as error:
        raise ModelNotFoundError(f"The base model {name!r} cannot be loaded: {_first_line(error)}") from error


def _move(model: Any, device: torch.device) -> Any:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device is '{device}', which cannot be used here: {_first_line(error)}") from error


def _tokenizer(path: str | Path) -> Any | None:
    """The tokenizer beside the weights, or None."""
    from transformers import AutoTokenizer

    folder = Path(path)
    if folder.is_dir() and not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")):
        return None
    return AutoTokenizer.from_pretrained(path, trust_remote_code=False)


def resolve_device(device: str) -> torch.device:
    """The torch device of a setting; "auto" is the GPU, if there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device is {device!r}; use 'auto', 'cpu', 'cuda' or another torch device.") from error


def _dtype(dtype: str | torch.dtype, config: Any, device: torch.device) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        stored = getattr(config, "dtype", None) or torch.float32
        stored = getattr(torch, stored) if isinstance(stored, str) else stored
        return torch.float32 if device.type == "cpu" and stored == torch.float16 else stored
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype):
        raise ConfigError(f"dtype is {dtype!r}; use 'auto', 'float32', 'bfloat16' or another torch dtype.")
    return found


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
