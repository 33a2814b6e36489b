"""Fixtures of the documents' tests."""

from __future__ import annotations

from typing import Any

import pytest
from document_samples import TOKENIZERS, make_tokenizer


@pytest.fixture(scope="session", params=list(TOKENIZERS))
def tokenizer(request: pytest.FixtureRequest) -> Any:
    """Each kind of tokenizer in turn."""
    return make_tokenizer(request.param)


@pytest.fixture(scope="session")
def byte_tokenizer() -> Any:
    """The kind of tokenizer the default model has."""
    return make_tokenizer("byte_level")
