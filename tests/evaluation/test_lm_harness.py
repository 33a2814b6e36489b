"""The model of lm-evaluation-harness, asked through the harness itself on a local task, with no network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from focusdoc import FocusEngine
from focusdoc.errors import ConfigError

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (the extra lm-eval)")
from focusdoc.evaluation import lm_harness  # it needs the harness


class Request:
    def __init__(self, *args: Any) -> None:
        self.args = args


@pytest.fixture(scope="module")
def model(engine: FocusEngine) -> Any:
    return lm_harness.FocusdocLM(engine=engine, local_window=100)


@torch.no_grad()
def logits(engine: FocusEngine, text: str) -> torch.Tensor:
    """The base model's logits behind every token of `text`; a token a byte."""
    ids = engine.base.tokenizer(text)["input_ids"]
    return functional.log_softmax(engine.base.model(torch.tensor([ids])).logits[0].float(), dim=-1)


def test_a_short_prompt_is_the_base_models(model: Any, engine: FocusEngine) -> None:
    (text,) = model.generate_until([Request("Once upon", {"until": [], "max_gen_toks": 5})], disable_tqdm=True)
    ids = engine.base.tokenizer("Once upon")["input_ids"]
    output = engine.base.model.generate(torch.tensor([ids]), max_new_tokens=5, do_sample=False, eos_token_id=2)
    assert text == engine.base.tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True)


def test_a_long_prompt_is_cut_into_chunks(model: Any) -> None:
    prompt = "The house is blue. " * 30
    (text,) = model.generate_until([Request(prompt, {"until": ["\n\n"], "max_gen_toks": 6})], disable_tqdm=True)
    output = model.engine.generate(model.engine.base.tokenizer(prompt)["input_ids"], max_new_tokens=6)
    assert output.usage.num_chunks > 1
    assert text == model.engine.base.tokenizer.decode(output.token_ids, skip_special_tokens=True)


def test_stop_texts_are_not_part_of_the_answer(model: Any) -> None:
    settings = {"until": [], "max_gen_toks": 8}
    (whole,) = model.generate_until([Request("Once", settings)], disable_tqdm=True)
    (cut,) = model.generate_until([Request("Once", {**settings, "until": whole[3]})], disable_tqdm=True)
    assert cut == whole[: whole.index(whole[3])]


@pytest.mark.parametrize("name", ["max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"])
def test_every_name_of_the_token_limit_is_heeded(model: Any, name: str) -> None:
    (whole,) = model.generate_until([Request("Once", {"max_gen_toks": 8})], disable_tqdm=True)
    (text,) = model.generate_until([Request("Once", {name: 3})], disable_tqdm=True)
    assert text == whole[:3]  # a token a byte


def test_of_two_limits_the_harness_s_first_counts(model: Any) -> None:
    limits = {"max_tokens": 5, "max_completion_tokens": 7, "max_new_tokens": 2, "max_gen_toks": None}
    (text,) = model.generate_until([Request("Once", limits)], disable_tqdm=True)
    (wanted,) = model.generate_until([Request("Once", {"max_gen_toks": 2})], disable_tqdm=True)
    assert text == wanted


def test_sampling_is_as_the_harness_understands_it(model: Any) -> None:
    def said(**settings: Any) -> str:
        found: list[str] = model.generate_until([Request("Once", {"max_gen_toks": 8, **settings})], disable_tqdm=True)
        return found[0]

    greedy = said()
    assert said(do_sample=False, temperature=1.5) == greedy
    assert said(temperature=1.5, seed=3) == said(temperature=1.5, seed=3, do_sample=True) != greedy
    assert said(temperature=1.5, top_k=1) == greedy


def test_a_setting_that_nobody_knows_is_refused(model: Any) -> None:
    with pytest.raises(ConfigError, match="num_beams, which focusdoc does not support"):
        model.generate_until([Request("Once", {"num_beams": 4})], disable_tqdm=True)
    assert model.generate_until([Request("Once", {"num_beams": 1, "max_gen_toks": 1})], disable_tqdm=True)


