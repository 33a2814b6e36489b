"""The frozen base model: loading, dimensions, and passes through its decoder with our attention layouts."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from focusdoc.errors import ConfigError, MemoryShortageError, ModelNotFoundError, first_line
from focusdoc.modeling.candidate import LayerWeights, candidate_projections
from focusdoc.modeling.catalogue import DEFAULT_MODEL, FEW_ROWS_FILE, known_model
from focusdoc.modeling.families import attention_layers, check_supported
from focusdoc.modeling.few_rows import few_row_twin
from focusdoc.modeling.fingerprint import fingerprint
from focusdoc.modeling.installed import model_path
from focusdoc.modeling.lora import Lora, lora_twin
from focusdoc.modeling.packed import PackedLinear, PackedProjections, can_pack, fused_mlps, mlp_name
from focusdoc.modeling.process import check_no_fork, prepare_process
from focusdoc.modeling.quiet import model_errors, no_progress_bars
from focusdoc.modeling.rotary import Rotary
from focusdoc.modeling.twin import AttentionLayout, Replacement, swap_in, twin, use_attention, with_first_layers
from focusdoc.storage import expanded

#: Candidate weights of every layer, plain or packed.
CandidateWeights = Sequence[LayerWeights] | PackedProjections


class BaseModel:
    """A frozen Hugging Face decoder-only model with separate q/k/v/o projections.

    The caller's model is never modified: passes run through twins of its modules that share its weights. Candidate
    projections are attached to a twin for one pass and detached in ``finally``, under a lock, so threads can share a
    `BaseModel`.

    Args:
        tokenizer: the model's tokenizer; None if only token ids are used.
        name: its name in messages and adapters.

    Attributes:
        model: a twin in evaluation mode, with its own attention; nothing is attached to it.
        decoding_model: used for ordinary decoding: `model`, or a faster twin of it.
        decoder: the decoder of another twin, used by `run`.

    Raises:
        UnsupportedModelError: the architecture is not one of the supported families.
    """

    def __init__(self, model: Any, tokenizer: Any | None = None, name: str | None = None) -> None:
        check_supported(model)
        self.model = twin(model).eval()
        self.decoding_model: nn.Module = self.model
        #: A copy, since encoding changes the tokenizer's state (whether special tokens are split).
        self.tokenizer = copy.deepcopy(tokenizer)
        self.config = model.config.get_text_config()
        self.name = name or getattr(self.config, "_name_or_path", "") or type(model).__name__
        ours = twin(self.model)
        use_attention(ours)
        self.decoder: nn.Module = ours.get_decoder()
        self.attention_layers: Sequence[nn.Module] = attention_layers(ours)
        self.num_layers = len(self.attention_layers)
        self.num_heads: int = self.config.num_attention_heads
        self.num_kv_heads: int = getattr(self.config, "num_key_value_heads", None) or self.num_heads
        self.head_dim: int = getattr(self.config, "head_dim", None) or self.config.hidden_size // self.num_heads
        self.context_length: int = self.config.max_position_embeddings
        self.rotary = Rotary(
            self.decoder.get_submodule("rotary_emb"), getattr(self.config, "layer_types", None), self.num_layers
        )
        if self.device.type == "cpu":
            prepare_process()
        #: Held during a pass, and to access the modules that passes swap; and while the tokenizer encodes.
        self.lock, self.tokenizer_lock = threading.RLock(), threading.RLock()
        self._process = os.getpid()

    def first_layers(self, num_layers: int) -> BaseModel:
        """The first `num_layers` (at least 1), for keys and values only; they share weights, modules and lock."""
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
        """This model with LoRA in `decoding_model`; everything else is shared. Raises as `lora_twin`."""
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
            if isinstance(weights, PackedProjections):
                attached = weights.attached()
            else:
                attached = candidate_projections(self.attention_layers, weights)
            with attached as rows:
                rows.count = num_candidates
                return self._decode(token_ids, positions, layout)

    def run_kv_only(self, token_ids: Tensor, positions: Tensor, layout: AttentionLayout) -> None:
        """Like `run`, only for the KV that `layout` stores: no gradients, no output, no last MLP."""
        self.check_process()
        with self.lock, torch.no_grad(), swap_in([*self._fused_mlps, *self._no_last_mlp]):
            self._decode(token_ids, positions, layout)

    def check_process(self) -> None:
        """See `check_no_fork`."""
        check_no_fork(self._process, self.name)

    def packed(self, weights: Sequence[LayerWeights]) -> CandidateWeights:
        """`weights` packed for decoding steps, with the model's own weights, if the CPU supports it."""
        self.check_process()
        if not can_pack(self.decoder):
            return weights
        with self.lock:  # during a pass, modules are replaced
            return PackedProjections(self._layers, self.attention_layers, weights, self._fused_mlps)

    @property
    def _layers(self) -> list[nn.Module]:
        return list(self.decoder.get_submodule("layers").children())

    @cached_property
    def _fused_mlps(self) -> list[Replacement]:
        return fused_mlps(self._layers) if can_pack(self.decoder) else []

    @cached_property
    def _no_last_mlp(self) -> list[Replacement]:
        """Removes the last layer's MLP, whose output `run_kv_only` does not need."""
        name = mlp_name(self._layers[-1])
        return [] if name is None else [Replacement(self._layers[-1], name, nn.Identity())]

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

    @cached_property
    def _packed_head(self) -> nn.Module:
        head: nn.Module = self.model.get_output_embeddings()
        if type(head) is nn.Linear and can_pack(self.decoder):
            return PackedLinear(head.weight, head.bias)
        return head

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 next-token logits [..., vocab] of final hidden states [..., hidden_size]."""
        self.check_process()
        with self.lock:
            head = self.model.get_output_embeddings() if torch.is_grad_enabled() else self._packed_head
        logits: Tensor = head(hidden).float() / getattr(self.config, "logits_scaling", 1.0)  # Granite
        cap = getattr(self.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap


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
        check_supported(model)
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

    with model_errors(name):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    check_supported(config)
    chosen = _dtype(dtype, config, torch_device)
    with model_errors(name), no_progress_bars():
        loaded, report = AutoModelForCausalLM.from_pretrained(
            path, dtype=chosen, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    if missing := sorted(report["missing_keys"]):  # transformers would initialize them randomly
        raise ModelNotFoundError(f"The base model {name!r} lacks {len(missing)} weights, {missing[0]} among them.")
    with model_errors(name):
        tokenizer = tokenizer or _tokenizer(path)
    base = BaseModel(_move(loaded, torch_device), tokenizer, Path(name).name)
    if few_rows and known is not None:
        base.decoding_model = few_row_twin(base.model, Path(path) / FEW_ROWS_FILE)
    return base


def _move(model: Any, device: torch.device) -> Any:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device is '{device}', which cannot be used here: {first_line(error)}") from error


def _tokenizer(path: str | Path) -> Any | None:
    """The tokenizer beside the weights, or None."""
    from transformers import AutoTokenizer

    files = (Path(path) / name for name in ("tokenizer.json", "tokenizer_config.json"))
    if Path(path).is_dir() and not any(file.exists() for file in files):
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
    if dtype == "auto":
        stored = getattr(config, "dtype", None) or torch.float32
        stored = getattr(torch, stored) if isinstance(stored, str) else stored
        return torch.float32 if device.type == "cpu" and stored == torch.float16 else stored
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype):
        raise ConfigError(f"dtype is {dtype!r}; use 'auto', 'float32', 'bfloat16' or another torch dtype.")
    return found
