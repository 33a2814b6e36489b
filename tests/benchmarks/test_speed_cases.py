"""What is measured, in which order, and what is left out with which reason."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.speed.cases import Case, Options, plan
from focusdoc.errors import ConfigError

FACTS: dict[str, Any] = {"adapter": "abc", "chunk_size": 1024}


def names(cases: list[Case]) -> list[tuple[str, int, int]]:
    return [(case.task, case.length, case.chunk_size) for case in cases]


def test_shorter_documents_come_first_and_ours_in_every_chunk_size() -> None:
    cases, omitted = plan(Options(lengths=[8192, 4096], contenders=["focus", "full"]), FACTS, {})
    assert names(cases) == [
        ("focus", 4096, 1024), ("focus", 4096, 2048), ("full", 4096, 0),
        ("focus", 8192, 1024), ("focus", 8192, 2048), ("full", 8192, 0),
    ]  # fmt: skip
    assert omitted == []
    assert str(cases[0]) == "focus at 4,096 tokens in chunks of 1,024"


def test_far_is_measured_once_at_its_own_length_and_only_where_it_is_named() -> None:
    assert "far" not in Options.contenders
    options = Options(lengths=[4096], contenders=["far", "int8"], far_length=9000)
    assert names(plan(options, FACTS, {})[0]) == [("int8", 4096, 1024), ("int8", 4096, 2048), ("far", 9000, 1024)]


def test_an_adapter_for_chunks_of_2048_is_measured_once() -> None:
    cases, _ = plan(Options(lengths=[4096], contenders=["focus"]), {**FACTS, "chunk_size": 2048}, {})
    assert names(cases) == [("focus", 4096, 2048)]
    own_alone = Options(lengths=[4096], contenders=["focus"], beside_own=())
    assert names(plan(own_alone, FACTS, {})[0]) == [("focus", 4096, 1024)]


def test_beyond_its_limit_a_contender_is_left_out_and_the_reason_is_told() -> None:
    options = Options(lengths=[8192, 16_384], contenders=["full"], limits={"full": 8192})
    cases, omitted = plan(options, FACTS, {})
    assert names(cases) == [("full", 8192, 0)]
    assert omitted == ["full at 16,384 tokens: its limit is 8,192"]


def test_below_its_threshold_the_paper_cuts_no_chunks_and_is_left_out() -> None:
    cases, omitted = plan(Options(lengths=[2048, 4096], contenders=["paper"]), FACTS, {})
    assert names(cases) == [("paper", 4096, 0)]
    assert omitted == ["paper at 2,048 tokens: below 4,096 it uses no chunks"]


def test_without_an_adapter_only_what_needs_none_is_measured() -> None:
    options = Options(lengths=[4096], contenders=["focus", "look", "full", "paper"], chunk_sizes=[512])
    cases, omitted = plan(options, {**FACTS, "adapter": None}, {})
    assert names(cases) == [("look", 4096, 512), ("full", 4096, 0)]
    assert omitted == ["focus: the model has no adapter", "paper: the model has no adapter"]


def test_what_is_not_installed_is_left_out_once_and_not_by_length() -> None:
    options = Options(lengths=[4096, 8192], contenders=["full", "llama.cpp"])
    cases, omitted = plan(options, FACTS, {"llama.cpp": "not installed"})
    assert {case.task for case in cases} == {"full"}
    assert omitted == ["llama.cpp: not installed"]


def test_an_unknown_contender_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"'fast'.*focus.*llama\.cpp"):
        Options(lengths=[4096], contenders=["fast"])
    with pytest.raises(ConfigError, match="contender"):
        Options(lengths=[4096], contenders=[])
