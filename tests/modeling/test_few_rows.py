"""Few rows go through weights of few bits, which are those of the GGUF file; many rows and the model itself do not."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import load_file
from torch import Tensor, nn

from focusdoc.decoding.plain import PlainDecoder
from focusdoc.modeling import base as base_module
from focusdoc.modeling import few_rows
from focusdoc.modeling.base import BaseModel, load_base
from focusdoc.modeling.catalogue import FEW_ROWS_FILE as FILE
from focusdoc.modeling.conversion import contents_of, convert, parts_of
from focusdoc.modeling.few_rows import FEW_ROWS, FewRowLinear, few_row_twin, tiled
from focusdoc.modeling.fingerprint import fingerprint
from focusdoc.readers.local import LocalReader
from focusdoc.readers.opening import open_reader
from model_samples import sample_model, write_gguf

#: What bfloat16 takes or adds at most, of a number.
ROUNDING = 2**-8
PROMPT = [5, 9, 33, 70, 8, 14, 200, 31]
needs_kernels = pytest.mark.skipif(
    not few_rows._has_kernels(), reason="no weights of few bits where the processor has no AVX-512 with VNNI"
)


@pytest.fixture(params=["llama", "qwen2"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A GGUF file with blocks of all kinds; Llama's rows of queries and keys change their order in a conversion."""
    path = tmp_path / f"{request.param}.gguf"
    write_gguf(path, request.param)
    return path


@pytest.fixture
def folder(file: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "converted"
    folder.mkdir()
    convert(file, folder, "Sample", lambda done, total: None)
    return folder


@pytest.fixture
def base(folder: Path) -> BaseModel:
    base = load_base(folder)
    base.decoding_model = few_row_twin(base.model, folder / FILE)
    return base


def few_linear(model: nn.Module) -> dict[str, FewRowLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, FewRowLinear)}


def outputs(model: Any, *ids: int) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(input_ids=torch.tensor([ids])).logits
    return logits


@needs_kernels
class TestProducts:
    def test_every_linear_layer_has_one(self, base: BaseModel) -> None:
        linear = {name for name, module in base.model.named_modules() if isinstance(module, nn.Linear)}
        assert set(few_linear(base.decoding_model)) == linear
        assert {type(each.few).__name__ for each in few_linear(base.decoding_model).values()} == {
            "Int4Product",
            "Int8Product",
        }

    @pytest.mark.parametrize("rows", [1, FEW_ROWS])
    def test_equal_those_of_the_unpacked_weights(self, rows: int, base: BaseModel) -> None:
        """Apart by what bfloat16 rounds, or half a step of 8 bits."""
        generator = torch.Generator().manual_seed(3)
        for name, linear in few_linear(base.decoding_model).items():
            hidden = torch.randn(1, rows, linear.own.in_features, generator=generator).to(torch.bfloat16)
            weight = linear.own.weight.detach().double()
            wanted = hidden.double() @ weight.T
            found = linear(hidden).double()
            if linear.own.bias is not None:
                found -= linear.own.bias.detach().double()
            apart = (found - wanted).norm() / wanted.norm()
            assert apart < (0.005 if type(linear.few).__name__ == "Int4Product" else 0.01), (name, apart)

    def test_inputs_with_one_large_number_keep_the_others(self, base: BaseModel) -> None:
        """As Qwen's have: rounded to 8 bits of the largest, the others would all be 0."""
        (linear,) = [each for name, each in few_linear(base.decoding_model).items() if name == "lm_head"]
        hidden = torch.full((1, linear.own.in_features), 0.25, dtype=torch.bfloat16)
        hidden[0, 7] = 100
        alone = torch.zeros_like(hidden)
        alone[0, 7] = 100
        rest = (linear.few(hidden).double() - linear.few(alone).double()).flatten()
        wanted = (linear.own.weight.detach().double() @ (hidden - alone).double().T).flatten()
        assert torch.corrcoef(torch.stack([rest, wanted]))[0, 1] > 0.9

    def test_zeros_stay_zeros(self, base: BaseModel) -> None:
        for linear in few_linear(base.decoding_model).values():
            hidden = torch.zeros(1, linear.own.in_features, dtype=torch.bfloat16)
            assert not linear.few(hidden).any()


@needs_kernels
class TestRows:
    def test_few_take_the_few_bits_and_many_the_model_s_own(self) -> None:
        own, few = nn.Linear(4, 3), nn.Linear(4, 3, bias=False)
        linear = FewRowLinear(own, few)
        at_most, more = torch.randn(1, FEW_ROWS, 4), torch.randn(1, FEW_ROWS + 1, 4)
        assert torch.equal(linear(at_most), few(at_most) + own.bias)
        assert torch.equal(linear(more), own(more))

    def test_a_prompt_is_read_bit_for_bit_as_the_model_reads_it(self, base: BaseModel) -> None:
        ids = [*PROMPT, *PROMPT]
        assert len(ids) > FEW_ROWS
        assert torch.equal(outputs(base.decoding_model, *ids), outputs(base.model, *ids))

    def test_answers_are_as_near_to_those_in_float32_as_bfloat16_s_are(self, base: BaseModel, folder: Path) -> None:
        plain = copy.copy(base)
        plain.decoding_model = base.model
        decoders = [PlainDecoder(each) for each in (load_base(folder, dtype="float32"), plain, base)]
        logits = [decoder.start([*PROMPT, *PROMPT]) for decoder in decoders]
        apart = torch.zeros(3)
        for _ in range(8):
            assert len({int(each.argmax()) for each in logits}) == 1
            logits = [decoder.step(int(logits[0].argmax())) for decoder in decoders]
            apart += torch.stack([(each - logits[0]).norm() for each in logits])
        assert apart[2] < 2 * apart[1]


