"""`focusdoc train` and `focusdoc adapter`: a run from the shell, and what is done with its adapter."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from cli_samples import Run
from safetensors.torch import load_file
from typer.main import get_command

from focusdoc.cli.main import app
from focusdoc.cli.train import _own_device, _shape, _strides
from focusdoc.errors import ConfigError
from focusdoc.modeling.adapter_files import load_adapter
from focusdoc.training.settings import SampleShape, Setting, TrainingConfig
from focusdoc.training.trainer import Trainer

SMALL = ["--max-tokens", "96", "--min-chunk-size", "16", "--max-chunk-size", "48", "--prompts", "2", "--targets", "6"]
MIX = ["--mix", "continuation=1,reconstruction=1"]


def rhyme(path: Path, sentences: int = 60) -> Path:
    rng = random.Random(0)
    path.write_text(" ".join(rng.choice(["The boat is red.", "The sea is grey."]) for _ in range(sentences)))
    return path


@pytest.fixture
def command(tmp_path: Path, tiny_folder: Path) -> list[object]:
    """`focusdoc train` of the tiny model over a small text, three steps into ``run``."""
    text = rhyme(tmp_path / "rhyme.txt")
    given = ["train", "--model", tiny_folder, "--data", text, "--output", tmp_path / "run", "--steps", "3"]
    return [*given, *SMALL, *MIX]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "run"


def assert_mistake(result: Any, *words: str) -> None:
    assert result.exit_code == 2, result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert "Traceback" not in result.stderr
    assert [word for word in words if word not in last] == [], last


class TestTrain:
    def test_makes_an_adapter_that_answers(
        self, run: Run, command: list[object], output: Path, tmp_path: Path, tiny_folder: Path
    ) -> None:
        held_out = rhyme(tmp_path / "held_out.txt", 80)
        result = run(*command, "--held-out", held_out, "--eval-shape", "2x320", "--eval-every", "2", "--save-every", 2)
        assert result.exit_code == 0, result.stderr
        assert f"The adapter is in {output / 'adapter'}" in result.stdout
        assert [line.split("  ")[0] for line in result.stderr.splitlines()] == [
            *("step 1", "step 2", "step 2", "step 3", "step 3"),
        ]
        assert "tokens/s" in result.stderr
        config = load_adapter(output / "adapter").config
        assert config.training["steps"] == 3
        # Under pytest the process's own arguments are pytest's, and there may be none behind the name.
        assert config.training["command"].split()[0] == "focusdoc"
        assert config.training["data"]["text_files"] == ["rhyme.txt"]
        assert config.training["held_out"] == ["held_out.txt"]
        assert [each["step"] for each in config.training["held_out_results"]] == [2, 3]
        asked = run("ask", held_out, "What is red?", "--model", tiny_folder, "--adapter", output / "adapter",
                    "--max-new-tokens", "2", "--chunk-size", "256")  # fmt: skip
        assert asked.exit_code == 0, asked.stderr

    def test_goes_on_where_ctrl_c_stopped_it(
        self, run: Run, command: list[object], output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = signal.getsignal(signal.SIGINT)
        with monkeypatch.context() as patch:
            advance = Trainer._train_step

            def interrupted(self: Trainer, made: Any) -> Any:
                if self.step == 1:
                    os.kill(os.getpid(), signal.SIGINT)
                return advance(self, made)

            patch.setattr(Trainer, "_train_step", interrupted)
            result = run(*command)
        assert result.exit_code == 130, result.stderr
        assert "Stopped and saved after step 2" in result.stderr
        assert signal.getsignal(signal.SIGINT) is before
        resumed = run(*command, "--resume")
        assert resumed.exit_code == 0, resumed.stderr
        assert "Resuming after step 2" in resumed.stderr
        whole = [tmp_path / "whole" if part == output else part for part in command]
        assert run(*whole).exit_code == 0
        one, other = (load_file(folder / "checkpoint" / "state.safetensors") for folder in (output, tmp_path / "whole"))
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())

    def test_two_processes_make_the_steps_that_one_makes_of_twice_the_samples(
        self, run: Run, command: list[object], output: Path, tmp_path: Path
    ) -> None:
        fixed = ["--max-reused", "0", "--dtype", "float32"]  # a process reuses chunks of its own samples
        given = [str(part) for part in [*command, *fixed, "--processes", "2"]]
        done = subprocess.run([sys.executable, "-m", "focusdoc", *given], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert [line.split("  ")[0] for line in done.stderr.splitlines()] == ["step 1", "step 2", "step 3"]
        alone = [tmp_path / "alone" if part == output else part for part in command]
        assert run(*alone, *fixed, "--accumulate", 2).exit_code == 0
        together, single = (
            load_file(folder / "checkpoint" / "state.safetensors") for folder in (output, tmp_path / "alone")
        )
        assert together.keys() == single.keys()
        for name, tensor in single.items():
            torch.testing.assert_close(together[name], tensor, rtol=1e-4, atol=1e-6)

    def test_processes_share_the_gpus_there_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOCAL_RANK", "1")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        assert _own_device("auto") == "cuda:1"
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        with pytest.raises(ConfigError, match="Process 2 of the run has no GPU of its own; there are 1"):
            _own_device("auto")

    def test_paper_objective_low_rank_and_teacher(self, run: Run, command: list[object], output: Path) -> None:
        result = run(*command, "--objective", "paper", "--local-window", 40, "--rank", 2, "--distill", 0.5)
        assert result.exit_code == 0, result.stderr
        assert "distillation" in result.stderr
        config = load_adapter(output / "adapter").config
        assert config.local_attention == "refresh"
        assert (config.training["training"]["rank"], config.training["training"]["memory_strides"]) == (2, [16])

    def test_starts_from_an_adapter_and_in_another_dtype(
        self, run: Run, command: list[object], output: Path, tmp_path: Path
    ) -> None:
        assert run(*command).exit_code == 0
        second = [tmp_path / "second" if part == output else part for part in command]
        result = run(*second, "--start-from", output / "adapter", "--dtype", "bfloat16", "--candidate-positions",
                     "shared", "--accumulate", "2", "--schedule", "linear")  # fmt: skip
        assert result.exit_code == 0, result.stderr
        assert load_adapter(tmp_path / "second" / "adapter").config.candidate_positions == "shared"

    def test_takes_folders_and_questions_and_leaves_out_what_is_held_out(
        self, run: Run, tmp_path: Path, tiny_folder: Path
    ) -> None:
        folder = tmp_path / "data" / "deep"
        folder.mkdir(parents=True)
        for name in ("one.txt", "two.md"):
            rhyme(folder / name, 80)
        (folder / "notes.log").write_text("of no use")
        row = {"context": "The boat is red.", "question": "What is red?", "answer": "The boat"}
        (folder / "asked.jsonl").write_text(json.dumps(row))
        result = run("train", "--model", tiny_folder, "--data", tmp_path / "data", "--output", tmp_path / "run",
                     "--steps", 2, "--max-tokens", 256, "--mix", "files=1", "--held-out", folder / "two.md",
                     "--eval-shape", "1x256", "--min-chunk-size", 128)  # fmt: skip
        assert result.exit_code == 0, result.stderr
        data = load_adapter(tmp_path / "run" / "adapter").config.training["data"]
        assert data["text_files"] == ["one.txt"]
        assert (data["questions"], data["question_files"]) == (1, ["asked.jsonl"])


class TestMistakes:
    @pytest.mark.parametrize(
        ("content", "name", "words"),
        [
            (None, "missing.txt", ["no data at", "missing.txt"]),
            ("", "empty.txt", ["empty.txt is empty"]),
            ("  \n", "blank.txt", ["blank.txt", "no text"]),
            ("Too short.", "short.txt", ["No text has more than", "--max-tokens"]),
            ("{}", "broken.json", ["broken.json", "neither SQuAD-like"]),
            ("x", "program.exe", ["program.exe", ".txt"]),
        ],
    )
    def test_data(
        self, content: str | None, name: str, words: list[str], run: Run, command: list[object], tmp_path: Path
    ) -> None:
        if content is not None:
            (tmp_path / name).write_text(content)
        command[command.index("--data") + 1] = tmp_path / name
        assert_mistake(run(*command), *words)
        assert not (tmp_path / "run").exists()

    def test_a_folder_without_data(self, run: Run, command: list[object], tmp_path: Path) -> None:
        (tmp_path / "nothing").mkdir()
        command[command.index("--data") + 1] = tmp_path / "nothing"
        assert_mistake(run(*command), "has no data")

    def test_held_out_texts_that_are_too_short(self, run: Run, command: list[object], tmp_path: Path) -> None:
        assert_mistake(run(*command, "--held-out", rhyme(tmp_path / "h.txt", 5)), "held-out", "4 chunks of 256")

    def test_a_model_without_the_projections(self, run: Run, command: list[object], tmp_path: Path) -> None:
        (tmp_path / "gpt2").mkdir()
        (tmp_path / "gpt2" / "config.json").write_text('{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}')
        command[command.index("--model") + 1] = tmp_path / "gpt2"
        assert_mistake(run(*command), "gpt2", "not supported")

    def test_an_output_folder_of_another_run(self, run: Run, command: list[object], output: Path) -> None:
        assert run(*command).exit_code == 0
        assert_mistake(run(*command), "already has a run", "--resume")
        assert_mistake(run(*command, "--resume", "--learning-rate", "0.5"), "another run", "--learning-rate was")

    def test_an_output_folder_of_something_else(self, run: Run, command: list[object], output: Path) -> None:
        output.mkdir()
        (output / "letter.txt").write_text("Dear")
        assert_mistake(run(*command), "letter.txt")
        output = output.with_name("rhyme.txt")
        command[command.index("--output") + 1] = output
        assert_mistake(run(*command), "is a file")

    def test_a_loss_that_is_not_finite(
        self, run: Run, command: list[object], output: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        advance = Trainer._train_step

        def broken(self: Trainer, made: Any) -> Any:
            if self.step == 2:
                next(iter(self.weights.parameters())).data.fill_(torch.nan)
            return advance(self, made)

        monkeypatch.setattr(Trainer, "_train_step", broken)
        assert_mistake(run(*command, "--save-every", "1"), "not finite at step 3", "kept")
        assert load_adapter(output / "adapter").config.training["steps"] == 2

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--steps", "0"], ["steps is 0"]),
            (["--rank", "0"], ["rank is 0"]),
            (["--objective", "both"], ["objective is 'both'"]),
            (["--learning-rate", "nan"], ["--learning-rate is nan"]),
            (["--max-chunks", "0"], ["--max-chunks is 0"]),
            (["--mix", "words"], ["--mix is 'words'"]),
            (["--mix", "wrods=1"], ["wrods", "words"]),
            (["--eval-shape", "big"], ["--eval-shape is 'big'"]),
            (["--start-from", "/there/is/none"], ["no adapter at"]),
        ],
        ids=lambda value: " ".join(value),
    )
    def test_options(self, options: list[str], words: list[str], run: Run, command: list[object]) -> None:
        assert_mistake(run(*command, *options), *words)

    def test_words_for_numbers(self) -> None:
        assert _shape("16x256") == (16, 256)
        assert _strides(64, 2048) == (64, 128, 256, 512, 1024, 2048)
        assert _strides(100, 300) == (128, 256)
        assert _strides(40, 50) == (40,)


class TestSettings:
    @pytest.mark.parametrize("settings", [TrainingConfig, SampleShape])
    def test_are_options_with_their_defaults_and_words(self, settings: Any) -> None:
        options = {option.name: option for option in get_command(app).commands["train"].params}  # type: ignore[attr-defined]
        hints = get_type_hints(settings, include_extras=True)
        said = {name: part for name, hint in hints.items() for part in get_args(hint) if isinstance(part, Setting)}
        assert len(said) >= 10
        assert said.keys() == options.keys() & {field.name for field in fields(settings)}
        for name, setting in said.items():
            option = options[name]
            told = (option.default, option.help, option.rich_help_panel)
            assert told == (getattr(settings, name), setting.help, setting.panel)


class TestAdapter:
    def test_info(self, run: Run, tiny: list[str]) -> None:
        adapter = tiny[3]
        result = run("adapter", "info", adapter)
        assert result.exit_code == 0, result.stderr
        assert "chunk size" in result.stdout
        assert "training: untrained" in result.stdout
        values = json.loads(run("adapter", "info", adapter, "--json").stdout)
        assert values["projections"] == ["q", "k", "v", "o"]
        assert values["parameters"] == 2 * 32 * 32 * (2 + 1)
        assert values["bytes"] == 4 * values["parameters"]
        assert values["finds_passages"] is False

    def test_info_of_a_run_tells_where_its_curves_end(self, run: Run, command: list[object], output: Path) -> None:
        assert run(*command).exit_code == 0
        result = run("adapter", "info", output / "adapter")
        assert result.exit_code == 0, result.stderr
        assert '"loss": {' in result.stdout
        assert "training: steps" in result.stdout

    def test_verify(self, run: Run, tiny: list[str], tiny_folder: Path, tmp_path: Path, golden_folder: Path) -> None:
        result = run("adapter", "verify", tiny[3], "--model", tiny_folder)
        assert (result.exit_code, result.stdout) == (0, "The adapter fits tiny.\n"), result.stderr
        official = golden_folder / "candidate_official_names.safetensors"
        assert_mistake(run("adapter", "verify", official, "--model", tiny_folder), "4 layers")
        fits = run("adapter", "verify", official, "--model", golden_folder / "model")
        assert fits.exit_code == 0
        assert "only shapes were compared" in fits.stdout

    def test_convert_to_the_authors_names_and_back(
        self, run: Run, tiny: list[str], tiny_folder: Path, tmp_path: Path
    ) -> None:
        there, back = tmp_path / "beacon.safetensors", tmp_path / "back"
        assert run("adapter", "convert", tiny[3], there, "--to", "official").exit_code == 0
        assert "model.layers.1.self_attn.beacon_q_proj.weight" in load_file(there)
        result = run("adapter", "convert", there, back, "--to", "ours", "--model", tiny_folder)
        assert result.exit_code == 0, result.stderr
        first, again = load_adapter(tiny[3]), load_adapter(back)
        assert all(torch.equal(weight, again.weights[name]) for name, weight in first.weights.items())
        assert again.config.base_fingerprint == first.config.base_fingerprint
        assert again.config.local_attention == "refresh"

    def test_convert_to_a_low_rank_and_on_to_the_authors_names(
        self, run: Run, tiny: list[str], tiny_folder: Path, tmp_path: Path
    ) -> None:
        low, official = tmp_path / "low", tmp_path / "beacon.safetensors"
        result = run("adapter", "convert", tiny[3], low, "--to", "ours", "--model", tiny_folder, "--rank", 2)
        assert result.exit_code == 0, result.stderr
        assert load_adapter(low).config.rank == 2
        assert run("adapter", "verify", low, "--model", tiny_folder).exit_code == 0
        assert_mistake(run("adapter", "convert", low, official, "--to", "official"), "name its base model")
        assert run("adapter", "convert", low, official, "--to", "official", "--model", tiny_folder).exit_code == 0
        assert len(load_file(official)) == len(load_adapter(tiny[3]).weights)

    def test_mistakes(self, run: Run, tiny: list[str], tmp_path: Path) -> None:
        adapter = tiny[3]
        assert_mistake(run("adapter", "convert", adapter, tmp_path / "x", "--to", "ours", "--rank", 2), "add --to ours")
        assert_mistake(run("adapter", "info", tmp_path / "none"), "no adapter at")
        assert_mistake(run("adapter", "convert", adapter, tmp_path / "new", "--to", "theirs"), "--to is 'theirs'")
        assert_mistake(run("adapter", "convert", adapter, tmp_path / "new", "--to", "official"), ".safetensors")
        assert_mistake(run("adapter", "convert", adapter, tmp_path, "--to", "ours"), "exists already")
        assert "Usage" in run("adapter").stdout + run("adapter").stderr
