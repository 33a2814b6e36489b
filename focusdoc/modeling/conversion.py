"""Conversion of a GGUF file to a transformers folder: bfloat16 safetensors, config and tokenizer.

It also writes the low-bit weights for decoding (`focusdoc.modeling.few_rows`), made from the file's quantized blocks.
4-bit blocks are kept: every 32 numbers of a row are levels with a scale and an offset, rounded to bfloat16 like the
converted weights. All other blocks (5, 6 or 8 bits) become int8 with a scale per row.

Weight names, the row order of Llama and the config are transformers' own, and the weights are bit-identical to its
conversion. Only the procedure differs: tensors are converted in pieces that fit the CPU cache, straight from the
memory-mapped file to the new one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from torch import nn

from focusdoc.modeling.catalogue import FEW_ROWS_FILE
from focusdoc.modeling.few_rows import GROUP, TILE, Array, tiled
from focusdoc.modeling.quiet import quiet_libraries

#: Numbers dequantized at a time: intermediate results fit the CPU cache, three times as fast as whole tensors.
_PIECE = 1 << 18
_ALIGNMENT = 64
_WEIGHTS_FILE = "model.safetensors"
#: Bytes per number, by safetensors dtype.
_BYTES = {"BF16": 2, "F32": 4, "I8": 1, "U8": 1}

#: Dtype (safetensors name) and shape of a tensor in the file.
Part = tuple[str, list[int]]

_Q4_K_BYTES = 144
_Q4_1_BYTES = 20


def convert(file: Path, folder: Path, name: str, progress: Callable[[int, int], None]) -> None:
    """Convert a GGUF file into `folder`, for the model `name`; needs memory for one piece of a tensor.

    Args:
        progress: called with (bytes written, total bytes).

    Raises:
        OSError: `folder` cannot be written. Exception: the file is damaged, or transformers does not support it.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers import modeling_gguf_pytorch_utils as loader

    reader = _Reader(str(file))
    with quiet_libraries(), _read_once(reader):
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        for token, token_id in _special_tokens(reader).items():
            setattr(tokenizer, token, tokenizer.convert_ids_to_tokens(token_id))
        tokenizer.save_pretrained(folder)
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        architecture = str(reader.fields["general.architecture"].contents())
        processor = loader.TENSOR_PROCESSORS.get(architecture, loader.TensorProcessor)(config=config.to_dict())
        names = loader.get_gguf_hf_weights_map(model, processor)
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
    config_file = folder / "config.json"
    settings = json.loads(config_file.read_text(encoding="utf-8"))
    settings.pop("_model_name_or_path", None)  # the name of a training run, from the file's header
    settings |= {"_name_or_path": name, "architectures": [type(model).__name__]}
    config_file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    # Qwen's files have the embedding a second time as output layer, with other quantization (Q5_0 and Q8_0, say),
    # although the original is tied. Both are kept: the model is then untied, as in transformers.
    tensors = {names[tensor.name]: tensor for tensor in reader.tensors if tensor.name in names}
    weights = {name: ("BF16", [int(size) for size in reversed(tensor.shape)]) for name, tensor in tensors.items()}
    # An output layer without weights of its own is tied to the embedding.
    embedding = next(name for name in tensors if name.endswith("embed_tokens.weight"))
    linear = {
        layer: tensors.get(f"{layer}.weight", tensors[embedding])
        for layer, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    few = {part: kind for layer, tensor in linear.items() for part, kind in parts_of(layer, tensor).items()}
    done, total = 0, sum(_num_bytes(part) for parts in (weights, few) for part in parts.values())

    def report(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    with _one_thread():
        pieces = (piece for tensor in tensors.values() for piece in _pieces(tensor, processor))
        _write(folder / _WEIGHTS_FILE, weights, pieces, report)
        contents = (
            piece for tensor in linear.values() for piece in contents_of(tensor, _row_order(tensor, processor), _PIECE)
        )
        _write(folder / FEW_ROWS_FILE, few, contents, report)


class _Reader(gguf.GGUFReader):  # type: ignore[misc]  # gguf has no types
    """A reader with views of the mapped file as plain arrays; numpy is four times slower on its memmap class."""

    @property
    def data(self) -> np.ndarray[Any, Any]:
        """The file's bytes."""
        return self._data

    @data.setter
    def data(self, mapped: np.ndarray[Any, Any]) -> None:
        self._data = mapped.view(np.ndarray)


@contextmanager
def _read_once(reader: _Reader) -> Iterator[None]:
    """Make transformers use `reader` instead of parsing the file again for tokenizer and config, 8 s each time."""
    original = gguf.GGUFReader
    gguf.GGUFReader = lambda path: reader
    try:
        yield
    finally:
        gguf.GGUFReader = original


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on this thread only: with small pieces and other load, synchronizing threads tripled the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _special_tokens(reader: _Reader) -> dict[str, int]:
    """The ids of the special tokens in the file; some versions of transformers (5.17) use others."""
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    found = {name: reader.fields.get(f"tokenizer.ggml.{key}_token_id") for key, name in names.items()}
    return {name: int(field.contents()) for name, field in found.items() if field is not None}


def _write(path: Path, parts: dict[str, Part], pieces: Iterator[Array], report: Callable[[int], None]) -> None:
    """Write a safetensors file: the header, then the parts' bytes in the same order, reporting those of each piece."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}  # required by transformers
    end = 0
    for name, part in parts.items():
        begin, end = end, end + _num_bytes(part)
        entries[name] = {"dtype": part[0], "shape": part[1], "data_offsets": [begin, end]}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-(len(header) + 8) % _ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for piece in pieces:
            report(file.write(np.ascontiguousarray(piece).data.cast("B")))


def _num_bytes(part: Part) -> int:
    return math.prod(part[1]) * _BYTES[part[0]]


def _pieces(tensor: Any, processor: Any) -> Iterator[Array]:
    """A tensor in bfloat16 as bytes, some rows at a time."""
    rows: Array = tensor.data
    step = max(1, _PIECE // int(tensor.shape[0])) if rows.ndim > 1 else len(rows)
    # Besides dequantizing, processing is elementwise, except that it reorders the rows of Llama's queries and keys,
    # which are small.
    whole = _reorders(tensor)
    for begin in range(0, len(rows), len(rows) if whole else step):
        part = rows if whole else rows[begin : begin + step]
        weights = processor.process(gguf.dequantize(part, tensor.tensor_type), tensor.name).weights
        rounded = torch.from_numpy(np.require(weights, requirements="W")).to(torch.bfloat16)
        yield rounded.contiguous().view(torch.uint8).numpy()


def _reorders(tensor: Any) -> bool:
    return ".attn_q." in tensor.name or ".attn_k." in tensor.name


def _row_order(tensor: Any, processor: Any) -> Array:
    """For each row of the model's weight, its index in the file's tensor."""
    rows = np.arange(len(tensor.data))
    if not _reorders(tensor):
        return rows
    order: Array = processor.process(rows[:, None].copy(), tensor.name).weights[:, 0]
    return order


def parts_of(name: str, tensor: Any) -> dict[str, Part]:
    """The tensors for the linear layer `name`, whose `tensor` is of the GGUF file, in the order of `contents_of`."""
    columns, rows = (int(size) for size in tensor.shape)
    if _keeps_4_bits(tensor):
        return {
            f"{name}.int4": ("U8", [rows, columns // 2]),
            f"{name}.scales_and_zeros": ("BF16", [columns // GROUP, rows, 2]),
        }
    return {f"{name}.int8": ("I8", [rows, columns]), f"{name}.scales": ("F32", [rows])}


def contents_of(tensor: Any, order: Array, step: int) -> Iterator[Array]:
    """The bytes of `parts_of`, in pieces made from `step` numbers.

    Args:
        order: the file's row for each row of the model.
    """
    data = tensor.data if np.array_equal(order, np.arange(len(order))) else tensor.data[order]
    height = max(1, step // int(tensor.shape[0]))
    if _keeps_4_bits(tensor):
        height = max(1, height // TILE) * TILE
    pieces = (data[begin : begin + height] for begin in range(0, len(data), height))
    if _keeps_4_bits(tensor):
        affine = []
        for piece in pieces:
            levels, scales, offsets = _AFFINE[tensor.tensor_type](piece)
            affine.append(np.stack([scales.T, offsets.T + 8 * scales.T], axis=-1))
            yield tiled(levels)
        whole = torch.from_numpy(np.concatenate(affine, axis=1)).to(torch.bfloat16)
        yield whole.view(torch.uint8).numpy()
        return
    steps = []
    for piece in pieces:
        weights = gguf.dequantize(piece, tensor.tensor_type)
        largest = np.abs(weights).max(axis=1, keepdims=True)
        steps.append(np.maximum(largest, np.finfo(np.float32).tiny * 127) / 127)  # no division by 0 for zero rows
        yield np.rint(weights / steps[-1]).astype(np.int8)
    yield np.concatenate(steps)[:, 0].astype(np.float32)


def _keeps_4_bits(tensor: Any) -> bool:
    """Whether the blocks have 4 bits and fit the kernel's tiles."""
    columns, rows = tensor.shape
    return tensor.tensor_type in _AFFINE and rows % TILE == 0 and columns % GROUP == 0


def _q4_k(data: Array) -> tuple[Array, Array, Array]:
    blocks = data.reshape(len(data), -1, _Q4_K_BYTES)
    scale, least = (_float16(blocks[..., at : at + 2]) for at in (0, 2))
    scales, offsets = gguf.quants.Q4_K.get_scale_min(blocks[..., 4:16].reshape(-1, 12))
    shape = (*blocks.shape[:2], -1)
    pairs = blocks[..., 16:].reshape(*blocks.shape[:2], 4, GROUP)
    levels = np.stack([pairs & 15, pairs >> 4], axis=3)
    return (
        levels.reshape(len(data), -1),
        (scale * scales.reshape(shape)).reshape(len(data), -1),
        (least * -offsets.reshape(shape).astype(np.float32)).reshape(len(data), -1),
    )


def _q4_1(data: Array) -> tuple[Array, Array, Array]:
    blocks = data.reshape(len(data), -1, _Q4_1_BYTES)
    scale, least = (_float16(blocks[..., at : at + 2])[..., 0] for at in (0, 2))
    pairs = blocks[..., 4:]
    levels = np.stack([pairs & 15, pairs >> 4], axis=2)
    return levels.reshape(len(data), -1), scale, least


def _float16(data: Array) -> Array:
    return np.ascontiguousarray(data).view(np.float16).astype(np.float32)


#: Unpacking of each 4-bit kind into levels [rows, columns], scales and offsets [rows, groups]; a weight is ``level *
#: scale + offset``.
_AFFINE: Mapping[Kind, Callable[[Array], tuple[Array, Array, Array]]] = {Kind.Q4_K: _q4_k, Kind.Q4_1: _q4_1}