class TestModel:
    @needs_kernels
    def test_the_model_itself_is_left_as_it_is(self, folder: Path) -> None:
        base, untouched = load_base(folder), load_base(folder)
        made = few_row_twin(base.model, folder / FILE)
        outputs(made, 5)
        assert not few_linear(base.model)
        assert torch.equal(outputs(base.model, 5), outputs(untouched.model, 5))
        assert fingerprint(base.model) == fingerprint(untouched.model)
        assert list(base.model.state_dict()) == list(untouched.model.state_dict())

    def test_float32_has_nothing_to_gain(self, folder: Path) -> None:
        base = load_base(folder, dtype="float32")
        assert few_row_twin(base.model, folder / FILE) is base.model

    def test_a_processor_without_the_kernels_decodes_as_before(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(few_rows, "_has_kernels", bool)
        base = load_base(folder)
        assert few_row_twin(base.model, folder / FILE) is base.model

    @needs_kernels
    def test_a_model_of_the_catalogue_has_them_where_it_is_to_decode_alone(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(base_module, "known_model", lambda name: sample_model())
        monkeypatch.setattr(base_module, "model_path", lambda model: folder)
        finder, reader = load_base("sample-model"), load_base("sample-model", few_rows=True)
        assert finder.decoding_model is finder.model
        assert few_linear(reader.decoding_model)
        assert reader.fingerprint == finder.fingerprint

    @needs_kernels
    def test_a_reader_of_the_catalogue_is_such_a_model(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(base_module, "known_model", lambda name: sample_model())
        monkeypatch.setattr(base_module, "model_path", lambda model: folder)
        (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
        reader = open_reader("sample-model")
        assert isinstance(reader, LocalReader)
        assert few_linear(reader.base.decoding_model)

    def test_a_folder_of_ones_own_decodes_as_it_is(self, folder: Path) -> None:
        base = load_base(folder, few_rows=True)
        assert base.decoding_model is base.model


class TestFile:
    """What is written; no kernel is needed to read it."""

    @pytest.mark.parametrize("kind", [Kind.Q4_K, Kind.Q4_1])
    def test_blocks_of_4_bits_keep_their_levels(self, kind: Kind, file: Path, folder: Path) -> None:
        written, weights = load_file(folder / FILE), load_file(folder / "model.safetensors")
        seen = 0
        for tensor in gguf.GGUFReader(file).tensors:
            if tensor.tensor_type != kind or not tensor.name.startswith("blk"):
                continue
            name = next(each for each in weights if ours(tensor.name) == each)
            packed = written[name.removesuffix(".weight") + ".int4"].numpy()
            rows, columns = weights[name].shape
            both = packed.reshape(rows // 64, columns, 32).transpose(0, 2, 1)
            levels = np.stack([both & 15, both >> 4], axis=1).reshape(rows, columns).astype(np.float32)
            affine = written[name.removesuffix(".weight") + ".scales_and_zeros"].float().numpy()
            scales, zeros = (np.repeat(affine[..., at].T, 32, axis=1) for at in (0, 1))
            found, wanted = (levels - 8) * scales + zeros, weights[name].float().numpy()
            rounded = ROUNDING * (np.abs(levels - 8) * np.abs(scales) + np.abs(zeros) + np.abs(wanted))
            assert (np.abs(found - wanted) <= rounded * 1.01).all(), name
            seen += 1
        assert seen

    def test_other_blocks_are_within_half_a_step_of_8_bits(self, file: Path, folder: Path) -> None:
        written, weights = load_file(folder / FILE), load_file(folder / "model.safetensors")
        names = [name.removesuffix(".int8") for name in written if name.endswith(".int8")]
        assert names
        for name in names:
            weight = weights.get(f"{name}.weight", weights["model.embed_tokens.weight"]).float()
            step = written[f"{name}.scales"][:, None]
            apart = (written[f"{name}.int8"] * step - weight).abs()
            assert (apart <= step / 2 + weight.abs() * ROUNDING).all(), name

    def test_rows_that_fill_no_tile_take_8_bits(self) -> None:
        tensor = next(each for each in _tensors(rows=96) if each.tensor_type == Kind.Q4_1)
        assert set(parts_of("x", tensor)) == {"x.int8", "x.scales"}

    def test_rows_of_zeros_stay_zeros(self) -> None:
        (tensor,) = _tensors(rows=2, kind=Kind.Q8_0, zeros=True)
        weight, scales = contents_of(tensor, np.arange(2), 1 << 10)
        assert not weight.any()
        assert np.isfinite(scales).all()

    @needs_kernels
    def test_the_layout_is_torch_s(self) -> None:
        levels = np.random.default_rng(1).integers(0, 16, (192, 96), dtype=np.uint8)
        wanted = torch.ops.aten._convert_weight_to_int4pack_for_cpu(torch.from_numpy(levels.astype(np.int32)), 1)
        assert torch.equal(torch.from_numpy(tiled(levels)), wanted.view(192, 48))


def ours(name: str) -> str:
    """Transformers' name of a layer's matrix."""
    _, layer, part, kind = name.split(".")
    parts = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj"} | {
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    return f"model.layers.{layer}.{parts.get(part, part)}.{kind}"


def _tensors(rows: int, kind: Kind = Kind.Q4_1, *, zeros: bool = False) -> list[Any]:
    """One tensor as a GGUF file has it."""
    weights = np.zeros((rows, 64), np.float32) if zeros else np.random.default_rng(2).random((rows, 64), np.float32)

    class One:
        name, tensor_type, shape, data = "blk.0.ffn_up.weight", kind, (64, rows), gguf.quantize(weights, kind)

    return [One()]
