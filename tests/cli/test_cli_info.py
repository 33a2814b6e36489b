"""`focusdoc info`: what reading will cost."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cli_samples import Run, pdf

from focusdoc.modeling.estimate import default_placement, model_size
from focusdoc.terminal import in_bytes, in_time

DEFAULT_SIZE = model_size(None)


def test_a_text(run: Run, book: Path) -> None:
    result = run("info", book)
    assert result.exit_code == 0, result.stderr
    assert re.search(r"pages +none", result.stdout)
    assert re.search(r"characters +1,204\n", result.stdout)
    assert re.search(r"tokens +\d+, (counted|estimated|rule of thumb)", result.stdout)
    assert re.search(r"memory .*23,040 bytes a token.*269 MB of weights", result.stdout)
    assert re.search(r"plan +[\d,]+ tokens, [\d.]+ [kM]B of memory, about \d+ s, question and answer", result.stdout)
    assert re.search(r"time to read about \d+ s", result.stdout)


def test_json_of_a_pdf(run: Run, tmp_path: Path, tiny_folder: Path) -> None:
    path = tmp_path / "book.pdf"
    path.write_bytes(pdf(["One page of words", ""]))
    result = run("info", path, "--model", tiny_folder, "--json")
    assert result.exit_code == 0, result.stderr
    values = json.loads(result.stdout)
    assert values["documents"][0]["pages"] == 2
    assert values["documents"][0]["pages_without_text"] == [2]
    assert values["documents"][0]["characters"] == len("One page of words\n\n")
    per_token = 2 * 2 * 2 * 8 * 4  # K and V, layers, KV heads, head dimension, float32
    assert values["memory_bytes_per_token"] == per_token
    assert values["memory_bytes"] == values["tokens"] * per_token > 0
    assert values["model"] == "tiny"
    assert values["model_bytes"] == 4 * (2 * 259 * 32 + 2 * (2 * 32 * 8 * (4 + 2) + 3 * 32 * 64))
    assert values["read_seconds"] > 0
    plan = values["plan"]
    assert (plan["rung"], plan["memory_dtype"], plan["num_chunks"]) == ("memory", "model", 1)
    assert plan["bytes_needed"] == values["memory_bytes"] + (128 + 128) * per_token  # a question and an answer
    assert plan["bytes_free"] > 1 << 20


def test_several_documents_are_planned_together(run: Run, book: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("Another book. " * 20)
    one, two, both = (json.loads(run("info", *files, "--json").stdout) for files in ([book], [other], [book, other]))
    assert both["documents"] == [*one["documents"], *two["documents"]]
    assert both["tokens"] == one["tokens"] + two["tokens"]
    assert both["memory_bytes"] == one["memory_bytes"] + two["memory_bytes"]
    shown = run("info", "-", other, input="From standard input.").stdout
    assert re.search(r"document +standard input.*document +other.txt.*tokens +\d", shown, re.DOTALL)


def test_the_plan_in_int8(run: Run, book: Path) -> None:
    plans = [
        json.loads(run("info", book, "--json", "--chunk-size", 64, "--memory-dtype", kind).stdout)["plan"]
        for kind in ("model", "int8")
    ]
    assert [plan["rung"] for plan in plans] == ["memory", "int8"]
    assert plans[1]["bytes_needed"] < plans[0]["bytes_needed"]
    assert run("info", book, "--memory-dtype", "int4").exit_code == 2


def test_no_model_is_loaded(run: Run, book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)  # an import of it fails
    assert run("info", book).exit_code == 0


def test_sizes() -> None:
    assert DEFAULT_SIZE.kv_bytes_per_token == 23_040
    # All weights of SmolLM2-135M but those of its norms.
    assert DEFAULT_SIZE.num_bytes == 2 * (134_515_008 - 61 * 576)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"hidden_size": 8}', '{"num_attention_heads": "many"}'])
def test_a_folder_that_holds_no_model(run: Run, book: Path, tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    result = run("info", book, "--model", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")


def test_models_of_the_catalogue_by_their_names(run: Run, book: Path) -> None:
    """They need not be installed to be planned for."""
    assert model_size(DEFAULT_SIZE.name) is model_size(DEFAULT_SIZE.name.lower()) is DEFAULT_SIZE
    facts = json.loads(run("info", book, "--model", "qwen2.5-coder-1.5b-instruct", "--json").stdout)
    assert facts["model"] == "Qwen2.5-Coder-1.5B-Instruct"
    assert facts["memory_bytes_per_token"] == 28 * 2 * 2 * 128 * 2
    assert "default model" not in facts["tokens_method"]


def test_half_precision_takes_twice_the_memory_on_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    device, size = default_placement(replace(DEFAULT_SIZE, dtype="float16"))
    assert (device, size.kv_bytes_per_token) == ("cpu", 2 * DEFAULT_SIZE.kv_bytes_per_token)


def test_words_for_numbers() -> None:
    assert [in_bytes(count) for count in (999, 23_040, 1.25e6, 269e6, 3.02e9, 5e12)] == [
        *("999 bytes", "23 kB", "1.2 MB", "269 MB", "3.0 GB", "5.0 TB"),
    ]
    assert [in_time(seconds) for seconds in (0.1, 42, 170, 9000)] == ["1 s", "42 s", "3 min", "2.5 h"]
