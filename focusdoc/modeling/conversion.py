"""From a GGUF file to a folder that transformers loads: bfloat16 safetensors, config and tokenizer.

Beside them goes the file of weights of few bits, which decoding takes (`focusdoc.modeling.few_row_weights`).

The names of the weights, the order of Llama's rows and the config are transformers' own, and the weights are bit for
bit those that it makes of the file. Only the way is another: one tensor at a time, in pieces that stay in the
processor's cache, straight from the mapped file to the new one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import nn

from focusdoc.modeling.catalogue import FEW_ROWS_FILE
from focusdoc.modeling.few_row_weights import Part, contents_of, parts_of
from focusdoc.modeling.few_rows import Array
from focusdoc.modeling.quiet import quiet_libraries

#: Numbers unpacked at a time: the steps between them and the result then lie in a core's cache, which is three times
#: as fast as whole tensors.
_PIECE = 1 << 18
_ALIGNMENT = 64
_WEIGHTS_FILE = "model.safetensors"
#: Bytes of a number, by safetensors' name of its dtype.
_BYTES = {"BF16": 2, "F32": 4, "I8": 1, "U8": 1}


def convert(file: Path, folder: Path, name: str, progress: Callable[[int, int], None]) -> None:
    """Unpack a GGUF file into `folder`; takes memory for a piece of a tensor beside the mapped file.

    Args:
        name: of the model, for its config.
        progress: told the bytes that were written, and those in all.

    Raises:
        OSError: `folder` cannot be written. Exception: the file is damaged, or of a kind that transformers cannot read.
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
        processor = loader.TENSOR_PROCESSORS.get(_text(reader, "general.architecture"), loader.TensorProcessor)(
            config=config.to_dict()
        )
        names = loader.get_gguf_hf_weights_map(model, processor)
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
    config_file = folder / "config.json"
    settings = json.loads(config_file.read_text(encoding="utf-8"))
    settings.pop("_model_name_or_path", None)  # the name in the file's header is one of its training runs
    settings |= {"_name_or_path": name, "architectures": [type(model).__name__]}
    config_file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    # Qwen's files hold the embedding a second time as output layer, in other bits each (Q5_0 and Q8_0, say), although
    # the original is tied. Both are kept: the model is then untied, as transformers has it.
    tensors = {names[tensor.name]: tensor for tensor in reader.tensors if tensor.name in names}
    weights = {name: ("BF16", _shape(tensor)) for name, tensor in tensors.items()}
    # An output layer that has no weights of its own in the file is tied to the embedding.
    embedding = next(name for name in tensors if name.endswith("embed_tokens.weight"))
    linear = {
        layer: tensors.get(f"{layer}.weight", tensors[embedding])
        for layer, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    few = {part: kind for layer, tensor in linear.items() for part, kind in parts_of(layer, tensor).items()}
    done, total = 0, sum(_num_bytes(part) for parts in (weights, few) for part in parts.values())

    def tell(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    with _one_thread():
        pieces = (piece for tensor in tensors.values() for piece in _pieces(tensor, processor))
        _write(folder / _WEIGHTS_FILE, weights, pieces, tell)
        contents = (
            piece for tensor in linear.values() for piece in contents_of(tensor, _row_order(tensor, processor), _PIECE)
        )
        _write(folder / FEW_ROWS_FILE, few, contents, tell)


class _Reader(gguf.GGUFReader):  # type: ignore[misc]  # gguf has no types
    """A reader whose views of the mapped file are plain arrays: numpy takes four times as long over its own kind."""

    @property
    def data(self) -> np.ndarray[Any, Any]:
        """The file's bytes."""
        return self._data

    @data.setter
    def data(self, mapped: np.ndarray[Any, Any]) -> None:
        self._data = mapped.view(np.ndarray)


@contextmanager
def _read_once(reader: _Reader) -> Iterator[None]:
    """Have transformers take `reader`, where it would parse the file anew for tokenizer and config, 8 s each time."""
    original = gguf.GGUFReader
    gguf.GGUFReader = lambda path: reader
    try:
        yield
    finally:
        gguf.GGUFReader = original


@contextmanager
def _one_thread() -> Iterator[None]:
    """Have torch round in this thread alone: a piece takes less time than threads wait for each other where there is
    other work, which made the whole three times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _special_tokens(reader: _Reader) -> dict[str, int]:
    """The ids of the special tokens as the file names them; some versions of transformers (5.17) take others."""
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    found = {name: reader.fields.get(f"tokenizer.ggml.{key}_token_id") for key, name in names.items()}
    return {name: int(field.contents()) for name, field in found.items() if field is not None}


def _text(reader: _Reader, key: str) -> str:
    return str(reader.fields[key].contents())


def _write(path: Path, parts: dict[str, Part], pieces: Iterator[Array], tell: Callable[[int], None]) -> None:
    """Write a file of safetensors: what it holds, then the bytes of that in the same order, piece by piece.

    Args:
        tell: told the bytes of every piece.
    """
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers asks for it
    end = 0
    for name, part in parts.items():
        begin, end = end, end + _num_bytes(part)
        entries[name] = {"dtype": part[0], "shape": part[1], "data_offsets": [begin, end]}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-(len(header) + 8) % _ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for piece in pieces:
            tell(file.write(np.ascontiguousarray(piece).data.cast("B")))


def _num_bytes(part: Part) -> int:
    return math.prod(part[1]) * _BYTES[part[0]]


def _shape(tensor: Any) -> list[int]:
    return [int(size) for size in reversed(tensor.shape)]


def _pieces(tensor: Any, processor: Any) -> Iterator[Array]:
    """A tensor in bfloat16, some rows at a time, as bytes."""
    rows: Array = tensor.data
    step = max(1, _PIECE // int(tensor.shape[0])) if rows.ndim > 1 else len(rows)
    # What is done to a tensor beyond unpacking is done to each number, but in Llama's files to the order of the rows
    # of queries and keys, which are small.
    whole = _reorders(tensor)
    for begin in range(0, len(rows), len(rows) if whole else step):
        part = rows if whole else rows[begin : begin + step]
        weights = processor.process(gguf.dequantize(part, tensor.tensor_type), tensor.name).weights
        rounded = torch.from_numpy(np.require(weights, requirements="W")).to(torch.bfloat16)
        yield rounded.contiguous().view(torch.uint8).numpy()


def _reorders(tensor: Any) -> bool:
    return ".attn_q." in tensor.name or ".attn_k." in tensor.name


def _row_order(tensor: Any, processor: Any) -> Array:
    """Where each row of the model's weight stands in the file's tensor."""
    rows = np.arange(len(tensor.data))
    if not _reorders(tensor):
        return rows
    order: Array = processor.process(rows[:, None].copy(), tensor.name).weights[:, 0]
    return order
