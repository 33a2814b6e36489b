"""Fixtures of the store's tests: a tiny model, and the folder of a store that does not exist yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from focusdoc.modeling.base import BaseModel
from tiny_models import tiny_model


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return BaseModel(tiny_model(), name="tiny")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "memories"
