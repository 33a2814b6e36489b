"""The training run: it learns, it stops and goes on as if it had not, and it never loses a good checkpoint."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from focusdoc.errors import AdapterError, ConfigError, TrainingError
from focusdoc.modeling.adapter import check_adapter
from focusdoc.modeling.adapter_files import load_adapter
from focusdoc.modeling.base import BaseModel
from focusdoc.storage import TEMP_MARK
from focusdoc.training import trainer as trainer_module
from focusdoc.training.data import SampleMaker
from focusdoc.training.settings import SampleShape, TrainingConfig
from focusdoc.training.trainer import StepReport, Trainer
from tiny_models import tiny_model

TrainerMaker = Callable[..., Trainer]
SHAPE = SampleShape(min_chunk_size=16, max_chunk_size=48, max_chunks=3, max_tokens=96, prompts=2, targets=6)


@pytest.fixture(scope="module")
def rhyme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text that says the same few things again and again."""
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("training") / "rhyme.txt"
    path.write_text(" ".join(rng.choice(["The boat is red.", "The sea is grey."]) for _ in range(400)))
    return path


@pytest.fixture
def make_trainer(tmp_path: Path, tiny_tokenizer: Any, rhyme: Path) -> TrainerMaker:
    """`make_trainer(output=..., **config)`: a run of a tiny model over the rhyme."""

    def make(
        output: str = "run",
        *,
        start_from: Path | None = None,
        seed: int = 0,
        family: str = "llama",
        device: str = "cpu",
        **config: Any,
    ) -> Trainer:
        samples = SampleMaker(
            tiny_tokenizer, [rhyme], mix={"continuation": 1, "reconstruction": 1}, shape=SHAPE, seed=seed
        )
        settings = {"steps": 6, "learning_rate": 3e-3, "warmup": 2, "save_every": 2, **config}
        base = BaseModel(tiny_model(family, vocab_size=260).to(device))
        return Trainer(base, samples, TrainingConfig(**settings), tmp_path / output, start_from=start_from)

    return make


def metrics_of(trainer: Trainer) -> list[dict[str, Any]]:
    """The lines of the run's metrics, without the time they took."""
    lines = (trainer.output / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "seconds"} for line in lines]


