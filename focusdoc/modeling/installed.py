"""The catalogue's models on this machine: fetched and converted once into the cache, verified at every use.

In the cache's folder ``models`` lie the GGUF file (where it does not lie in an installed package), the converted model
in a folder of its own, and, until the file is whole, the parts of it that came.
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
#: Counted up when a conversion would come out differently; older copies are then converted anew.
_FORMAT_VERSION = 3
_NEEDED_FILES = {"config.json", "model.safetensors", FEW_ROWS_FILE, "tokenizer.json"}
#: Seconds to wait for another process that installs the same model, over a slow line perhaps.
_WAITING_SECONDS = 3600.0


def model_path(model: CatalogueModel, progress: Progress | None = None, *, fetch: bool = False) -> Path:
    """The folder of a model (bfloat16 safetensors, tokenizer, config), converted on first use.

    Every use compares the SHA-256 of each file with the manifest; a damaged copy is converted anew. Processes that
    call this at the same time convert once.

    Args:
        progress: is told what is being done, bytes done and bytes in all.
        fetch: get the GGUF file where it is not on this machine; a fetch that was stopped goes on.

    Raises:
        ModelNotFoundError: the model is not installed, or cannot be fetched or converted; the message holds the remedy.
        ConfigError: the cache cannot be written.
    """
    tell = progress or (lambda step, done, total: None)
    folder = _folder(model)
    # Hashing takes half a second a gigabyte: little beside loading it, so no shortcut by size and time of change.
    if _is_intact(folder, model):  # in a cache that is only read, too
        return folder
    if not fetch:
        find_gguf(model)  # says that it is not installed before any folder is made
    cache_dir()
    with file_lock(folder.with_name(f"{model.name}.lock"), timeout=_WAITING_SECONDS):
        if _is_intact(folder, model):  # another process was first
            return folder
        remove_leftovers(folder)
        try:
            file = _fetched(model, tell) if fetch else _verified(model)
            with atomic_folder(folder) as fresh:
                _convert(model, file, fresh, tell)
        except OSError as error:
            raise ModelNotFoundError(_no_room(model, folder.parent, error)) from error
    return folder


def find_gguf(model: CatalogueModel) -> Path:
    """The GGUF file of a model on this machine.

    Raises:
        ModelNotFoundError: it is not there; the message holds the command that installs it.
    """
    packages = [source.find(model.file) for source in model.sources if isinstance(source, InstalledPackage)]
    for path in (_kept(model), *packages):
        if path is not None and path.is_file():
            return path
    raise ModelNotFoundError(f"The model {model.name} is not installed; run: {model.install_command}")


def is_installed(model: CatalogueModel) -> bool:
    """Whether the model is there, converted or ready to be; nothing is read but names."""
    try:
        return converted_folder(model) is not None or bool(find_gguf(model))
    except ModelNotFoundError:
        return False


def converted_folder(model: CatalogueModel) -> Path | None:
    """The folder of a model that was converted already, not verified; None where it was not."""
    return _folder(model) if (_folder(model) / _MANIFEST).is_file() else None


def _folder(model: CatalogueModel) -> Path:
    return cache_path() / "models" / model.name


def _kept(model: CatalogueModel) -> Path:
    """Where the file is kept after it was fetched and verified."""
    return cache_path() / "models" / model.file


def _fetched(model: CatalogueModel, progress: Progress) -> Path:
    """The GGUF file, from this machine or else from the first source that has it.

    Raises:
        ModelNotFoundError: no source has it. OSError: there is no room.
    """
    kept, reasons = _kept(model), []
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
        reasons.append(f"what {source} gave has the SHA-256 {digest[:12]}..., not {model.sha256[:12]}...")
        if ours:
            shutil.rmtree(parts)  # nobody knows which part is wrong
            parts.mkdir()
    raise ModelNotFoundError(
        f"The model {model.name} cannot be fetched: {'; '.join(reasons)}. "
        f"Try again, and what came already is used: {model.install_command}"
    )


def _verified(model: CatalogueModel) -> Path:
    """The GGUF file on this machine, if it is the catalogue's."""
    file = find_gguf(model)
    if sha256_of(file) != model.sha256:
        raise ModelNotFoundError(
            f"{file} is damaged, or of another version than the catalogue's; run: {model.install_command}"
        )
    return file


def _convert(model: CatalogueModel, file: Path, folder: Path, progress: Progress) -> None:
    """Convert, and turn whatever goes wrong in it, but for a full disk, into one sentence with a remedy."""
    from focusdoc.modeling.conversion import convert

    step = f"Converting {model.name}"
    progress(step, 0, model.converted_bytes)
    try:
        convert(file, folder, model.name, lambda done, total: progress(step, done, total))
    except OSError:
        raise
    except Exception as error:  # some version of a library cannot read it
        raise ModelNotFoundError(
            f"The model {model.name} could not be converted from {file} ({type(error).__name__}: {error}); "
            "take the versions of constraints.txt."
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
        return False  # no manifest, a damaged one, or a file that is not there: a miss


def _no_room(model: CatalogueModel, folder: Path, error: OSError) -> str:
    remedy = "set FOCUSDOC_CACHE to another folder"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = f"make room for {in_bytes(model.disk_bytes)} there, or {remedy}"
    return f"The model {model.name} could not be written to {folder} ({error.strerror or error}); {remedy}."
