"""Adapters on disk: our folder, the authors' checkpoints, and the ones shipped with focusdoc.

An adapter folder has ``adapter.json`` (`AdapterConfig`), ``adapter.safetensors`` (the weights of `Adapter`) and, if its
candidates were trained to find passages, ``finding.safetensors`` (`FindingWeights`).
Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import to_json
from torch import Tensor, nn

from focusdoc.errors import AdapterError
from focusdoc.modeling.adapter import FORMAT_VERSION, Adapter, AdapterConfig, check_adapter, check_names, listed
from focusdoc.modeling.base import BaseModel
from focusdoc.modeling.catalogue import DEFAULT_MODEL, known_model
from focusdoc.modeling.finding_weights import FINDING_FILE, load_finding, save_finding
from focusdoc.storage import atomic_folder, cache_path, expanded

CONFIG_FILE = "adapter.json"
WEIGHTS_FILE = "adapter.safetensors"

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_OFFICIAL_NAME = re.compile(r"model\.layers\.(\d+)\.self_attn\.beacon_([qkvo])_proj\.weight")
# In the authors' checkpoints, filled with the EOS embedding and never read by their code (paper_mode section 0).
_OFFICIAL_IGNORED = "model.beacon_embed_tokens.weight"
#: The adapters that come with focusdoc.
SHIPPED_FOLDER = Path(__file__).resolve().parent.parent / "adapters"


def load_adapter(path: str | Path, model: nn.Module | None = None) -> Adapter:
    """Load an adapter: our folder, or the authors' ``beacon_*`` tensors in a safetensors file or a folder of them.

    Base weights in the same files are skipped. The authors' checkpoints get ``local_attention="refresh"`` (their
    decode mode) and no fingerprint. Weights keep their dtype, on the CPU. It is checked against `model`, if given.

    Raises:
        AdapterError: nothing is there, the format is unknown, or the content is damaged or incomplete.
    """
    path = expanded(path)
    if path.is_dir():
        adapter = _load_folder(path)
    elif not path.is_file():
        raise AdapterError(f"There is no adapter at {path}; pass an adapter's folder or a .safetensors file.")
    elif path.name == WEIGHTS_FILE:
        raise AdapterError(f"{path} is one file of an adapter; pass its folder, {path.parent}.")
    else:
        _refuse_pickle(path)
        if path.suffix != ".safetensors":
            raise AdapterError(f"{path} is no safetensors file; pass an adapter's folder or a .safetensors file.")
        adapter = _load_official([path])
    check_names(adapter)
    if model is not None:
        check_adapter(adapter, model)
    return adapter


def open_adapter(adapter: str | Path | None, base: BaseModel, model: object) -> Adapter | None:
    """The adapter that a setting names, as stored: ``"auto"`` for the one shipped for `base`, if there is one.

    Args:
        model: what `base` was loaded from; see `load_base`.

    Raises:
        AdapterError: as `load_adapter`, or the one shipped for `model` was not trained for these weights.
    """
    path = shipped_adapter_path(base.fingerprint) if adapter == "auto" else adapter
    if path is not None:
        return load_adapter(path)
    known = known_model(DEFAULT_MODEL if model is None else model)
    if adapter == "auto" and known is not None and known.adapter is not None:
        raise AdapterError(
            f"The model {known.name} in {cache_path()} is not the one its adapter was trained for "
            f"(fingerprint {base.fingerprint[:12]}); remove it to convert it again, and install the versions of "
            "constraints.txt. adapter=None uses the model without an adapter, by a look."
        )
    return None


def save_adapter(adapter: Adapter, folder: str | Path) -> Path:
    """Save `adapter` to `folder`, atomically replacing an older adapter there; return the folder.

    Raises:
        AdapterError: tensors are missing or unexpected, or `folder` has other files (they would be lost).
    """
    from safetensors.torch import save_file

    check_names(adapter)
    folder = expanded(folder)
    if folder.exists() and not folder.is_dir():
        raise AdapterError(f"{folder} is a file; name a folder to save the adapter to.")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if others := sorted(names - {CONFIG_FILE, WEIGHTS_FILE, FINDING_FILE}):
        raise AdapterError(f"{folder} holds other files ({listed(others)}); save the adapter to a folder of its own.")
    # Copies, since safetensors refuses tensors that share memory.
    weights = {name: weight.detach().cpu().contiguous().clone() for name, weight in adapter.weights.items()}
    with atomic_folder(folder) as fresh:
        save_file(weights, fresh / WEIGHTS_FILE, metadata={"format": "focusdoc", "format_version": str(FORMAT_VERSION)})
        # Values in the training record that JSON does not support are written as text or null; saving must not fail.
        fields = adapter.config.model_dump(exclude={"rank"} if adapter.config.rank is None else None)
        config = to_json(fields, indent=2, inf_nan_mode="null", serialize_unknown=True)
        (fresh / CONFIG_FILE).write_bytes(config + b"\n")
        if adapter.finding is not None:
            save_finding(adapter.finding, fresh / FINDING_FILE)
        # safetensors creates files readable by the owner only; give them the config file's mode.
        for file in fresh.glob("*.safetensors"):
            file.chmod((fresh / CONFIG_FILE).stat().st_mode)
    return folder


def shipped_adapter_path(base_fingerprint: str) -> Path | None:
    """The folder of the adapter shipped for the base model with this fingerprint, or None."""
    return next((folder for folder, config in _shipped() if config.base_fingerprint == base_fingerprint), None)


def shipped_chunk_size(base_model: str) -> int | None:
    """The chunk size of the adapter shipped for the base model of this name; None without one."""
    return next((config.chunk_size for _, config in _shipped() if config.base_model == base_model), None)


def _shipped() -> Iterator[tuple[Path, AdapterConfig]]:
    for file in sorted(SHIPPED_FOLDER.glob(f"*/{CONFIG_FILE}")):
        yield file.parent, _read_config(file)


def from_official_names(tensors: Mapping[str, Tensor], *, base_model: str = "unknown") -> Adapter:
    """An adapter from tensors under the authors' names, ``model.layers.{i}.self_attn.beacon_{q,k,v,o}_proj.weight``.

    Names without "beacon" are base weights and skipped, as is ``model.beacon_embed_tokens.weight``.

    Raises:
        AdapterError: there are no candidate projections, unknown ones, or some are missing in a layer.
    """
    weights: dict[str, Tensor] = {}
    for name, tensor in sorted(tensors.items()):
        if "beacon" not in name or name == _OFFICIAL_IGNORED:
            continue
        match = _OFFICIAL_NAME.fullmatch(name)
        if match is None or tensor.ndim != 2:
            raise AdapterError(
                f"The tensor {name} {list(tensor.shape)} is no candidate projection that focusdoc knows; "
                "expected matrices named model.layers.N.self_attn.beacon_{q,k,v,o}_proj.weight."
            )
        weights[f"layers.{int(match[1])}.{match[2]}.weight"] = tensor
    if not weights:
        raise AdapterError(
            "There are no candidate projections (names with beacon_q_proj and so on) among the tensors; "
            "pass the checkpoint of a trained FocusLLM or an adapter's folder."
        )
    some_name, some_weight = next(iter(weights.items()))  # hidden_size: rows of o, columns of q, k and v
    config = AdapterConfig.model_validate(
        {
            "base_model": base_model,
            "projections": sorted({name.split(".")[2] for name in weights}),
            "num_layers": 1 + max(int(name.split(".")[1]) for name in weights),
            "hidden_size": some_weight.shape[0 if ".o." in some_name else 1],
            "local_attention": "refresh",
        }
    )
    adapter = Adapter(config, weights)
    check_names(adapter)
    return adapter


def to_official_names(adapter: Adapter) -> dict[str, Tensor]:
    """The weights under the names of the authors' code (without ``beacon_embed_tokens``, which it never reads).

    Raises:
        AdapterError: the adapter is low-rank.
    """
    if adapter.config.rank is not None:
        raise AdapterError(
            f"The adapter has rank {adapter.config.rank}, and the authors' format full matrices only; name its base "
            "model (--model) to merge it."
        )
    official = {}
    for name, weight in adapter.weights.items():
        _, layer, letter, _ = name.split(".")
        official[f"model.layers.{layer}.self_attn.beacon_{letter}_proj.weight"] = weight
    return official


def _load_folder(folder: Path) -> Adapter:
    """Load our adapter folder, or the authors' checkpoint."""
    has_config, has_weights = ((folder / name).is_file() for name in (CONFIG_FILE, WEIGHTS_FILE))
    if has_config and has_weights:
        config = _read_config(folder / CONFIG_FILE)
        finding = load_finding(folder / FINDING_FILE) if (folder / FINDING_FILE).exists() else None
        return Adapter(config, dict(_tensors(folder / WEIGHTS_FILE)), finding)
    if has_config or has_weights:
        missing = WEIGHTS_FILE if has_config else CONFIG_FILE
        raise AdapterError(f"The adapter in {folder} is incomplete: {missing} is missing; copy the whole folder again.")
    if shards := sorted(folder.glob("model*.safetensors")):
        return _load_official(shards)
    for path in sorted(folder.iterdir()):
        _refuse_pickle(path)
    raise AdapterError(
        f"{folder} holds no adapter; expected {CONFIG_FILE} and {WEIGHTS_FILE}, "
        "or a checkpoint of the FocusLLM authors in model*.safetensors."
    )


