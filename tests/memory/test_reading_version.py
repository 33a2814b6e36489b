"""A memory on disk is used as long as a reading would make the same one: the number in its key tells."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from focusdoc.memory import library
from focusdoc.memory.library import maker_key
from focusdoc.memory.reading import READING_VERSION
from focusdoc.modeling.base import BaseModel
from golden_memory import FILE, made_now
from store_samples import IDS, read

_REMEDY = "count READING_VERSION up and run tests/helpers/golden_memory.py"


def test_the_golden_memory_is_what_a_reading_of_this_version_makes() -> None:
    with safe_open(FILE, framework="pt") as file:
        assert file.metadata()["reading_version"] == str(READING_VERSION), "run tests/helpers/golden_memory.py"
    kept, made = load_file(FILE), made_now()
    assert made.keys() == kept.keys(), _REMEDY
    for name, tensor in kept.items():
        assert (made[name].dtype, made[name].shape) == (tensor.dtype, tensor.shape), _REMEDY
        # Processors add up in different orders: a number in 8 bits may then be the next one.
        close = {"atol": 1.0, "rtol": 0.0} if tensor.dtype == torch.int8 else {"atol": 1e-5, "rtol": 1e-4}
        torch.testing.assert_close(made[name].float(), tensor.float(), **close, msg=lambda text: f"{_REMEDY}: {text}")


def test_memories_of_another_version_are_not_found(
    folder: Path, base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = maker_key(base)
    assert [read(folder, base, IDS)[1] for _ in range(2)] == [90, 0]
    monkeypatch.setattr(library, "READING_VERSION", READING_VERSION + 1)
    assert maker_key(base) != key
    assert [read(folder, base, IDS)[1] for _ in range(2)] == [90, 0]
