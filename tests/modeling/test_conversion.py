"""A GGUF file is converted to what transformers makes of it, in little memory."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from focusdoc.modeling import conversion
from focusdoc.modeling.base import load_base
from focusdoc.modeling.conversion import convert
from model_samples import write_gguf


@pytest.fixture(params=["llama", "qwen2"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"{request.param}.gguf"
    write_gguf(path, request.param)
    return path


@pytest.fixture
def folder(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The converted model; its tensors went in many pieces, the last ones shorter."""
    monkeypatch.setattr(conversion, "_PIECE", 5000)
    folder = tmp_path / "converted"
    folder.mkdir()
    convert(file, folder, "Sample", lambda done, total: None)
    return folder


def transformers_weights(file: Path) -> dict[str, torch.Tensor]:
    dequantized = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.bfloat16, quantization_config=dequantized
    )
    return model.state_dict()


def assert_same_bits(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    for name, weight in wanted.items():
        if name == "lm_head.weight" and name not in found:  # tied
            weight = wanted["model.embed_tokens.weight"]
            name = "model.embed_tokens.weight"
        assert found[name].dtype == torch.bfloat16
        assert torch.equal(found[name].view(torch.int16), weight.view(torch.int16)), name


def test_weights_are_bit_for_bit_those_of_transformers(file: Path, folder: Path) -> None:
    assert_same_bits(load_file(folder / "model.safetensors"), transformers_weights(file))


def test_every_kind_of_block_is_unpacked_as_gguf_does(file: Path, folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kinds = set()
    for tensor in gguf.GGUFReader(file).tensors:
        block = tensor.name.split(".")
        name = {"attn_output": "self_attn.o_proj", "attn_v": "self_attn.v_proj", "ffn_gate": "mlp.gate_proj"} | {
            "ffn_up": "mlp.up_proj",
            "ffn_down": "mlp.down_proj",
            "attn_norm": "input_layernorm",
        }
        if block[0] == "blk" and block[2] in name:
            kinds.add(tensor.tensor_type.name)
            wanted = torch.from_numpy(np.array(gguf.dequantize(tensor.data, tensor.tensor_type)))
            found = weights[f"model.layers.{block[1]}.{name[block[2]]}.{block[3]}"]
            assert torch.equal(found, wanted.to(torch.bfloat16))
    assert kinds == {"F32", "Q4_K", "Q5_0", "Q6_K", "Q8_0", "Q4_1"}


def test_an_embedding_that_is_stored_twice_is_kept_twice(tmp_path: Path) -> None:
    """In the files the two are quantized differently, so neither can stand for the other."""
    for architecture, tied in (("llama", True), ("qwen2", False)):
        write_gguf(tmp_path / "file.gguf", architecture)
        (tmp_path / architecture).mkdir()
        convert(tmp_path / "file.gguf", tmp_path / architecture, "Sample", lambda done, total: None)
        weights = load_file(tmp_path / architecture / "model.safetensors")
        assert ("lm_head.weight" not in weights) is tied
        assert json.loads((tmp_path / architecture / "config.json").read_text())["tie_word_embeddings"] is tied


def test_the_folder_loads_with_the_file_s_own_tokenizer(folder: Path) -> None:
    base = load_base(folder)
    assert base.model.dtype == torch.bfloat16
    assert base.tokenizer.decode(base.tokenizer.encode("the theme")) == "the theme"
    tokens = (base.tokenizer.bos_token, base.tokenizer.eos_token, base.tokenizer.pad_token)
    assert tokens == ("<|end|>", "<|stop|>", "<|pad|>")
    settings = json.loads((folder / "config.json").read_text())
    assert settings["_name_or_path"] == "Sample"
    assert "quantization_config" not in settings
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<|stop|>"


def test_progress_goes_up_to_all_bytes(file: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    (tmp_path / "x").mkdir()
    convert(file, tmp_path / "x", "Sample", lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]
    files = [tmp_path / "x" / name for name in ("model.safetensors", "few_rows.safetensors")]
    headers = [8 + int.from_bytes(each.read_bytes()[:8], "little") for each in files]
    assert sum(each.stat().st_size for each in files) == told[-1][1] + sum(headers)


def test_memory_does_not_grow_with_the_tensors(tmp_path: Path) -> None:
    """One matrix alone is 16 MB in float32, all of them 112."""
    file = tmp_path / "wide.gguf"
    write_gguf(file, "llama", intermediate_size=1 << 14)
    (tmp_path / "x").mkdir()
    tracemalloc.start()
    try:
        convert(file, tmp_path / "x", "Sample", lambda done, total: None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12_000_000


def test_what_was_changed_for_the_time_of_it_is_restored(file: Path, folder: Path, tmp_path: Path) -> None:
    from transformers.utils import logging

    before = torch.get_num_threads(), gguf.GGUFReader, logging.get_verbosity()
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(file.read_bytes()[:-5000])
    (tmp_path / "x").mkdir()
    with pytest.raises(ValueError, match=r".+"):
        convert(damaged, tmp_path / "x", "Sample", lambda done, total: None)
    assert (torch.get_num_threads(), gguf.GGUFReader, logging.get_verbosity()) == before