def checkpoint_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return load_file(trainer.output / "checkpoint" / "state.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def mean_loss(reports: list[StepReport]) -> float:
    losses = [loss for report in reports for loss in report.losses.values()]
    return sum(losses) / len(losses)


class TestLearning:
    def test_lowers_the_loss(self, make_trainer: TrainerMaker) -> None:
        trainer = make_trainer(steps=50, learning_rate=1e-2, save_every=50)
        reports = list(trainer.run())
        assert [report.step for report in reports] == list(range(1, 51))
        assert mean_loss(reports[-10:]) < mean_loss(reports[:5]) - 0.5

    def test_leaves_the_base_model_as_it_was(self, make_trainer: TrainerMaker) -> None:
        trainer = make_trainer()
        before = {name: tensor.clone() for name, tensor in trainer.base.model.state_dict().items()}
        list(trainer.run())
        assert same(trainer.base.model.state_dict(), before)
        assert all(parameter.grad is None for parameter in trainer.base.model.parameters())

    def test_reports_every_step(self, make_trainer: TrainerMaker) -> None:
        trainer = make_trainer(steps=3)
        reports = list(trainer.run())
        for report in reports:
            assert report.losses.keys() <= {"continuation", "reconstruction"}
            assert all(math.isfinite(loss) and loss > 0 for loss in report.losses.values())
            assert report.grad_norm > 0
            assert report.seconds > 0
            assert report.tokens == len(trainer.samples.draw(report.step - 1).token_ids)
            assert report.learning_rate == trainer.config.rate(report.step - 1)
        assert [line["losses"] for line in metrics_of(trainer)] == [report.losses for report in reports]

    def test_accumulates_the_mean_gradient_of_several_samples(self, make_trainer: TrainerMaker) -> None:
        one, two = make_trainer("one", steps=1), make_trainer("two", steps=1, accumulate=2)
        for trainer in (one, two):
            sample = trainer.samples.draw(0)
            trainer.samples = SimpleNamespace(  # type: ignore[assignment]
                draw=lambda _, sample=sample: sample, shape=SHAPE, seed=0, mix={}
            )
        (once,), (twice,) = one.run(), two.run()
        assert twice.tokens == 2 * once.tokens
        assert twice.grad_norm == pytest.approx(once.grad_norm, rel=1e-5)
        assert twice.losses == pytest.approx(once.losses, rel=1e-5)

    def test_trains_only_the_projections_asked_for(self, make_trainer: TrainerMaker) -> None:
        trainer = make_trainer(steps=2, projections="kv")
        list(trainer.run())
        assert sorted(load_adapter(trainer.output / "adapter").weights) == sorted(
            f"layers.{layer}.{letter}.weight" for layer in range(2) for letter in "kv"
        )

    def test_starts_from_the_base_projections(self, make_trainer: TrainerMaker) -> None:
        trainer = make_trainer()
        weights = trainer.adapter(torch.float32).weights
        for index, layer in enumerate(trainer.base.attention_layers):
            for letter in "qkvo":
                base_weight = layer.get_submodule(f"{letter}_proj").get_parameter("weight")
                assert torch.equal(weights[f"layers.{index}.{letter}.weight"], base_weight)

    def test_may_start_from_an_adapter(self, make_trainer: TrainerMaker) -> None:
        first = make_trainer("first")
        list(first.run())
        second = make_trainer("second", start_from=first.output / "adapter")
        assert same(second.adapter().weights, first.adapter().weights)

    def test_refuses_to_start_from_another_models_adapter(self, make_trainer: TrainerMaker) -> None:
        first = make_trainer("first")
        list(first.run())
        with pytest.raises(AdapterError, match="made for"):
            make_trainer("second", family="qwen2", start_from=first.output / "adapter")


class TestStoppingAndGoingOn:
    @pytest.mark.parametrize("stops", [[3], [1, 2, 5]], ids=["once", "three times"])
    def test_equals_a_run_that_was_never_stopped(self, stops: list[int], make_trainer: TrainerMaker) -> None:
        whole = make_trainer("whole")
        list(whole.run())
        for stop_at in [*stops, 99]:
            part = make_trainer("parts")  # as a new process would
            part.resume()
            list(part.run(stop=lambda part=part, stop_at=stop_at: part.step == stop_at))  # type: ignore[misc]
        assert part.step == whole.step == 6
        assert same(checkpoint_of(part), checkpoint_of(whole))
        assert same(part.adapter(torch.float32).weights, whole.adapter(torch.float32).weights)
        assert metrics_of(part) == metrics_of(whole)

    def test_equals_it_also_after_being_killed_between_two_checkpoints(self, make_trainer: TrainerMaker) -> None:
        whole = make_trainer("whole")
        list(whole.run())
        killed = make_trainer("parts")
        for _ in itertools.islice(killed.run(), 3):  # step 2 is saved, step 3 is lost
            pass
        part = make_trainer("parts")
        assert part.resume()
        assert part.step == 2
        list(part.run())
        assert same(checkpoint_of(part), checkpoint_of(whole))
        assert [line["step"] for line in metrics_of(part)] == [1, 2, 3, 4, 5, 6], "step 3 was told twice"

    def test_refuses_a_folder_that_holds_a_run_already(self, make_trainer: TrainerMaker) -> None:
        list(make_trainer(steps=2).run())
        with pytest.raises(TrainingError, match="already has a run"):
            next(make_trainer(steps=2).run())

    @pytest.mark.parametrize(
        ("change", "told"),
        [({"learning_rate": 0.5}, "learning_rate was"), ({"projections": "qkv"}, "projections was 'qkvo', is 'qkv'")],
    )
    def test_refuses_to_resume_another_run(self, change: dict[str, Any], told: str, make_trainer: TrainerMaker) -> None:
        list(make_trainer(steps=2).run())
        with pytest.raises(TrainingError, match=told):
            make_trainer(**{"steps": 2, **change}).resume()

    def test_a_damaged_checkpoint_is_an_error_that_names_it(self, make_trainer: TrainerMaker) -> None:
        trainer = make_trainer(steps=2)
        list(trainer.run())
        path = trainer.output / "checkpoint" / "state.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(TrainingError, match="damaged"):
            make_trainer(steps=2).resume()

    def test_stop_saves(self, make_trainer: TrainerMaker) -> None:
        trainer = make_trainer(save_every=100)
        reports = list(trainer.run(stop=lambda: trainer.step == 3))
        assert [report.step for report in reports] == [1, 2, 3]
        resumed = make_trainer(save_every=100)
        assert resumed.resume()
        assert resumed.step == 3
        assert same(resumed.adapter(torch.float32).weights, trainer.adapter(torch.float32).weights)

    def test_saves_every_so_many_steps(self, make_trainer: TrainerMaker) -> None:
        trainer = make_trainer(steps=5, save_every=2)
        saved = []
        for _ in trainer.run():
            fresh = make_trainer(steps=5, save_every=2)
            fresh.resume()
            saved.append(fresh.step)
        assert saved == [0, 2, 2, 4, 5]

    def test_there_is_nothing_to_resume_in_a_new_folder(self, make_trainer: TrainerMaker) -> None:
        trainer = make_trainer()
        assert not trainer.resume()
        assert trainer.step == 0

    def test_a_finished_run_has_nothing_left_to_do(self, make_trainer: TrainerMaker) -> None:
        list(make_trainer().run())
        again = make_trainer()
        assert again.resume()
        assert list(again.run()) == []


class TestOutput:
    def test_is_a_complete_adapter(self, make_trainer: TrainerMaker) -> None:
        trainer = make_trainer(chunk_size=32, candidate_positions="shared")
        trainer.record = {"command": "focusdoc train"}
        list(trainer.run())
        adapter = load_adapter(trainer.output / "adapter", trainer.base.model)
        check_adapter(adapter, trainer.base.model)
        assert adapter.config.base_fingerprint == trainer.base.fingerprint
        assert (adapter.config.chunk_size, adapter.config.candidate_positions) == (32, "shared")
        assert adapter.config.local_attention == "incremental"
        assert adapter.config.training["command"] == "focusdoc train"
        assert adapter.config.training["steps"] == 6
        assert adapter.config.license
        assert {weight.dtype for weight in adapter.weights.values()} == {torch.bfloat16}

    def test_holds_the_weights_of_the_last_step(self, make_trainer: TrainerMaker) -> None:
        trainer = make_trainer()
        list(trainer.run())
        assert same(load_adapter(trainer.output / "adapter").weights, trainer.adapter().weights)

    def test_keeps_the_old_checkpoint_when_saving_fails(
        self, make_trainer: TrainerMaker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trainer = make_trainer()
        list(trainer.run(stop=lambda: True))
        before = checkpoint_of(trainer)

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("focusdoc.training.weights.save_file", full)
        with pytest.raises(TrainingError, match="No space left"):
            trainer.save()
        assert same(checkpoint_of(trainer), before)
        assert sorted(path.name for path in trainer.output.iterdir()) == ["adapter", "checkpoint", "metrics.jsonl"]


class TestBrokenRuns:
    def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(self, make_trainer: TrainerMaker) -> None:
        trainer = make_trainer()
        steps = trainer.run()
        next(steps), next(steps)
        before, weights = checkpoint_of(trainer), next(iter(trainer.weights.parameters()))
        weights.data.fill_(torch.nan)
        with pytest.raises(TrainingError, match="not finite at step 3"):
            next(steps)
        assert same(checkpoint_of(trainer), before)
        assert load_adapter(trainer.output / "adapter", trainer.base.model)
        assert len(metrics_of(trainer)) == 2
        fresh = make_trainer()
        assert fresh.resume()
        assert len(list(fresh.run())) == 4

    def test_a_text_that_is_too_short_stops_the_run_before_its_first_step(
        self, make_trainer: TrainerMaker, tmp_path: Path
    ) -> None:
        trainer = make_trainer()
        (tmp_path / "short.txt").write_text("Too short.")
        trainer.samples.texts = [tmp_path / "short.txt"]
        with pytest.raises(TrainingError, match="has more than"):
            next(trainer.run())
        assert trainer.step == 0


class TestSchedule:
    def test_rises_to_the_peak(self) -> None:
        config = TrainingConfig(steps=100, learning_rate=1.0, warmup=4)
        assert [config.rate(step) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])

    @pytest.mark.parametrize(
        ("schedule", "halfway", "last"),
        [("constant", 1.0, 1.0), ("linear", 0.55, 0.1), ("cosine", 0.55, 0.1)],
    )
    def test_falls_to_a_tenth(self, schedule: Any, halfway: float, last: float) -> None:
        config = TrainingConfig(steps=110, learning_rate=1.0, warmup=10, schedule=schedule)
        assert config.rate(60) == pytest.approx(halfway)
        assert config.rate(110) == pytest.approx(last)

    def test_cosine_falls_slowly_at_first(self) -> None:
        config = TrainingConfig(steps=100, learning_rate=1.0, warmup=0)
        linear = TrainingConfig(steps=100, learning_rate=1.0, warmup=0, schedule="linear")
        assert config.rate(10) > linear.rate(10)
        assert config.rate(90) < linear.rate(90)

    def test_works_without_warmup_and_with_one_step(self) -> None:
        assert TrainingConfig(steps=1, learning_rate=1.0, warmup=0).rate(0) == 1.0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"save_every": -1}, "save_every is -1"),
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"learning_rate": 0.0}, r"learning_rate is 0\.0"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"schedule": "stairs"}, "schedule is 'stairs'"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_bad_settings_are_refused_by_name(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingConfig(**setting)


@pytest.mark.gpu
class TestOnAGpu:
    def test_steps_are_those_on_the_cpu(self, gpu: torch.device, make_trainer: TrainerMaker) -> None:
        """Samples come from processes beside the run there, and many prompts go through the model together."""
        here, there = make_trainer("here"), make_trainer("there", device=str(gpu))
        for one, other in zip(here.run(), there.run(), strict=True):
            assert other.losses == pytest.approx(one.losses, rel=2e-3)
        assert there.base.device == gpu

    def test_resumes_with_the_optimizer_on_the_gpu(self, gpu: torch.device, make_trainer: TrainerMaker) -> None:
        first = make_trainer(device=str(gpu))
        list(first.run(stop=lambda: first.step == 3))
        second = make_trainer(device=str(gpu))
        assert second.resume()
        assert [report.step for report in second.run()] == [4, 5, 6]


def test_an_adapter_that_found_no_room_is_written_when_resumed(
    make_trainer: TrainerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_trainer(save_every=1000)

    def full(*_: Any) -> None:
        raise SafetensorError("I/O error: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module, "save_adapter", full)
        with pytest.raises(TrainingError, match="cannot be written"):
            list(first.run())
    assert not (first.output / "adapter").exists()
    (first.output / f".checkpoint{TEMP_MARK}1").mkdir()  # what a killed run leaves
    again = make_trainer(save_every=1000)
    assert again.resume()
    assert list(again.run()) == []
    assert (first.output / "adapter").exists()
    assert not list(first.output.glob(f"*{TEMP_MARK}*"))


def test_a_metrics_line_cut_at_a_brace_is_dropped(make_trainer: TrainerMaker) -> None:
    trainer = make_trainer()
    list(trainer.run())
    path = trainer.output / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[-1][: lines[-1].index("}") + 1]]))
    assert len(trainer._metrics.rows()) == len(lines)
