"""Choosing tokens: the same tokens that transformers' own `generate` chooses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from focusdoc.config import GenerationConfig
from focusdoc.decoding.generation import TokenChooser

SAMPLED = {"temperature": 1.0}


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        eos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    model.get_output_embeddings().weight.data *= 8  # a random model's distribution is flat
    return model


def spread(seed: int, size: int = 32) -> Tensor:
    """Logits of a peaked distribution."""
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 3


def reachable(logits: Tensor, **settings: Any) -> set[int]:
    """The tokens chosen in many draws."""
    chooser = TokenChooser(GenerationConfig(seed=0, **settings), [0])
    return {chooser.choose(logits) for _ in range(600)}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"repetition_penalty": 1.7},
        {"temperature": 1.0},
        {"temperature": 0.6},
        {"temperature": 1.0, "top_k": 3},
        {"temperature": 1.0, "top_p": 0.7},
        {"temperature": 1.4, "top_k": 12, "top_p": 0.9, "repetition_penalty": 1.3},
    ],
    ids=lambda settings: ", ".join(f"{name}={value}" for name, value in settings.items()) or "greedy",
)
def test_chooses_what_transformers_generate_chooses(llama: LlamaForCausalLM, settings: dict[str, Any]) -> None:
    prompt, seed, count = [5, 9, 9, 3], 11, 24
    sampled = "temperature" in settings
    torch.manual_seed(seed)
    options: dict[str, Any] = {"do_sample": sampled, "max_new_tokens": count, "top_k": 0, **settings}
    expected = llama.generate(torch.tensor([prompt]), **options)[0, len(prompt) :].tolist()

    chooser = TokenChooser(GenerationConfig(seed=seed, **settings), prompt)
    token_ids = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            logits = llama(torch.tensor([token_ids])).logits[0, -1].float()
        token_ids.append(chooser.choose(logits))
    assert token_ids[len(prompt) :] == expected
    assert len(set(expected)) > 3, "the case tells nothing"


class TestGreedy:
    @given(st.integers(0, 1000))
    def test_takes_the_most_probable_token(self, seed: int) -> None:
        logits = spread(seed)
        assert TokenChooser(GenerationConfig(), [0]).choose(logits) == int(logits.argmax())

    def test_takes_no_notice_of_what_belongs_to_sampling(self) -> None:
        logits = spread(1)
        chooser = TokenChooser(GenerationConfig(top_k=1, top_p=0.1, seed=3), [0])
        assert chooser.choose(logits) == int(logits.argmax())


class TestSampling:
    def test_top_k_keeps_the_k_most_probable(self) -> None:
        logits = spread(2)
        assert reachable(logits, temperature=2.0, top_k=4) == set(logits.topk(4).indices.tolist())

    def test_top_p_keeps_the_smallest_set_that_reaches_it(self) -> None:
        logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
        assert reachable(logits, **SAMPLED, top_p=0.65) == {0, 1}
        assert reachable(logits, **SAMPLED, top_p=0.75) == {0, 1, 2}

    def test_frequencies_are_those_of_the_softmax(self) -> None:
        logits = torch.tensor([0.5, 0.3, 0.2]).log()
        chooser = TokenChooser(GenerationConfig(temperature=0.5, seed=1), [0])
        counts = torch.bincount(torch.tensor([chooser.choose(logits) for _ in range(4000)]), minlength=3)
        expected = torch.tensor([0.25, 0.09, 0.04]) / 0.38  # probabilities squared, then normalised
        torch.testing.assert_close(counts / 4000, expected, atol=0.03, rtol=0)

    def test_the_same_seed_draws_the_same_tokens(self) -> None:
        logits = spread(3)

        def draw(seed: int) -> list[int]:
            chooser = TokenChooser(GenerationConfig(**SAMPLED, seed=seed), [0])
            return [chooser.choose(logits) for _ in range(20)]

        assert draw(7) == draw(7) != draw(8)

    def test_a_seed_leaves_the_global_generator_alone(self) -> None:
        before = torch.random.get_rng_state()
        TokenChooser(GenerationConfig(**SAMPLED, seed=1), [0]).choose(spread(4))
        assert torch.equal(before, torch.random.get_rng_state())

    def test_without_a_seed_the_global_generator_draws(self) -> None:
        logits = spread(4)
        torch.manual_seed(5)
        first = [TokenChooser(GenerationConfig(**SAMPLED), [0]).choose(logits) for _ in range(10)]
        torch.manual_seed(5)
        assert [TokenChooser(GenerationConfig(**SAMPLED), [0]).choose(logits) for _ in range(10)] == first
        assert len(set(first)) > 1


class TestRepetitionPenalty:
    def test_counts_the_history(self) -> None:
        logits = torch.tensor([2.0, 1.9, 0.0])
        config = GenerationConfig(repetition_penalty=1.2)
        assert TokenChooser(config, [2]).choose(logits) == 0
        assert TokenChooser(config, [0]).choose(logits) == 1

    def test_counts_the_tokens_chosen_since(self) -> None:
        chooser = TokenChooser(GenerationConfig(repetition_penalty=1.2), [2])
        assert [chooser.choose(torch.tensor([2.0, 1.9, 0.0])) for _ in range(2)] == [0, 1]

    def test_works_with_no_history(self) -> None:
        chooser = TokenChooser(GenerationConfig(repetition_penalty=1.2), [])
        assert [chooser.choose(torch.tensor([2.0, 1.9, 0.0])) for _ in range(2)] == [0, 1]

    def test_leaves_the_logits_and_the_history_as_they_were(self) -> None:
        logits, history = spread(5), [1, 2]
        kept = logits.clone()
        TokenChooser(GenerationConfig(temperature=0.5, top_k=2, repetition_penalty=2.0, seed=0), history).choose(logits)
        assert torch.equal(logits, kept)
        assert history == [1, 2]
