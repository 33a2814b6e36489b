"""The dense pass: the logits of step-by-step decoding, and the gradients of plain autograd through it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from focusdoc.attention import attention_kernel
from focusdoc.config import FocusConfig
from focusdoc.decoding.parallel import ParallelDecoder
from focusdoc.errors import ConfigError
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.reading import read_chunks
from focusdoc.modeling.base import BaseModel
from focusdoc.training.dense import TrainingPrompt, dense_logits, mean_and_first_losses, target_loss, token_losses
from incremental_reference import IncrementalReference
from tiny_models import random_weights, tiny_model

FAMILIES = ["llama", "qwen2", "qwen3", "gemma3_text"]
TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}
CHUNK_SIZE = 16


class DifferentiableReference(IncrementalReference):
    """The slow reference of incremental mode, step by step through transformers' own model, with autograd on."""

    start = IncrementalReference.start.__wrapped__  # type: ignore[attr-defined]  # what no_grad was put around
    step = IncrementalReference.step.__wrapped__  # type: ignore[attr-defined]


def some_ids(count: int, seed: int) -> tuple[int, ...]:
    return tuple(torch.randint(3, 96, (count,), generator=torch.Generator().manual_seed(seed)).tolist())


def settings_of(**config: Any) -> FocusConfig:
    return FocusConfig(**{"candidate_positions": "sequential", "prompt_window": 6, **config})


def prompt_of(local: int, targets: int) -> TrainingPrompt:
    return TrainingPrompt(some_ids(local + targets, 2), targets, "test")


def blocks_of(base: BaseModel, document: int, attention: str = "auto") -> tuple[MemoryBlock, ...]:
    return read_chunks(base, some_ids(document, 1), CHUNK_SIZE, attention_kernel(attention))


def step_by_step(
    base: BaseModel,
    weights: Any,
    blocks: tuple[MemoryBlock, ...],
    prompt: TrainingPrompt,
    config: FocusConfig,
    attention: str,
) -> Tensor:
    """Teacher-forced logits [num_targets, vocab] of the decoder that answers questions."""
    decoder = ParallelDecoder(
        base, weights, blocks, kernel=attention_kernel(attention), config=config, max_new_tokens=prompt.num_targets
    )
    asked, targets = list(prompt.token_ids[: -prompt.num_targets]), prompt.token_ids[-prompt.num_targets :]
    logits = [decoder.start(prompt.local, asked[-config.prompt_window :])]
    return torch.stack([*logits, *(decoder.step(token) for token in targets[:-1])])


def check_logits(
    base: BaseModel,
    document: int,
    local: int,
    targets: int,
    *,
    attention: str = "auto",
    **config: Any,
) -> None:
    weights, blocks = random_weights(base.model), blocks_of(base, document, attention)
    prompt, settings = prompt_of(local, targets), settings_of(**config)
    (dense,) = dense_logits(base, weights, blocks, [prompt], settings, attention_kernel(attention))
    expected = step_by_step(base, weights, blocks, prompt, settings, attention)
    assert dense.dtype == torch.float32
    torch.testing.assert_close(dense, expected, **TOLERANCE)


def trainable(model: nn.Module) -> list[dict[str, Tensor]]:
    return [{letter: weight.requires_grad_() for letter, weight in layer.items()} for layer in random_weights(model)]


