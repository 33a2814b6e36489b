"""Finding weights beside an adapter: on disk and back, and refused where they are damaged or of another adapter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from focusdoc.errors import AdapterError
from focusdoc.modeling.adapter import Adapter
from focusdoc.modeling.adapter_files import load_adapter, save_adapter
from focusdoc.modeling.finding_weights import FINDING_FILE, FindingWeights, load_finding
from focusdoc.modeling.low_rank import adapter_that_finds, low_rank, merged
from tiny_models import random_adapter, random_finding, tiny_model


@pytest.fixture
def adapter() -> Adapter:
    model = tiny_model()
    return replace(random_adapter(model), finding=random_finding(model))


def test_an_adapter_comes_back_with_them(adapter: Adapter, tmp_path: Path) -> None:
    again = load_adapter(save_adapter(adapter, tmp_path / "adapter")).finding
    assert adapter.finding is not None
    assert again is not None
    assert again.signals == adapter.finding.signals
    torch.testing.assert_close(again.heads, adapter.finding.heads)
    torch.testing.assert_close(again.relevance, adapter.finding.relevance)
    for name, weight in adapter.finding.added.items():
        torch.testing.assert_close(again.added[name].float(), weight, atol=1e-2, rtol=1e-2)


def test_an_older_one_is_replaced_whole(adapter: Adapter, tmp_path: Path) -> None:
    save_adapter(adapter, tmp_path / "adapter")
    save_adapter(replace(adapter, finding=None), tmp_path / "adapter")
    assert load_adapter(tmp_path / "adapter").finding is None


def test_they_are_added_to_the_adapter(adapter: Adapter) -> None:
    assert adapter.finding is not None
    name = "layers.1.v"
    added = adapter.finding.added[f"{name}.b"] @ adapter.finding.added[f"{name}.a"]
    found = adapter_that_finds(adapter).weights[f"{name}.weight"]
    torch.testing.assert_close(found, adapter.weights[f"{name}.weight"] + added)


def test_without_any_the_adapter_is_what_it_is(adapter: Adapter) -> None:
    plain = replace(adapter, finding=None)
    assert adapter_that_finds(plain) is plain


def test_a_low_rank_adapter_keeps_them(adapter: Adapter) -> None:
    model = tiny_model()
    narrow = low_rank(adapter, model, 4)
    assert merged(narrow, model).finding is adapter.finding is narrow.finding


def other(finding: FindingWeights, kind: str) -> FindingWeights:
    if kind == "layers":
        return replace(finding, heads=finding.heads[:1])
    if kind == "heads":
        return replace(finding, heads=finding.heads[:, :2])
    if kind == "width":
        return replace(finding, relevance=finding.relevance[:, :, :4])
    name = "layers.0.q.a"
    wrong = {
        "missing": {},
        "more": {name: finding.added[name], "layers.0.gate.a": torch.ones(2, 3)},
        "shape": {name: finding.added[name][:, :5]},
        "rank": {name: finding.added[name][:1]},
    }
    kept = {key: value for key, value in finding.added.items() if key != name}
    return replace(finding, added=kept | wrong[kind])


@pytest.mark.parametrize("kind", ["layers", "heads", "width", "missing", "more", "shape", "rank"])
def test_those_of_another_adapter_are_refused(adapter: Adapter, kind: str) -> None:
    assert adapter.finding is not None
    wrong = replace(adapter, finding=other(adapter.finding, kind))
    for use in (adapter_that_finds, lambda adapter: merged(adapter, tiny_model())):
        with pytest.raises(AdapterError, match="is not of the adapter beside it"):
            use(wrong)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / FINDING_FILE
    file.write_bytes(b"no tensors")
    with pytest.raises(AdapterError, match="damaged or unreadable"):
        load_finding(file)
    save_file({"heads": torch.ones(2, 4)}, file, metadata={"signals": "[1, 2, 3]"})
    with pytest.raises(AdapterError, match="damaged or unreadable"):
        load_finding(file)
    tensors = {"heads": torch.ones(2, 4), "relevance": torch.ones(2, 2, 8)}
    save_file(tensors, file, metadata={"signals": "[1, 2]"})
    with pytest.raises(AdapterError, match="damaged or unreadable"):
        load_finding(file)
    wrong = torch.tensor([[float("nan")]])
    for name, tensor in {"layers.0.q.a": wrong, "heads": wrong, "relevance": torch.ones(1, 1, 1).int()}.items():
        save_file(tensors | {name: tensor}, file, metadata={"signals": "[1, 2, 3]"})
        with pytest.raises(AdapterError, match="impossible"):
            load_finding(file)
    save_file(tensors, file, metadata={"signals": "[1, 2, NaN]"})
    with pytest.raises(AdapterError, match="impossible"):
        load_finding(file)