def _load_official(files: list[Path]) -> Adapter:
    """Load only the candidate projections of an authors' checkpoint."""
    beacon = {name: tensor for file in files for name, tensor in _tensors(file, containing="beacon")}
    try:
        return from_official_names(beacon)
    except AdapterError as error:
        where = files[0] if len(files) == 1 else files[0].parent
        raise AdapterError(f"{where}: {error}") from error


def _refuse_pickle(path: Path) -> None:
    if path.suffix in _PICKLED:
        raise AdapterError(
            f"{path} is a pickle, which can run any code when it is opened; convert it to safetensors first."
        )


def _tensors(file: Path, containing: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a safetensors file whose names contain `containing`; the others are not read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  # not a dict: it cannot be iterated
                if containing in name:
                    yield name, opened.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"The weights in {file} are damaged or unreadable ({error}); get the file again.") from error


def _read_config(file: Path) -> AdapterConfig:
    """Load and validate an adapter.json."""
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"{file} is damaged or unreadable ({error}); get the adapter again.") from error
    version = fields.get("format_version") if isinstance(fields, dict) else None
    if version is None:
        raise AdapterError(f"{file} is no description of an adapter: it has no format_version.")
    if version != FORMAT_VERSION:
        raise AdapterError(
            f"{file} has format_version {version!r}, this focusdoc reads {FORMAT_VERSION}; update focusdoc."
        )
    try:
        return AdapterConfig.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise AdapterError(f"{file} is not valid: {field}: {first['msg']}; get the adapter again.") from error