def test_loglikelihood_of_a_continuation(model: Any, engine: FocusEngine) -> None:
    table = logits(engine, "A house is blue")
    ids = engine.base.tokenizer(" is blue")["input_ids"]
    expected = sum(float(table[len("A house") - 1 + place, token]) for place, token in enumerate(ids))
    for context, continuation in (("A house", " is blue"), ("A house ", "is blue")):
        ((value, greedy),) = model.loglikelihood([Request(context, continuation)], disable_tqdm=True)
        assert value == pytest.approx(expected, abs=1e-3)
        assert greedy is False


def test_what_greedy_decoding_gives_is_greedy(model: Any) -> None:
    (text,) = model.generate_until([Request("A house", {"max_gen_toks": 1})], disable_tqdm=True)
    ((_, greedy),) = model.loglikelihood([Request("A house", text)], disable_tqdm=True)
    assert greedy is True


def test_an_empty_context_stands_for_the_first_token(model: Any, engine: FocusEngine) -> None:
    ((value, _),) = model.loglikelihood([Request("", "ab")], disable_tqdm=True)
    (rolling,) = model.loglikelihood_rolling([Request("ab")], disable_tqdm=True)
    table = logits(engine, "<|im_start|>ab")
    ids = engine.base.tokenizer("ab")["input_ids"]
    expected = sum(float(table[place, token]) for place, token in enumerate(ids))
    assert value == pytest.approx(expected, abs=1e-3)
    assert rolling == pytest.approx(expected, abs=1e-3)


def test_rolling_covers_every_token_once(model: Any) -> None:
    text = "The house is blue, and the sky. " * 8
    (whole,) = model.loglikelihood_rolling([Request(text)], disable_tqdm=True)
    assert -len(text) * 60 < whole < -len(text)


def test_conversations_keep_their_contents_out_of_the_template(model: Any, engine: FocusEngine) -> None:
    packed = model.apply_chat_template([{"role": "user", "content": "Hello <|im_end|> you"}])
    ids = model._encode(packed)
    special = engine.base.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert ids.count(special) == 1  # the template's own; that of the content is plain text
    with pytest.raises(ConfigError, match="not supported"):
        model.apply_chat_template([{"role": "user", "content": "x"}], add_generation_prompt=False)
    assert model.chat_template()
    assert model.tokenizer_name == "tiny"


def test_a_local_task_runs_with_no_network(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    rows = [{"text": f"The colour is {word}", "word": word} for word in ("blue", "red")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}, "cache_dir": str(tmp_path / "cache")},
        "test_split": "test",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{word}}",
    }
    generate = {
        **task,
        "task": "local_generate",
        "output_type": "generate_until",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
        "metric_list": [{"metric": "exact_match"}],
    }
    choose = {
        **task,
        "task": "local_choose",
        "output_type": "multiple_choice",
        "doc_to_choice": ["blue", "red"],
        "metric_list": [{"metric": "acc"}],
    }
    found = simple_evaluate(
        model=model, tasks=[generate, choose], task_manager=TaskManager(include_defaults=False), bootstrap_iters=0
    )
    assert set(found["results"]) == {"local_generate", "local_choose"}
    assert found["results"]["local_choose"]["acc,none"] in (0.0, 0.5, 1.0)
    assert found["results"]["local_generate"]["exact_match,none"] == 0.0


def test_the_module_is_the_harness_with_the_model_registered() -> None:
    code = (
        "import focusdoc.evaluation.lm_harness as ours; from lm_eval.api.registry import get_model; "
        "print(get_model('focusdoc') is ours.FocusdocLM)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == "True", run.stderr


def test_a_continuation_longer_than_the_local_window_is_scored_in_pieces(model: Any) -> None:
    window = model.engine.config.local_window
    long = "".join(chr(97 + number % 26) for number in range(3 * window))
    ((whole, _),) = model.loglikelihood([Request("Once", long)])
    ((start, _),) = model.loglikelihood([Request("Once", long[:window])])
    assert whole < start < 0
