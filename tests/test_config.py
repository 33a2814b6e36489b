"""Settings: every one is checked, and the message names the setting and its value."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from focusdoc.config import QUOTE_TOKENS, FocusConfig, GenerationConfig
from focusdoc.errors import ConfigError, FocusdocError


def refused(make: Any, name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} is {re.escape(repr(value))}[;,]"):
        make(**{name: value})


class TestFocusConfig:
    @pytest.mark.parametrize("value", ["both", "", None, "Refresh"])
    def test_local_attention(self, value: object) -> None:
        refused(FocusConfig, "local_attention", value)

    @pytest.mark.parametrize("value", ["random", "", 0])
    def test_candidate_positions(self, value: object) -> None:
        refused(FocusConfig, "candidate_positions", value)

    @pytest.mark.parametrize("value", ["int4", "", None, 8])
    def test_memory_dtype(self, value: object) -> None:
        refused(FocusConfig, "memory_dtype", value)

    @pytest.mark.parametrize("name", ["local_window", "prompt_window", "chunk_size", "read_batch", "chunk_batch"])
    @pytest.mark.parametrize("value", [0, -1, 2.5, "512", True])
    def test_numbers_of_at_least_one(self, name: str, value: object) -> None:
        refused(FocusConfig, name, value)

    @pytest.mark.parametrize("name", ["direct_threshold", "bos_token_id"])
    @pytest.mark.parametrize("value", [-1, 1.0, "0", False])
    def test_numbers_of_at_least_zero(self, name: str, value: object) -> None:
        refused(FocusConfig, name, value)

    @pytest.mark.parametrize("name", ["local_window", "prompt_window", "read_batch"])
    def test_numbers_that_cannot_be_left_open(self, name: str) -> None:
        refused(FocusConfig, name, None)

    @pytest.mark.parametrize("name", ["chunk_size", "chunk_batch", "direct_threshold", "bos_token_id", "prompt_bos"])
    def test_settings_that_may_be_left_open(self, name: str) -> None:
        assert getattr(FocusConfig(**{name: None}), name) is None

    @given(st.integers(1), st.integers(1), st.none() | st.integers(1), st.none() | st.integers(0))
    def test_takes_everything_in_range(self, local: int, prompt: int, chunk: int | None, bos: int | None) -> None:
        config = FocusConfig(local_window=local, prompt_window=prompt, chunk_size=chunk, bos_token_id=bos)
        assert (config.local_window, config.prompt_window) == (local, prompt)
        assert (config.chunk_size, config.bos_token_id) == (chunk, bos)

    def test_cannot_be_changed(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            FocusConfig().local_window = 1  # type: ignore[misc]

    def test_takes_no_positional_arguments(self) -> None:
        with pytest.raises(TypeError):
            FocusConfig("refresh")  # type: ignore[call-arg]

    def test_inputs_shorter_than_the_local_window_take_the_plain_path_by_default(self) -> None:
        assert FocusConfig(local_window=300).threshold == 300
        assert FocusConfig(local_window=300, direct_threshold=0).threshold == 0

    @pytest.mark.parametrize(
        ("local_attention", "prompt_bos", "expected"),
        [("incremental", None, False), ("refresh", None, True), ("incremental", True, True), ("refresh", False, False)],
    )
    def test_the_bos_rule_follows_the_mode(self, local_attention: Any, prompt_bos: bool | None, expected: bool) -> None:
        assert FocusConfig(local_attention=local_attention, prompt_bos=prompt_bos).uses_bos is expected

    def test_defaults_fill_in_only_what_was_left_open(self) -> None:
        defaults: Any = {"chunk_size": 64, "candidate_positions": "shared", "condensing": "candidates"}
        filled = FocusConfig(prompt_window=7).with_defaults(**defaults, quotes=True)
        assert filled == FocusConfig(prompt_window=7, quote_tokens=QUOTE_TOKENS, **defaults)
        assert FocusConfig().with_defaults(**defaults, quotes=False) == FocusConfig(quote_tokens=0, **defaults)
        chosen = FocusConfig(chunk_size=32, candidate_positions="sequential", condensing="look", quote_tokens=0)
        assert chosen.with_defaults(**defaults, quotes=True) == chosen

    def test_paper_mode_quotes_nothing_and_a_look_always(self) -> None:
        defaults: Any = {"chunk_size": 64, "candidate_positions": "shared", "condensing": "candidates"}
        paper = FocusConfig(local_attention="refresh").with_defaults(**defaults, quotes=True)
        look = FocusConfig(condensing="look").with_defaults(**defaults, quotes=False)
        assert (paper.quote_tokens, look.quote_tokens) == (0, QUOTE_TOKENS)


class TestPaperSettings:
    def test_are_those_of_the_authors_code(self) -> None:
        config = FocusConfig.paper()
        assert config.local_attention == "refresh"
        assert (config.local_window, config.chunk_size, config.prompt_window) == (2048, 2048, 512)
        assert (config.direct_threshold, config.threshold) == (4096, 4096)
        assert config.uses_bos

    def test_can_be_overridden(self) -> None:
        config = FocusConfig.paper(
            local_window=64, chunk_size=32, direct_threshold=10, prompt_window=8, prompt_bos=False
        )
        assert (config.local_window, config.chunk_size, config.prompt_window) == (64, 32, 8)
        assert config.threshold == 10
        assert not config.uses_bos
        assert config.local_attention == "refresh"

    def test_are_checked_too(self) -> None:
        with pytest.raises(ConfigError, match="chunk_size is 0"):
            FocusConfig.paper(chunk_size=0)


class TestGenerationConfig:
    @pytest.mark.parametrize("value", [0, -5, 1.5, "64", None, True])
    def test_max_new_tokens(self, value: object) -> None:
        refused(GenerationConfig, "max_new_tokens", value)

    @pytest.mark.parametrize("value", [-1, 1.5, None])
    def test_top_k(self, value: object) -> None:
        refused(GenerationConfig, "top_k", value)

    @pytest.mark.parametrize("value", [-0.1, math.nan, -math.inf])
    def test_temperature(self, value: float) -> None:
        refused(GenerationConfig, "temperature", value)

    @pytest.mark.parametrize("value", [0.0, -0.5, 1.01, math.nan])
    def test_top_p(self, value: float) -> None:
        refused(GenerationConfig, "top_p", value)

    @pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
    def test_repetition_penalty(self, value: float) -> None:
        refused(GenerationConfig, "repetition_penalty", value)

    @pytest.mark.parametrize("value", [("",), ("a", ""), (3,), (None,)])
    def test_stop(self, value: tuple[object, ...]) -> None:
        refused(GenerationConfig, "stop", value)

    @pytest.mark.parametrize(("given_as", "kept"), [("\n", ("\n",)), (["a", "b"], ("a", "b")), ((), ()), ([], ())])
    def test_stop_may_be_a_text_or_several(self, given_as: Any, kept: tuple[str, ...]) -> None:
        assert GenerationConfig(stop=given_as).stop == kept

    def test_is_greedy_and_plain_by_default(self) -> None:
        config = GenerationConfig()
        assert (config.temperature, config.top_p, config.top_k, config.repetition_penalty) == (0.0, 1.0, 0, 1.0)
        assert config.stop == ()
        assert config.seed is None
        assert not config.ignore_eos

    @given(
        st.just(0.0) | st.floats(1e-4, 100),
        st.floats(0, 1, exclude_min=True),
        st.integers(0),
        st.floats(0, 100, exclude_min=True),
        st.integers(1),
    )
    def test_takes_everything_in_range(
        self, temperature: float, top_p: float, top_k: int, penalty: float, count: int
    ) -> None:
        GenerationConfig(
            max_new_tokens=count, temperature=temperature, top_p=top_p, top_k=top_k, repetition_penalty=penalty
        )


def test_a_bad_setting_is_an_error_of_this_library_and_a_value_error() -> None:
    assert issubclass(ConfigError, FocusdocError)
    assert issubclass(ConfigError, ValueError)
