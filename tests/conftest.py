"""Shared by all tests: quiet libraries, a cache of their own, tiny tokenizers and models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

#: A first example imports libraries and compiles patterns.
hypothesis.settings.register_profile("focusdoc", deadline=None)
hypothesis.settings.load_profile("focusdoc")

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(autouse=True, scope="session")
def _quiet() -> None:
    from transformers.utils import logging

    torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other
    logging.set_verbosity_error()
    logging.disable_progress_bar()


@pytest.fixture(autouse=True, scope="session")
def _alone() -> Iterator[None]:
    """No test leaves documents in the user's cache or loads a reader unasked; those of either set its variable."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOCUSDOC_STORE", "off")
        patch.setenv("FOCUSDOC_READER", "none")  # whatever is installed here
        yield


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """A tiny random model, candidate projections under the authors' names, and what the authors' code gave."""
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real books and PDFs, where this checkout has them beside it."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder of real books and PDFs (../shared/data) is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """A byte-level tokenizer: one token a byte, three special tokens, a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    specials = ["<|end|>", "<|im_start|>", "<|im_end|>"]
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: index for index, symbol in enumerate(specials + symbols)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(specials)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<|end|>", bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture
def gpu() -> torch.device:
    """A CUDA GPU, for tests marked so."""
    if not torch.cuda.is_available():
        pytest.skip("this test runs on a CUDA GPU, and there is none")
    return torch.device("cuda", 0)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder for the time of one test."""
    monkeypatch.setenv("FOCUSDOC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
