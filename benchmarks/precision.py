"""Attention in bfloat16 compared with float32 on a real model: perplexity of a novel, and greedy answers.

    python benchmarks/precision.py --model MODEL --data ../shared/data --tokens 4096 --questions 50

The first half of a text is one chunk, and the second half attends to it and to its own tail, with each variant: with
and without the CPU's matrix unit; with int8 keys and values; with scores rounded to bfloat16 ("rounded scores", as in
transformers' eager attention); and with the naive kernel in bfloat16, which isolates the rounding of weights and
activations. Models whose keys have large biases, such as Qwen2.5, are affected most. The second half is scored in
blocks of rows, its last --steps tokens one by one. Questions are XQuAD's, with the right paragraph; answers are equal
if all their tokens are.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from focusdoc import load
from focusdoc.attention import AttentionKernel, attention_kernel, scores, sdpa
from focusdoc.config import BlockDtype
from focusdoc.decoding.state import ChunkGroup
from focusdoc.documents import tokenize
from focusdoc.memory.reading import read_chunks
from focusdoc.modeling.base import BaseModel, load_base

#: Rows of one pass while a text is scored.
ROWS = 256
ANSWER_TOKENS = 16


@dataclass(frozen=True)
class Way:
    """One variant: the model's dtype, the kernel, changes to it, and the dtype of the chunk."""

    dtype: str
    attention: str = "sdpa"
    matrix_unit: bool | None = None
    rounded: bool = False
    memory: BlockDtype = "model"

    @contextmanager
    def in_force(self) -> Iterator[AttentionKernel]:
        """The kernel, with the variant's changes in effect."""
        with ExitStack() as changes:
            if self.matrix_unit is not None:
                changes.enter_context(mock.patch.object(sdpa, "_has_matrix_unit", return_value=self.matrix_unit))
            if self.rounded:
                changes.enter_context(mock.patch.object(scores, "MAX_PLAIN_SCORE", math.inf))
            yield attention_kernel(self.attention)


WAYS = {
    "float32": Way("float32", "naive"),
    "bfloat16, naive": Way("bfloat16", "naive"),
    "bfloat16, blocks of products": Way("bfloat16", matrix_unit=False),
    "bfloat16, fused kernel": Way("bfloat16", matrix_unit=True),
    "bfloat16, keys and values in int8": Way("bfloat16", matrix_unit=False, memory="int8"),
    "bfloat16, rounded scores": Way("bfloat16", matrix_unit=False, rounded=True),
}


class Behind:
    """Decodes rows behind one chunk; they attend to the chunk and to the tail."""

    def __init__(
        self, base: BaseModel, ids: Sequence[int], room: int, kernel: AttentionKernel, kind: BlockDtype
    ) -> None:
        self.base, self.kernel, self.length = base, kernel, 0
        (block,) = read_chunks(base, ids, len(ids), kernel, memory_dtype=kind)
        self.group = ChunkGroup.of(block, 0, 1, 0, room, base.dtype)

    @torch.no_grad()
    def feed(self, ids: Sequence[int]) -> Tensor:
        """Float32 logits [len(ids), vocab]."""
        positions = self.group.chunk_len + self.length + torch.arange(len(ids))
        hidden = self.base.run(torch.tensor([list(ids)]), positions[None], self)
        self.length += len(ids)
        return self.base.logits(hidden[0])

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None
    ) -> Tensor:
        """See `AttentionLayout`."""
        stop = self.length + query.shape[2]
        keys, values = self.group.tail_keys[layer], self.group.tail_values[layer]
        keys[:, :, self.length : stop], values[:, :, self.length : stop] = key, value
        tail = keys[:, :, :stop], values[:, :, :stop]
        output = self.group.block.attend_with(
            layer, query, tail, kernel=self.kernel, scaling=scaling, tail_start=self.length, window=window
        )
        return output.transpose(1, 2)


def perplexity(base: BaseModel, way: Way, ids: Sequence[int], steps: int) -> float:
    """Perplexity of the second half of `ids` with the first half as a chunk."""
    half = len(ids) // 2
    with way.in_force() as kernel:
        behind = Behind(base, ids[:half], len(ids) - half, kernel, way.memory)
        cuts = [*range(half, len(ids) - steps, ROWS), *range(len(ids) - steps, len(ids))]
        logits = torch.cat([behind.feed(ids[a:b]) for a, b in zip(cuts, [*cuts[1:], len(ids)], strict=True)])
    loss = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[half + 1 :]))
    return math.exp(loss.item())


def answer(base: BaseModel, way: Way, paragraph: str, question: str) -> list[int]:
    """The tokens of a greedy answer."""
    text = f"{paragraph}\n\nAnswer with a few words copied from the text above.\nQuestion: {question}"
    rendered = base.tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    ids: list[int] = base.tokenizer(rendered, add_special_tokens=False)["input_ids"]
    split, found = len(ids) * 3 // 4, []
    with way.in_force() as kernel:
        behind = Behind(base, ids[:split], len(ids) - split + ANSWER_TOKENS, kernel, way.memory)
        logits = behind.feed(ids[split:])[-1]
        for _ in range(ANSWER_TOKENS):
            found.append(int(logits.argmax()))
            if found[-1] in base.eos_token_ids:
                break
            logits = behind.feed(found[-1:])[-1]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder or a hub name; the default model without it")
    parser.add_argument("--data", type=Path, required=True, help="a folder with books/ and qa/xquad.en.json")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    args = parser.parse_args()
    rows = [
        (paragraph["context"], asked["question"])
        for article in json.loads((args.data / "qa" / "xquad.en.json").read_text(encoding="utf-8"))["data"]
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    ]
    asked = random.Random(0).sample(rows, args.questions)
    text = load(args.data / "books" / "36_the_war_of_the_worlds.txt").text
    bases: dict[str, BaseModel] = {}
    figures: dict[str, dict[str, float]] = {}
    wanted: list[list[int]] = []
    for name, way in WAYS.items():
        if way.dtype not in bases:
            bases = {way.dtype: load_base(args.model, dtype=way.dtype)}
        base = bases[way.dtype]
        ids = tokenize(base.tokenizer, text).token_ids[1000 : 1000 + args.tokens]
        found = [answer(base, way, *each) for each in asked]
        wanted = wanted or found
        equal = sum(one == other for one, other in zip(found, wanted, strict=True))
        first = sum(one[0] == other[0] for one, other in zip(found, wanted, strict=True))
        figures[name] = {
            "perplexity": perplexity(base, way, ids, args.steps),
            "equal answers": equal,
            "equal first tokens": first,
        }
        apart = figures[name]["perplexity"] / figures["float32"]["perplexity"] - 1
        print(
            f"{name:<36} perplexity {figures[name]['perplexity']:8.3f} ({apart:+.2%})   answers equal "
            f"{equal} of {len(asked)}, first tokens {first}",
            flush=True,
        )
    if args.output:
        args.output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
