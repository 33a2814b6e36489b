"""Token counts before any model is loaded, offline."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from focusdoc.modeling import estimate as estimate_module
from focusdoc.modeling.estimate import estimate_tokens

SPECIAL = "<|im_end|>"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network."""

    def refuse(*_: Any) -> None:
        raise AssertionError("an estimate must not use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def installed(own_cache: Path, tiny_tokenizer: Any) -> Path:
    """The cache with the default model's tokenizer in it: one token a byte."""
    folder = own_cache / "models" / "SmolLM2-135M-Instruct"
    tiny_tokenizer.save_pretrained(folder)
    (folder / "manifest.json").write_text(json.dumps({}))
    return own_cache


@pytest.mark.parametrize(
    ("model", "how"),
    [
        (None, "counted with the model's own tokenizer"),
        ("SmolLM2-135M-Instruct", "counted with the model's own tokenizer"),
        ("HuggingFaceTB/SmolLM2-360M-Instruct", "estimated with the default model's tokenizer"),
        ("runs/smollm2-other-words", "estimated with the default model's tokenizer"),
        ("qwen2.5-coder-0.5b-instruct", "rule of thumb"),
    ],
)
def test_only_a_model_s_own_tokens_are_called_counted(installed: Path, model: str | None, how: str) -> None:
    text = f"Call me {SPECIAL}."
    estimate = estimate_tokens(text, model)
    assert estimate.method.startswith(how)
    if how != "rule of thumb":
        assert estimate.num_tokens == len(text)  # special tokens are plain text, as in a document


@pytest.mark.default_model
def test_a_novel_has_as_many_tokens_as_the_engine_reads(shared_data: Path) -> None:
    from transformers import AutoTokenizer

    from focusdoc.documents import tokenize
    from focusdoc.modeling.catalogue import CATALOGUE
    from focusdoc.modeling.installed import model_path

    text = (shared_data / "books" / "219_heart_of_darkness.txt").read_text(encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(model_path(CATALOGUE[0]))
    assert estimate_tokens(text).num_tokens == len(tokenize(tokenizer, text))


@pytest.mark.parametrize("text", [" " * 1_000_000, "a" * 1_000_000, "漢" * 300_000, "word " * 200_000])
def test_long_runs_of_anything_are_counted(installed: Path, text: str) -> None:
    assert estimate_tokens(text).num_tokens == len(text.encode())


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("a", 1), ("the quick brown fox " * 21, 100), ("漢字" * 50, 100), ("\ud800", 1)]
)
def test_an_unknown_model_gets_the_rule_of_thumb(text: str, tokens: int) -> None:
    estimate = estimate_tokens(text, model="some/other-model")
    assert estimate.num_tokens == tokens
    assert "rule of thumb" in estimate.method


def test_the_tokenizer_in_a_model_s_folder_counts(tmp_path: Path, tiny_tokenizer: Any) -> None:
    tiny_tokenizer.save_pretrained(tmp_path)
    estimate = estimate_tokens(f"Call me {SPECIAL} Ishmael.\ud800", str(tmp_path))
    assert (estimate.num_tokens, estimate.method) == (28, "counted with the model's own tokenizer")
    (tmp_path / "tokenizer.json").write_text("{")
    assert "rule of thumb" in estimate_tokens("some text", str(tmp_path)).method


def test_where_no_model_is_installed_the_rule_of_thumb_serves(own_cache: Path) -> None:
    assert "rule of thumb" in estimate_tokens("some text").method


def test_pieces_lose_nothing_and_cut_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate_module, "_PIECE", 10)
    text = "some words of a text andonethatisfartoolong and more"
    pieces = list(estimate_module._pieces(text))
    assert "".join(pieces) == text
    assert pieces[:2] == ["some", " words of"]
