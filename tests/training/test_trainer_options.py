"""What a run may do beside dense full-matrix training: the paper's objective, low rank, a teacher, evaluation."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from focusdoc.errors import ConfigError, TrainingError
from focusdoc.modeling.adapter_files import load_adapter
from focusdoc.modeling.base import BaseModel
from focusdoc.training.data import SampleMaker, default_workers
from focusdoc.training.metrics import HeldOut, loss_curves
from focusdoc.training.objectives import divergence, teacher_logits
from focusdoc.training.processes import Processes, Runtime
from focusdoc.training.settings import SampleShape, TrainingConfig
from focusdoc.training.trainer import Trainer
from tiny_models import tiny_model

TrainerMaker = Callable[..., Trainer]
SHAPE = SampleShape(min_chunk_size=16, max_chunk_size=48, max_chunks=3, max_tokens=96, prompts=2, targets=6)
PAPER = {"objective": "paper", "local_window": 40, "memory_strides": (8, 16)}
OPTIONS = [PAPER, {"rank": 3}, {"distill": 0.5}, {**PAPER, "rank": 4, "distill": 0.1}]


@pytest.fixture(scope="module")
def rhyme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("options") / "rhyme.txt"
    path.write_text(" ".join(rng.choice(["The boat is red.", "The sea is grey."]) for _ in range(400)))
    return path


@pytest.fixture
def make_trainer(tmp_path: Path, tiny_tokenizer: Any, rhyme: Path) -> TrainerMaker:
    """`make_trainer(output, trainer's own arguments..., **config)`: a run of a tiny model over the rhyme."""

    def make(output: str = "run", *, mix: Any = None, shape: Any = None, context: int = 512, **given: Any) -> Trainer:
        place, own = ("processes", "tensorboard", "offload", "workers"), ("start_from", "held_out", "record")
        runtime = Runtime(**{name: given.pop(name) for name in place if name in given})
        arguments = {name: given.pop(name) for name in own if name in given}
        mix = mix or {"continuation": 1, "reconstruction": 1}
        samples = SampleMaker(tiny_tokenizer, [rhyme], mix=mix, shape=replace(SHAPE, **(shape or {})))
        config = TrainingConfig(**{"steps": 6, "learning_rate": 3e-3, "warmup": 2, "save_every": 2, **given})
        base = BaseModel(tiny_model(vocab_size=260, max_position_embeddings=context))
        return Trainer(base, samples, config, tmp_path / output, runtime=runtime, **arguments)

    return make


def rows_of(trainer: Trainer) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (trainer.output / "metrics.jsonl").read_text().splitlines()]


def checkpoint_of(trainer: Trainer) -> dict[str, Tensor]:
    return load_file(trainer.output / "checkpoint" / "state.safetensors")


def flat_gradient(trainer: Trainer) -> Tensor:
    return torch.cat([weight.grad.flatten() for weight in trainer.weights.parameters() if weight.grad is not None])


def gradient_of(trainer: Trainer) -> Tensor:
    """What the first sample adds to the gradient."""
    list(trainer._backward(trainer.samples.draw(0)))
    return flat_gradient(trainer)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@torch.no_grad()
def loss_of(trainer: Trainer) -> float:
    """Mean cross entropy of the samples of the first 30 steps, with the weights as they stand."""
    samples = [trainer._objective.draw(trainer.samples, number) for number in range(30)]
    batches = [batch for sample in samples for batch in trainer._objective.losses(sample, trainer._layers)]
    losses = [each.value.item() for batch in batches for each in batch]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("options", OPTIONS, ids=["paper", "rank", "distill", "all"])
class TestEveryOption:
    def test_resumes_bit_by_bit(self, options: dict[str, Any], make_trainer: TrainerMaker) -> None:
        whole = make_trainer("whole", **options)
        list(whole.run())
        part = make_trainer("parts", **options)
        list(part.run(stop=lambda: part.step == 3))
        part = make_trainer("parts", **options)
        assert part.resume()
        list(part.run())
        assert same(checkpoint_of(part), checkpoint_of(whole))
        assert same(part.adapter().weights, whole.adapter().weights)
        assert [row["losses"] for row in rows_of(part)] == [row["losses"] for row in rows_of(whole)]

    def test_is_part_of_what_the_run_is(self, options: dict[str, Any], make_trainer: TrainerMaker) -> None:
        list(make_trainer(steps=2).run())
        with pytest.raises(TrainingError, match=f"{sorted(options)[0]} was None"):
            make_trainer(steps=2, **options).resume()

    def test_lowers_the_loss_of_its_own_samples(self, options: dict[str, Any], make_trainer: TrainerMaker) -> None:
        trainer = make_trainer(steps=30, save_every=30, learning_rate=2e-2, **options)
        before = loss_of(trainer)
        list(trainer.run())
        assert loss_of(trainer) < before - 0.1


def test_runs_from_before_the_options_can_be_resumed() -> None:
    assert set(TrainingConfig(save_every=3, eval_every=4, chunk_size=8).identity) == {
        *("steps", "learning_rate", "warmup", "schedule", "clip", "weight_decay", "accumulate", "projections"),
        "candidate_positions",
    }


class TestPaper:
    def test_adapter_is_for_refresh_mode(self, make_trainer: TrainerMaker) -> None:
        trainer = make_trainer(**PAPER)
        reports = list(trainer.run())
        assert {name for report in reports for name in report.losses} == {"continuation", "repetition"}
        assert load_adapter(trainer.output / "adapter").config.local_attention == "refresh"

    def test_mix_chooses_the_form(self, make_trainer: TrainerMaker) -> None:
        trainer = make_trainer(**PAPER, mix={"reconstruction": 1})
        assert {name for report in trainer.run() for name in report.losses} == {"repetition"}

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"local_window": 97}, "local_window is 97, but max_tokens is 96"),
            ({"local_window": 31}, "local_window is 31"),
            ({"memory_strides": ()}, "memory_strides"),
        ],
    )
    def test_refuses_what_cannot_be_drawn(self, change: dict[str, Any], told: str, make_trainer: TrainerMaker) -> None:
        with pytest.raises(ConfigError, match=told):
            next(make_trainer(**{**PAPER, **change}).run())

    def test_refuses_a_mix_of_other_objectives(self, make_trainer: TrainerMaker) -> None:
        trainer = make_trainer(**PAPER)
        trainer.samples.mix = {"words": 1.0}
        with pytest.raises(ConfigError, match="continuation or reconstruction"):
            next(trainer.run())


class TestLowRank:
    def test_starts_where_full_matrices_start(self, make_trainer: TrainerMaker) -> None:
        full, low = make_trainer("full").adapter(torch.float32), make_trainer("low", rank=2).adapter(torch.float32)
        assert same(low.weights, full.weights)

    def test_changes_by_products_of_that_rank(self, make_trainer: TrainerMaker) -> None:
        trainer = make_trainer(rank=2)
        before = trainer.adapter(torch.float32).weights
        list(trainer.run())
        after = trainer.adapter(torch.float32).weights
        ranks = {int(torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-3)) for name in before}
        assert ranks == {0, 2}, "the last layer's q and o have no gradient"

    def test_trains_and_keeps_only_the_two_narrow_matrices(self, make_trainer: TrainerMaker) -> None:
        trainer = make_trainer(rank=2)
        assert {min(weight.shape) for weight in trainer.weights.parameters()} == {2}
        list(trainer.run())
        names = {name for name in checkpoint_of(trainer) if name.startswith("weight.")}
        assert len(names) == 2 * 2 * 4
        assert {name[-2:] for name in names} == {"_a", "_b"}

    def test_refuses_to_go_on_from_other_matrices(self, make_trainer: TrainerMaker) -> None:
        first = make_trainer("first")
        list(first.run())
        list(make_trainer(rank=2).run())
        with pytest.raises(TrainingError, match="start_from was"):
            make_trainer(rank=2, start_from=first.output / "adapter").resume()


class TestFirstToken:
    QUESTIONS: ClassVar[dict[str, Any]] = {
        "mix": {"words": 1},
        "shape": {"min_chunk_size": 200, "max_chunk_size": 200, "max_tokens": 200},
    }

    def test_counts_as_often_as_its_weight_says_beside_the_mean(self, make_trainer: TrainerMaker) -> None:
        plain, doubled = (
            gradient_of(make_trainer(f"{weight}", first_token=weight, **self.QUESTIONS)) for weight in (0, 2)
        )
        trainer = make_trainer("by hand", **self.QUESTIONS)
        firsts = []
        for batch in trainer._objective.losses(trainer.samples.draw(0), trainer._layers):
            firsts += [loss.first for loss in batch if loss.first is not None]
        assert len(firsts) == SHAPE.prompts
        (torch.stack(firsts).sum() / SHAPE.prompts).backward()
        torch.testing.assert_close(doubled - plain, 2 * flat_gradient(trainer), atol=1e-5, rtol=1e-3)

    def test_changes_nothing_in_what_is_reported(self, make_trainer: TrainerMaker) -> None:
        plain, doubled = (make_trainer(f"{weight}", first_token=weight, **self.QUESTIONS) for weight in (0, 2))
        told, again = (list(trainer._backward(trainer.samples.draw(0))) for trainer in (plain, doubled))
        assert told == again

    def test_leaves_prompts_that_ask_nothing_alone(self, make_trainer: TrainerMaker) -> None:
        plain, doubled = (gradient_of(make_trainer(f"{weight}", first_token=weight)) for weight in (0, 2))
        assert torch.equal(plain, doubled)


class TestDistillation:
    def test_of_weight_0_changes_nothing(self, make_trainer: TrainerMaker, monkeypatch: pytest.MonkeyPatch) -> None:
        plain, zero = make_trainer("plain"), make_trainer("zero", distill=0.0)
        list(plain.run())
        monkeypatch.setattr("focusdoc.training.objectives.teacher_logits", None)  # a call would fail
        list(zero.run())
        assert same(checkpoint_of(zero), checkpoint_of(plain))

    def test_changes_the_gradient_in_proportion_to_its_weight(self, make_trainer: TrainerMaker) -> None:
        gradients = []
        for weight in (0.0, 1.0, 2.0):
            trainer = make_trainer(f"weight-{weight}", distill=weight)
            gradients.append(gradient_of(trainer))
        one, two = gradients[1] - gradients[0], gradients[2] - gradients[0]
        assert one.norm() > 0
        torch.testing.assert_close(two, 2 * one, atol=1e-5, rtol=1e-3)

    def test_teacher_reads_the_whole_text_and_gets_no_gradient(self, make_trainer: TrainerMaker) -> None:
        trainer = make_trainer(distill=1.0)
        ids = trainer.samples.draw(0).token_ids
        teacher = teacher_logits(trainer.base, ids, 3)
        assert teacher is not None
        assert not teacher.requires_grad
        expected = trainer.base.model(torch.tensor([ids])).logits[0, -3:]
        torch.testing.assert_close(teacher, expected)
        list(trainer.run())
        assert all(parameter.grad is None for parameter in trainer.base.model.parameters())

    def test_leaves_out_what_does_not_fit(self, make_trainer: TrainerMaker) -> None:
        trainer = make_trainer(distill=1.0, context=64)
        reports = list(trainer.run())
        fits = ["distillation" in report.losses for report in reports]
        assert any(fits)
        assert not all(fits)

    def test_divergence(self) -> None:
        logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
        assert divergence(logits, logits.detach()).item() == pytest.approx(0, abs=1e-6)
        other = torch.zeros(3, 7)
        expected = -logits.log_softmax(-1).mean() - torch.log(torch.tensor(7.0))
        torch.testing.assert_close(divergence(logits, other), expected)


class TestHeldOut:
    def make(self, tokenizer: Any, rhyme: Path, **options: Any) -> HeldOut:
        return HeldOut(
            tokenizer=tokenizer, texts=[rhyme], **{"shapes": [(2, 320)], "kinds": ["number"], "cases": 3, **options}
        )

    @pytest.mark.parametrize("options", [{}, PAPER], ids=["dense", "paper"])
    def test_is_told_when_due_and_kept(
        self, options: dict[str, Any], make_trainer: TrainerMaker, tiny_tokenizer: Any, rhyme: Path
    ) -> None:
        held_out = self.make(tiny_tokenizer, rhyme)
        trainer = make_trainer(steps=5, eval_every=2, held_out=held_out, context=1024, **options)
        reports = list(trainer.run())
        assert [bool(report.held_out) for report in reports] == [False, True, False, True, True]
        assert set(reports[1].held_out) == {"number 2x320", "continuation loss 2x320"}
        assert 0 < reports[1].held_out["continuation loss 2x320"] < 20
        record = json.loads((trainer.output / "adapter" / "adapter.json").read_text())["training"]
        assert [point["step"] for point in record["held_out_results"]] == [2, 4, 5]
        assert {"step": 5, **reports[4].held_out} == record["held_out_results"][2]
        assert [row["step"] for row in rows_of(trainer) if "held_out" in row] == [2, 4, 5]

    def test_does_not_change_what_is_trained(
        self, make_trainer: TrainerMaker, tiny_tokenizer: Any, rhyme: Path
    ) -> None:
        plain, watched = (
            make_trainer("plain"),
            make_trainer("watched", eval_every=1, held_out=self.make(tiny_tokenizer, rhyme)),
        )
        list(plain.run()), list(watched.run())
        assert same(checkpoint_of(plain), checkpoint_of(watched))

    def test_counts_an_answer_only_if_it_is_whole(
        self, make_trainer: TrainerMaker, tiny_tokenizer: Any, rhyme: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wrong: list[int] = []

        def answers(base: Any, weights: Any, blocks: Any, prompt: Any, *_: Any) -> Tensor:
            targets = list(prompt.token_ids[-prompt.num_targets :])
            for place in wrong:
                targets[place] += 1
            return torch.nn.functional.one_hot(torch.tensor(targets), 300).float()

        monkeypatch.setattr("focusdoc.training.metrics.target_logits", answers)
        trainer = make_trainer()
        for places, score in (([], 1.0), ([2], 0.0)):
            wrong[:] = places
            arguments = (trainer.base, trainer._layers(), None, trainer._kernel)
            result = self.make(tiny_tokenizer, rhyme).evaluate(*arguments)  # type: ignore[arg-type]
            assert result["number 2x320"] == score


class TestSamplesAhead:
    """Samples made by other processes; they are spawned, which takes seconds."""

    def test_are_the_ones_that_the_run_would_have_made(self, make_trainer: TrainerMaker) -> None:
        alone, beside = make_trainer("alone", workers=0), make_trainer("beside", workers=2)
        made: list[int] = []
        make = SampleMaker.make
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SampleMaker, "make", lambda maker, step: made.append(step) or make(maker, step))
            list(beside.run())
            assert not made
            list(alone.run())
            assert made
        assert same(checkpoint_of(alone), checkpoint_of(beside))
        assert [row["losses"] for row in rows_of(alone)] == [row["losses"] for row in rows_of(beside)]

    def test_go_on_where_the_run_stopped(self, make_trainer: TrainerMaker) -> None:
        whole, first = make_trainer("whole"), make_trainer("parted", workers=1)
        list(whole.run())
        list(first.run(stop=lambda: first.step == 3))
        second = make_trainer("parted", workers=1)
        assert second.resume()
        list(second.run())
        assert same(checkpoint_of(whole), checkpoint_of(second))

    @pytest.mark.parametrize("objective", ["dense", "paper"])
    def test_number_of_processes_is_checked(self, make_trainer: TrainerMaker, objective: str) -> None:
        with pytest.raises(ConfigError, match="workers is -1"):
            make_trainer(workers=-1, objective=objective)

    def test_nobody_makes_them_beside_a_cpu_by_default(self) -> None:
        assert default_workers(torch.device("cpu")) == 0
        assert 1 <= default_workers(torch.device("cuda")) <= 8


class TestMetrics:
    def test_curves_are_thinned(self) -> None:
        rows = [{"step": step, "losses": {"words": float(step), **({"files": 1.0} if step == 7 else {})}} for step in
                range(1, 1001)]  # fmt: skip
        curves = loss_curves(rows)
        assert len(curves["words"]) == 100
        assert curves["words"][0] == [10, 5.5]
        assert curves["words"][-1] == [1000, 995.5]
        assert curves["files"] == [[10, 1.0]]
        assert loss_curves([]) == {}

    def test_adapter_tells_its_curve(self, make_trainer: TrainerMaker) -> None:
        trainer = make_trainer()
        reports = list(trainer.run())
        record = load_adapter(trainer.output / "adapter").config.training
        told = {step for points in record["curves"]["loss"].values() for step, _ in points}
        assert told == {report.step for report in reports}
        assert record["mix"] == {"continuation": 1, "reconstruction": 1}

    def test_a_run_killed_before_its_first_checkpoint_leaves_no_metrics(self, make_trainer: TrainerMaker) -> None:
        next(make_trainer(save_every=50).run())
        trainer = make_trainer(save_every=50)
        list(trainer.run())
        assert [row["step"] for row in rows_of(trainer)] == [1, 2, 3, 4, 5, 6]

    def test_tensorboard(self, make_trainer: TrainerMaker) -> None:
        accumulator = "tensorboard.backend.event_processing.event_accumulator"
        events = pytest.importorskip(accumulator, reason="TensorBoard is not installed (the extra train)")
        trainer = make_trainer(steps=3, tensorboard=True)
        reports = list(trainer.run())
        found = events.EventAccumulator(str(trainer.output / "tensorboard")).Reload()
        assert [(event.step, event.value) for event in found.Scalars("grad_norm")] == [
            (report.step, pytest.approx(report.grad_norm)) for report in reports
        ]
        assert "losses/reconstruction" in found.Tags()["scalars"]

    def test_goes_without_tensorboard(self, make_trainer: TrainerMaker, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
        trainer = make_trainer(steps=2, tensorboard=True)
        list(trainer.run())
        assert not (trainer.output / "tensorboard").exists()


class FakeProcesses(Processes):
    """Process `index` of two that hears nothing of the other one."""

    def __init__(self, index: int) -> None:
        super().__init__(index, 2)

    def average_gradients(self, parameters: Any) -> None:
        pass

    def gather(self, items: Any) -> list[Any]:
        return list(items)

    def wait(self) -> None:
        pass


class TestProcesses:
    def test_share_the_samples(self, make_trainer: TrainerMaker, monkeypatch: pytest.MonkeyPatch) -> None:
        drawn: dict[int, list[int]] = {0: [], 1: []}
        for index, numbers in drawn.items():
            trainer = make_trainer(f"run-{index}", steps=2, accumulate=2, processes=FakeProcesses(index))
            draw = trainer.samples.draw
            monkeypatch.setattr(
                trainer._objective,
                "draw",
                lambda _, number, numbers=numbers, draw=draw: numbers.append(number) or draw(number),
            )
            list(trainer.run())
        assert drawn == {0: [0, 2, 4, 6], 1: [1, 3, 5, 7]}

    def test_only_the_main_one_writes(self, make_trainer: TrainerMaker) -> None:
        trainer = make_trainer(steps=2, processes=FakeProcesses(1), tensorboard=True)
        list(trainer.run())
        assert list(trainer.output.iterdir()) == []

    def test_one_alone_is_not_connected(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        monkeypatch.setitem(sys.modules, "accelerate", None)
        processes = Processes.launched(torch.device("cpu"))
        assert (processes.index, processes.count, processes.is_main) == (0, 1, True)
        assert processes.gather([1]) == [1]
        assert processes.any(True)
        processes.wait()

    @pytest.mark.slow
    def test_two_make_the_step_of_their_mean(self, tmp_path: Path) -> None:
        """Two processes of one sample each take the very step that one process takes with two samples."""
        script = tmp_path / "two.py"
        script.write_text(_TWO)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1] / "helpers")}
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        for command, output in ((launch, "two"), ([sys.executable], "one")):
            subprocess.run([*command, str(script), str(tmp_path / output)], env=environment, check=True, timeout=240)
        two, one = (load_file(tmp_path / name / "checkpoint" / "state.safetensors") for name in ("two", "one"))
        for name, tensor in one.items():
            torch.testing.assert_close(two[name], tensor, atol=1e-6, rtol=1e-4)
        assert len((tmp_path / "two" / "metrics.jsonl").read_text().splitlines()) == 2


_TWO = """
import pathlib, sys, torch
from tiny_models import tiny_model
from focusdoc.modeling.base import BaseModel
from focusdoc.training.data import TrainingSample
from focusdoc.training.settings import SampleShape
from focusdoc.training.dense import TrainingPrompt
from focusdoc.training.processes import Processes, Runtime
from focusdoc.training.trainer import Trainer
from focusdoc.training.settings import TrainingConfig