def gradients(weights: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {
        f"{layer}.{letter}": torch.zeros_like(weight) if weight.grad is None else weight.grad
        for layer, of_layer in enumerate(weights)
        for letter, weight in of_layer.items()
    }


class TestLogitsAreThoseOfDecoding:
    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("positions", ["sequential", "shared"])
    @pytest.mark.parametrize("attention", ["naive", "sdpa"])
    def test_in_every_family(self, family: str, positions: str, attention: str) -> None:
        base = BaseModel(tiny_model(family))
        check_logits(base, 58, 9, 5, attention=attention, candidate_positions=positions)

    @pytest.mark.parametrize(
        ("document", "local", "targets"),
        [
            pytest.param(16, 9, 4, id="one chunk"),
            pytest.param(48, 9, 4, id="three chunks"),
            pytest.param(49, 9, 4, id="a last chunk of one token"),
            pytest.param(7, 9, 4, id="one ragged chunk"),
            pytest.param(32, 4, 4, id="all of the local context is prompt"),
            pytest.param(32, 30, 4, id="most of the local context is out of the prompt"),
            pytest.param(32, 9, 1, id="one target"),
            pytest.param(32, 1, 5, id="one token before the targets"),
            pytest.param(32, 1, 1, id="one token and one target"),
            pytest.param(32, 3, 20, id="more targets than the prompt window"),
        ],
    )
    @pytest.mark.parametrize("positions", ["sequential", "shared"])
    def test_whatever_the_lengths(self, document: int, local: int, targets: int, positions: str) -> None:
        check_logits(BaseModel(tiny_model()), document, local, targets, candidate_positions=positions)

    def test_with_a_prompt_window_of_one_token(self) -> None:
        check_logits(BaseModel(tiny_model()), 40, 9, 4, prompt_window=1)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_of_several_prompts_side_by_side(self, family: str) -> None:
        base, kernel, settings = BaseModel(tiny_model(family)), attention_kernel("auto"), settings_of()
        weights, blocks = random_weights(base.model), (*blocks_of(base, 40), *blocks_of(base, 23))
        prompts = [prompt_of(9, 4), prompt_of(3, 1), prompt_of(20, 7)]
        together = dense_logits(base, weights, blocks, prompts, settings, kernel)
        for prompt, dense in zip(prompts, together, strict=True):
            expected = step_by_step(base, weights, blocks, prompt, settings, "auto")
            torch.testing.assert_close(dense, expected, **TOLERANCE)

    def test_with_a_window_of_the_prompts_own(self) -> None:
        base, kernel = BaseModel(tiny_model()), attention_kernel("auto")
        weights, blocks = random_weights(base.model), blocks_of(base, 40)
        prompt = TrainingPrompt(some_ids(24, 2), 4, "test", prompt_window=5)
        (dense,) = dense_logits(base, weights, blocks, [prompt], settings_of(prompt_window=512), kernel)
        expected = step_by_step(base, weights, blocks, prompt, settings_of(prompt_window=5), "auto")
        torch.testing.assert_close(dense, expected, **TOLERANCE)

    def test_with_passages_in_the_local_context_alone(self) -> None:
        base, kernel, settings = BaseModel(tiny_model()), attention_kernel("auto"), settings_of()
        weights, blocks = random_weights(base.model), blocks_of(base, 40)
        plain, other = prompt_of(9, 4), prompt_of(5, 2)
        quoted = replace(plain, local_ids=(*some_ids(21, 7), *plain.local[-3:]))
        together = dense_logits(base, weights, blocks, [plain, quoted, other], settings, kernel)
        for prompt, dense in zip((plain, quoted, other), together, strict=True):
            expected = step_by_step(base, weights, blocks, prompt, settings, "auto")
            torch.testing.assert_close(dense, expected, **TOLERANCE)

    @pytest.mark.parametrize("chunk_batch", [1, 2])
    def test_however_chunks_are_batched(self, chunk_batch: int) -> None:
        check_logits(BaseModel(tiny_model()), 58, 9, 4, chunk_batch=chunk_batch)

    @pytest.mark.parametrize("window", [2, 9, 14, 24])
    @pytest.mark.parametrize("attention", ["naive", "sdpa"])
    def test_under_a_sliding_window(self, window: int, attention: str) -> None:
        base = BaseModel(tiny_model("gemma3_text", sliding_window=window))
        check_logits(base, 40, 9, 6, attention=attention)

    def test_from_bfloat16_weights(self) -> None:
        base = BaseModel(tiny_model().bfloat16())
        weights = [
            {letter: weight.bfloat16() for letter, weight in layer.items()} for layer in random_weights(base.model)
        ]
        blocks, [prompt], settings = blocks_of(base, 40), [prompt_of(9, 4)], settings_of()
        (dense,) = dense_logits(base, weights, blocks, [prompt], settings, attention_kernel("auto"))
        expected = step_by_step(base, weights, blocks, prompt, settings, "auto")
        assert dense.dtype == torch.float32
        torch.testing.assert_close(dense, expected, atol=0.1 * float(expected.std()), rtol=0)


class TestGradients:
    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("attention", ["naive", "sdpa"])
    def test_are_those_of_plain_autograd(self, family: str, attention: str) -> None:
        model = tiny_model(family, num_hidden_layers=2).requires_grad_(False)
        base, [prompt], settings = BaseModel(model), [prompt_of(9, 4)], settings_of()
        fast, slow = trainable(model), trainable(model)
        kernel = attention_kernel(attention)
        (logits,) = dense_logits(base, fast, blocks_of(base, 40, attention), [prompt], settings, kernel)
        target_loss(logits, prompt).backward()

        document, local = some_ids(40, 1), list(prompt.token_ids[:-4])
        chunks = [list(document[start : start + CHUNK_SIZE]) for start in range(0, 40, CHUNK_SIZE)]
        reference = DifferentiableReference(model, slow, chunks)
        steps = [reference.start(local, local[-settings.prompt_window :])]
        steps += [reference.step(token) for token in prompt.token_ids[-4:-1]]
        target_loss(torch.stack(steps), prompt).backward()

        torch.testing.assert_close(logits, torch.stack(steps), **TOLERANCE)
        found, expected = gradients(fast), gradients(slow)
        assert all(bool(expected[f"0.{letter}"].any()) for letter in "qkvo"), "the case tells nothing"
        for name, gradient in expected.items():
            scale = float(gradient.abs().max())
            torch.testing.assert_close(found[name], gradient, atol=1e-4 * scale + 1e-9, rtol=1e-3, msg=name)

    def test_are_the_slope_of_the_loss(self) -> None:
        model = tiny_model(num_hidden_layers=3).requires_grad_(False)
        base, prompt, kernel = BaseModel(model), prompt_of(9, 4), attention_kernel("auto")
        weights, blocks = trainable(model), blocks_of(base, 40)

        def loss() -> Tensor:
            return target_loss(dense_logits(base, weights, blocks, [prompt], settings_of(), kernel)[0], prompt)

        loss().backward()
        generator = torch.Generator().manual_seed(3)
        for layer in weights[:2]:
            for letter, weight in layer.items():
                assert weight.grad is not None
                # Along the gradient, where the slope stands clear of float32 rounding, and a little off it.
                noise = torch.randn(weight.shape, generator=generator) * weight.grad.std()
                direction = nn.functional.normalize((weight.grad + noise).flatten(), dim=0).view_as(weight)
                slope = float((weight.grad * direction).sum())
                with torch.no_grad():
                    weight += direction * 5e-3
                    above = loss()
                    weight -= direction * 1e-2
                    below = loss()
                    weight += direction * 5e-3
                assert float(above - below) / 1e-2 == pytest.approx(slope, rel=0.02), letter

    def test_the_last_layers_q_and_o_have_none(self) -> None:
        # Nothing behind the last layer reads a candidate's output; its keys and values the local rows do read.
        model = tiny_model().requires_grad_(False)
        base, prompt, weights = BaseModel(model), prompt_of(9, 4), trainable(tiny_model())
        (logits,) = dense_logits(base, weights, blocks_of(base, 40), [prompt], settings_of(), attention_kernel("auto"))
        target_loss(logits, prompt).backward()
        used = {name: bool(gradient.any()) for name, gradient in gradients(weights).items()}
        assert [name for name, is_used in used.items() if not is_used] == ["1.q", "1.o"]

    def test_need_none_of_the_base_models_parameters(self) -> None:
        model = tiny_model().requires_grad_(False)
        base, prompt = BaseModel(model), prompt_of(9, 4)
        (logits,) = dense_logits(
            base, trainable(model), blocks_of(base, 40), [prompt], settings_of(), attention_kernel("auto")
        )
        target_loss(logits, prompt).backward()
        assert all(parameter.grad is None for parameter in model.parameters())

    def test_leave_the_chunks_as_they_were(self) -> None:
        base = BaseModel(tiny_model().requires_grad_(False))
        blocks, prompt = blocks_of(base, 40), prompt_of(9, 4)
        before = [block.keys.clone() for block in blocks]
        (logits,) = dense_logits(base, trainable(base.model), blocks, [prompt], settings_of(), attention_kernel("auto"))
        target_loss(logits, prompt).backward()
        assert all(torch.equal(block.keys, keys) for block, keys in zip(blocks, before, strict=True))
        assert not any(block.keys.requires_grad or block.values.requires_grad for block in blocks)


class TestTheModel:
    def test_is_as_before(self) -> None:
        model = tiny_model()
        token_ids = torch.tensor([some_ids(20, 5)])
        modules, logits = [*model.named_modules()], model(token_ids).logits
        base, prompt = BaseModel(model), prompt_of(9, 4)
        weights = trainable(model)
        (dense,) = dense_logits(base, weights, blocks_of(base, 40), [prompt], settings_of(), attention_kernel("auto"))
        target_loss(dense, prompt).backward()
        assert [*model.named_modules()] == modules
        assert torch.equal(model(token_ids).logits, logits)

    def test_is_as_before_after_an_error(self) -> None:
        model = tiny_model()
        base, modules = BaseModel(model), [*tiny_model().state_dict()]
        weights = random_weights(model)
        weights[1]["q"] = weights[1]["q"][:, :-1]
        with pytest.raises(RuntimeError):
            dense_logits(base, weights, blocks_of(base, 40), [prompt_of(9, 4)], settings_of(), attention_kernel("auto"))
        assert [*model.state_dict()] == modules
        assert model.config._attn_implementation == "eager"


class TestTrainingPrompt:
    @pytest.mark.parametrize("num_targets", [0, -1, 3, 4])
    def test_needs_a_target_and_a_token_before_it(self, num_targets: int) -> None:
        with pytest.raises(ConfigError, match=f"num_targets is {num_targets} of 3"):
            TrainingPrompt((5, 6, 7), num_targets, "test")

    def test_its_loss_is_the_mean_over_the_targets(self) -> None:
        logits = torch.randn(2, 10, generator=torch.Generator().manual_seed(0))
        expected = -(logits[0].log_softmax(0)[6] + logits[1].log_softmax(0)[7]) / 2
        torch.testing.assert_close(target_loss(logits, TrainingPrompt((5, 6, 7), 2, "test")), expected)

    def test_means_and_firsts_of_prompts_of_unequal_lengths(self) -> None:
        losses = torch.tensor([0.5, 1.5, 4.0, 3.0, 0.0, 6.0])
        means, firsts = mean_and_first_losses(losses, [prompt_of(4, 2), prompt_of(4, 1), prompt_of(4, 3)])
        assert means.tolist() == [1.0, 4.0, 3.0]
        assert firsts.tolist() == [0.5, 4.0, 3.0]


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_on_a_gpu_losses_and_gradients_are_those_on_the_cpu(gpu: torch.device, family: str) -> None:
    """Several prompts of unequal lengths together, over two kinds of blocks."""
    prompts = [prompt_of(9, 4), prompt_of(14, 2), prompt_of(5, 5)]
    found: list[tuple[Tensor, dict[str, Tensor]]] = []
    for device in (torch.device("cpu"), gpu):
        base = BaseModel(tiny_model(family).to(device))
        weights = [
            {letter: weight.detach().to(device).requires_grad_() for letter, weight in layer.items()}
            for layer in random_weights(tiny_model(family))
        ]
        kernel = attention_kernel("auto", device)
        blocks = [*blocks_of(base, 40), *blocks_of(base, 32)]
        logits = dense_logits(base, weights, blocks, prompts, settings_of(), kernel)
        losses, _ = mean_and_first_losses(token_losses(logits, prompts), prompts)
        losses.sum().backward()
        found.append((losses.detach().cpu(), {name: each.cpu() for name, each in gradients(weights).items()}))
    (losses, wanted), (there, grads) = found
    torch.testing.assert_close(there, losses, atol=1e-5, rtol=1e-4)
    for name, gradient in grads.items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-5, rtol=1e-3)
