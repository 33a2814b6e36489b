"""The catalogue's models on this machine: fetched and converted once into the cache, verified on every use.

The cache's folder ``models`` has the GGUF file (unless it is in an installed package), the folder of the converted
model, and the parts of an incomplete download.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

from focusdoc.errors import ModelNotFoundError
from focusdoc.modeling.catalogue import FEW_ROWS_FILE, CatalogueModel
from focusdoc.modeling.model_sources import InstalledPackage, Progress, SourceError
from focusdoc.storage import atomic_folder, cache_dir, cache_path, file_lock, remove_leftovers, sha256_of
from focusdoc.terminal import in_bytes

_MANIFEST = "manifest.json"
#: Increased when the conversion changes; older copies are converted again.
_FORMAT_VERSION = 3
_NEEDED_FILES = {"config.json", "model.safetensors", FEW_ROWS_FILE, "tokenizer.json"}
#: Seconds to wait for another process that installs the same model, perhaps over a slow line.
_WAITING_SECONDS = 3600.0


def model_path(model: CatalogueModel, progress: Progress | None = None, *, fetch: bool = False) -> Path:
    """The folder of a model (bfloat16 safetensors, tokenizer, config), converted on first use.

    Every use verifies the SHA-256 of each file; a damaged copy is converted again. Concurrent processes convert only
    once.

    Args:
        progress: called with (description, bytes done, total bytes).
        fetch: fetch the GGUF file if it is not on this machine, resuming an interrupted download.

    Raises:
        ModelNotFoundError: the model is not installed, or cannot be fetched or converted; the message has the remedy.
        ConfigError: the cache cannot be written.
    """
    report = progress or (lambda step, done, total: None)
    folder = _cached(model.name)
    # Hashing takes half a second per gigabyte, little beside loading it, so size and mtime are no shortcut.
    if _is_intact(folder, model):  # works with a read-only cache too
        return folder
    if not fetch:
        find_gguf(model)  # raises if it is not installed, before any folder is created
    cache_dir()
    with file_lock(folder.with_name(f"{model.name}.lock"), timeout=_WAITING_SECONDS):
        if _is_intact(folder, model):  # another process may have been first
            return folder
        remove_leftovers(folder)
        try:
            file = _fetch(model, report) if fetch else _verify(model)
            with atomic_folder(folder) as fresh:
                _convert(model, file, fresh, report)
        except OSError as error:
            raise ModelNotFoundError(_write_error(model, folder.parent, error)) from error
    return folder


def find_gguf(model: CatalogueModel) -> Path:
    """The GGUF file of a model on this machine; ModelNotFoundError names the command that installs it."""
    packages = [source.find(model.file) for source in model.sources if isinstance(source, InstalledPackage)]
    for path in (_cached(model.file), *packages):
        if path is not None and path.is_file():
            return path
    raise ModelNotFoundError(f"The model {model.name} is not installed; run: {model.install_command}")


def is_installed(model: CatalogueModel) -> bool:
    """Whether the model is converted or its GGUF file is there; files are not read."""
    try:
        return converted_folder(model) is not None or bool(find_gguf(model))
    except ModelNotFoundError:
        return False


def converted_folder(model: CatalogueModel) -> Path | None:
    """The folder of an already converted model, not verified; None if it is not converted."""
    return _cached(model.name) if (_cached(model.name) / _MANIFEST).is_file() else None


def _cached(name: str) -> Path:
    return cache_path() / "models" / name


def _fetch(model: CatalogueModel, progress: Progress) -> Path:
    """The GGUF file, from this machine or the first source that has it; ModelNotFoundError if none has."""
    kept, reasons = _cached(model.file), []
    if kept.is_file() and sha256_of(kept) == model.sha256:
        return kept
    parts = kept.with_name(f"{kept.name}.parts")
    parts.mkdir(exist_ok=True)
    for source in model.sources:
        try:
            found = source.fetch(model.file, model.num_bytes, parts, progress)
        except SourceError as error:
            reasons.append(str(error))
            continue
        ours = found.is_relative_to(parts)
        if (digest := sha256_of(found)) == model.sha256:
            if ours:
                os.replace(found, kept)
            shutil.rmtree(parts, ignore_errors=True)
            return kept if ours else found
        reasons.append(f"the file from {source} has the SHA-256 {digest[:12]}..., not {model.sha256[:12]}...")
        if ours:
            shutil.rmtree(parts)  # it is unknown which part is wrong
            parts.mkdir()
    raise ModelNotFoundError(
        f"The model {model.name} cannot be fetched: {'; '.join(reasons)}. "
        f"Try again, which resumes the download: {model.install_command}"
    )


def _verify(model: CatalogueModel) -> Path:
    """The GGUF file on this machine, after verifying its SHA-256."""
    file = find_gguf(model)
    if sha256_of(file) != model.sha256:
        raise ModelNotFoundError(
            f"{file} is damaged, or another version than the catalogue's; run: {model.install_command}"
        )
    return file


def _convert(model: CatalogueModel, file: Path, folder: Path, progress: Progress) -> None:
    """Convert the file; errors other than OSError become a ModelNotFoundError with a remedy."""
    from focusdoc.modeling.conversion import convert

    step = f"Converting {model.name}"
    progress(step, 0, model.converted_bytes)
    try:
        convert(file, folder, model.name, lambda done, total: progress(step, done, total))
    except OSError:
        raise
    except Exception as error:  # e.g. a library version that does not support it
        raise ModelNotFoundError(
            f"The model {model.name} could not be converted from {file} ({type(error).__name__}: {error}); "
            "install the versions of constraints.txt."
        ) from error
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    source = {"file": model.file, "sha256": model.sha256}
    manifest = {"format_version": _FORMAT_VERSION, "source": source, "files": files}
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _is_intact(folder: Path, model: CatalogueModel) -> bool:
    """Whether `folder` holds a complete, undamaged conversion of the catalogue's file."""
    try:
        manifest: dict[str, Any] = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, str] = manifest["files"]
        return (
            manifest["format_version"] == _FORMAT_VERSION
            and manifest["source"]["sha256"] == model.sha256
            and files.keys() >= _NEEDED_FILES
            and all(sha256_of(folder / name) == digest for name, digest in files.items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # the manifest is missing or damaged, or a file is missing


def _write_error(model: CatalogueModel, folder: Path, error: OSError) -> str:
    remedy = "set FOCUSDOC_CACHE to another folder"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = f"make room for {in_bytes(model.disk_bytes)} there, or {remedy}"
    return f"The model {model.name} could not be written to {folder} ({error.strerror or error}); {remedy}."