class Samples:
    seed, mix, shape = 0, {}, SampleShape()
    def draw(self, index):
        ids = torch.randint(3, 96, (40,), generator=torch.Generator().manual_seed(index)).tolist()
        return TrainingSample(ids[:32], 16, (TrainingPrompt(tuple(ids[32:]), 4, "test"),), number=index)

processes = Processes.launched(torch.device("cpu"))
config = TrainingConfig(steps=2, accumulate=2 // processes.count, clip=100.0)
place = Runtime(processes=processes)
trainer = Trainer(BaseModel(tiny_model()), Samples(), config, pathlib.Path(sys.argv[1]), runtime=place)
list(trainer.run())
"""


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"distill": -1.0}, r"distill is -1\.0"),
        ({"first_token": -1.0}, r"first_token is -1\.0"),
        ({"eval_every": -1}, "eval_every is -1"),
        ({"objective": "both"}, "objective is 'both'"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_bad_settings_are_refused_by_name(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingConfig(**setting)


class TestOffload:
    def test_keeps_weights_and_optimizer_on_the_cpu(self, make_trainer: TrainerMaker) -> None:
        plain, offloaded = make_trainer("plain"), make_trainer("offloaded", offload=True)
        list(plain.run()), list(offloaded.run())
        assert same(checkpoint_of(plain), checkpoint_of(offloaded))
        assert {weight.device.type for weight in offloaded.weights.parameters()} == {"cpu"}

    def test_example_for_accelerate_can_be_read(self) -> None:
        from accelerate.commands.config.config_args import load_config_from_file

        path = Path(__file__).parents[2] / "examples" / "accelerate_zero2.yaml"
        config = load_config_from_file(str(path))
        assert config.deepspeed_config["zero_stage"] == 2
        assert config.deepspeed_config["offload_optimizer_device"] == "cpu"
