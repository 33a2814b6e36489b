"""The frozen base model: loading it, its dimensions, and one pass through its decoder under a layout of ours."""

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
from focusdoc.modeling.packed import PackedProjections, can_pack, packed_linear
from focusdoc.modeling.process import prepare_process
from focusdoc.modeling.quiet import no_progress_bars
from focusdoc.modeling.rotary import Rotary
from focusdoc.modeling.stand_in import Place, standing_in
from focusdoc.modeling.twin import twin, use_attention, with_first_layers
from focusdoc.storage import expanded

#: Candidate weights of every layer, as they are or packed.
CandidateWeights = Sequence[LayerWeights] | PackedProjections


class AttentionLayout(Protocol):
    """Who sees whom in one pass: it gets the rotated queries, keys and values of every layer and returns attention."""

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

    The caller's model is never touched: passes run through twins of its modules that share its weights. Candidate
    projections are attached to a twin for one pass and detached in ``finally``, under a lock, so several threads may
    share one `BaseModel`.

    Args:
        model: the transformers causal language model.
        tokenizer: its tokenizer, or None (then only token ids go in and out).
        name: what to call it in messages and adapters.

    Attributes:
        model: a twin of it in evaluation mode, with its own attention; nothing is attached to it.
        decoding_model: what decodes where the model runs by itself: `model`, or a twin of that which is faster.
        decoder: the decoder of another twin, which `run` goes through.

    Raises:
        UnsupportedModelError: the architecture is not one of the supported families.
    """

    def __init__(self, model: Any, tokenizer: Any | None = None, name: str | None = None) -> None:
        self.family = family_of(model)
        self.model = twin(model).eval()
        self.decoding_model: nn.Module = self.model
        #: A copy: encoding sets whether special tokens are split, which is a state of the object.
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
        #: Held during a pass, and whenever the modules that passes run through are looked at.
        self.lock = threading.RLock()
        #: Held while the tokenizer encodes.
        self.tokenizer_lock = threading.RLock()
        self._process = os.getpid()

    def upto(self, num_layers: int) -> BaseModel:
        """The first layers of this model, for keys and values alone: what comes out of them is no model's.

        It shares the weights, the modules and the lock.

        Args:
            num_layers: 1 or more; all of them give the model itself.
        """
        if num_layers >= self.num_layers:
            return self
        lower = copy.copy(self)
        with self.lock:
            lower.decoder = with_first_layers(self.decoder, num_layers)
            lower.__dict__["_fused_mlps"] = self._fused_mlps  # packed once; those of higher layers do nothing here
        lower.__dict__.pop("_no_last_mlp", None)
        lower.attention_layers = self.attention_layers[:num_layers]
        lower.num_layers = num_layers
        return lower

    @property
    def is_part(self) -> bool:
        """Whether these are only the first layers of the model; see `upto`."""
        return self.num_layers < int(self.config.num_hidden_layers)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.decoder.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights, and so of all KV."""
        return next(self.decoder.parameters()).dtype

    @cached_property
    def fingerprint(self) -> str:
        """Names the weights and everything that shapes them, whatever dtype they are loaded in."""
        return fingerprint(self.model)

    @property
    def num_parameters(self) -> int:
        """All weights, the embedding counted once."""
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
        """One pass through the layers under `layout`.

        Args:
            token_ids, positions: int64 [batch, rows].
            weights: candidate weights of every layer; needed if `num_candidates` is above 0.
            num_candidates: this many last rows are candidates.

        Returns:
            Final hidden states [batch, rows, hidden_size], after the last norm.
        """
        self.check_process()
        with self.lock:
            if num_candidates == 0:
                with standing_in([] if torch.is_grad_enabled() else self._fused_mlps):
                    return self._decode(token_ids, positions, layout)
            with self._candidates(weights) as rows:
                rows.count = num_candidates
                return self._decode(token_ids, positions, layout)

    def run_for_keys(self, token_ids: Tensor, positions: Tensor, layout: AttentionLayout) -> None:
        """`run` for the sake of the keys and values that `layout` keeps; no gradient, and nothing comes back."""
        self.check_process()
        with self.lock, torch.no_grad(), standing_in([*self._fused_mlps, *self._no_last_mlp]):
            self._decode(token_ids, positions, layout)

    def check_process(self) -> None:
        """Refuse to compute in a fork of the process that loaded the model: torch's threads do not live there.

        Raises:
            ConfigError: this is another process.
        """
        if os.getpid() != self._process:
            raise ConfigError(
                f"{self.name} was loaded in process {self._process}, and this is {os.getpid()}, a fork of it, where "
                "torch would wait forever for threads that were not copied; load the model in the child process, or "
                "start that with multiprocessing's 'spawn' (gunicorn: without --preload)."
            )

    def _candidates(self, weights: CandidateWeights) -> AbstractContextManager[CandidateRows]:
        if isinstance(weights, PackedProjections):
            return weights.attached()
        return candidate_projections(self.attention_layers, self.family.attributes, weights)

    def packed(self, weights: Sequence[LayerWeights]) -> CandidateWeights:
        """`weights` for many decoding steps: packed with the model's own, where that is possible."""
        self.check_process()
        if not can_pack(self.decoder):
            return weights
        with self.lock:  # during a pass stand-ins are in the places of what is packed
            return PackedProjections(self._layers, self.attention_layers, self.family, weights, self._fused_mlps)

    @property
    def _layers(self) -> list[nn.Module]:
        return list(self.decoder.get_submodule("layers").children())

    @cached_property
    def _fused_mlps(self) -> list[Place]:
        return fused_mlps(self._layers, self.family) if can_pack(self.decoder) else []

    @cached_property
    def _no_last_mlp(self) -> list[Place]:
        """Behind the last layer's keys and values nothing is wanted of a reading pass."""
        last = self._layers[-1]
        name = mlp_name(last, self.family)
        return [] if name is None else [Place(last, name, nn.Identity())]

    def _decode(self, token_ids: Tensor, positions: Tensor, layout: AttentionLayout) -> Tensor:
        try:
            hidden: Tensor = self.decoder(
                input_ids=token_ids, position_ids=positions, use_cache=False, focus=layout
            ).last_hidden_state
        except torch.OutOfMemoryError as error:
            raise MemoryShortageError(
                f"{self.device} has no memory left for a pass over {token_ids.numel():,} tokens; close other programs, "
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
    """The attention function given to transformers: it hands each layer's tensors to the layout of the pass."""
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
    """Load a base model by its name in the catalogue, from a folder, a hub name or an object already in memory.

    No code that comes with a model is ever run, and weights are read from safetensors only.

    Args:
        model: None is the embedded default. A name of the catalogue is that model's; ``"./NAME"`` is a folder of
            such a name.
        tokenizer: a transformers tokenizer; None takes the one beside the weights. A model object brings none.
        device: ``"auto"`` (a CUDA GPU if there is one, else CPU) or a torch device name. ``"auto"`` leaves a model
            object where it is, and in its dtype; anything else makes a copy of it, where it differs.
        dtype: ``"auto"`` (the checkpoint's own; float16 becomes float32 on CPU) or a torch dtype or its name.
        few_rows: have a model of the catalogue decode from weights of few bits, where that is faster; see
            `focusdoc.modeling.few_rows`.

    Raises:
        ModelNotFoundError: nothing loadable is there. UnsupportedModelError: the architecture is not supported.
        ConfigError: unknown dtype or device.
    """
    if model is not None and not isinstance(model, str | Path):
        family_of(model)
        wanted = model.device if device == "auto" else resolve_device(device)
        kind = model.dtype if dtype == "auto" else _dtype(dtype, model.config, wanted)
        if (wanted, kind) != (model.device, model.dtype):
            model = _move(copy.deepcopy(model).to(kind), wanted)  # the caller's stays where and as it is
        return BaseModel(model, tokenizer)
    torch_device = resolve_device(device)
    model = DEFAULT_MODEL if model is None else model
    known = known_model(model)
    name = str(model) if known is None else known.name
    path = model_path(known) if known is not None else expanded(model) if name.startswith("~") else model
    from transformers import AutoConfig, AutoModelForCausalLM

    with _explained(name):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    family_of(config)
    chosen = _dtype(dtype, config, torch_device)
    with _explained(name), no_progress_bars():
        loaded, report = AutoModelForCausalLM.from_pretrained(
            path, dtype=chosen, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    if missing := sorted(report["missing_keys"]):
        # transformers would fill them with random numbers and go on.
        raise ModelNotFoundError(f"The base model {name!r} lacks {len(missing)} weights, {missing[0]} among them.")
    with _explained(name):
        tokenizer = tokenizer or _tokenizer(path)
    base = BaseModel(_move(loaded, torch_device), tokenizer, Path(name).name)
    if few_rows and known is not None:
        base.decoding_model = few_row_twin(base.model, Path(path) / FEW_ROWS_FILE)
    return base


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn whatever a damaged or missing model makes transformers raise into one error."""
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
    """The tokenizer beside the weights, or None where there is none."""
    from transformers import AutoTokenizer

    folder = Path(path)
    if folder.is_dir() and not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")):
        return None
    return AutoTokenizer.from_pretrained(path, trust_remote_code=False)


def resolve_device(device: str) -> torch.device:
    """The device that a setting names; "auto" is the GPU, where there is one."""
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
