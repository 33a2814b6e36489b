"""Quoted answers, slowly: transformers' own attention tells where the candidates look, and what stands there is asked
behind anew, as if it had been in the local context from the start.
"""

from __future__ import annotations

from collections.abc import Sequence

from focusdoc import FocusEngine
from focusdoc.decoding.prompt import GAP, question_prompt
from focusdoc.decoding.quoting import NUM_CHUNKS, Texts, drop_unrelated_lines, points
from focusdoc.memory.chunk_memory import DocumentMemory
from incremental_reference import IncrementalReference


class QuotedReference:
    """Greedy answers over `memories`, for an engine without BOS.

    Attributes:
        quoted_tokens: what the passages of the answer took.
    """

    def __init__(self, engine: FocusEngine, memories: Sequence[DocumentMemory]) -> None:
        self.engine = engine
        self.memories = memories
        self.chunks = [
            list(memory.token_ids[chunk.token_start : chunk.token_end])
            for memory in memories
            for chunk in memory.chunks
        ]

    def answer(self, question: str, steps: int) -> list[int]:
        """The first `steps` tokens."""
        config, tokenizer = self.engine.config, self.engine.base.tokenizer
        local = question_prompt(tokenizer, question)
        prompt = local[-config.prompt_window :]
        look = self._fresh()
        look.start(local, prompt)
        order = look.mass.argsort(descending=True)[:NUM_CHUNKS].tolist()
        text = Texts(self.memories, tokenizer)
        places = [
            text.place(*point) for point in points(order, [look.mass[index] * look.looks[index] for index in order])
        ]
        places = drop_unrelated_lines(places, text, tokenizer.decode(prompt, skip_special_tokens=True))
        room = min(config.quote_tokens or 0, config.local_window - len(local))
        behind = local
        for count in range(1, len(places) + 1):
            marked = [
                {token for owner, at in places[:count] if owner == number for token in text.around(owner, at)}
                for number in range(len(self.memories))
            ]
            passages = [each for owner, tokens in enumerate(marked) for each in text.passages(owner, tokens)]
            longer = question_prompt(tokenizer, question, quoted=GAP.join(passages))
            if len(longer) > len(local) + room:
                break
            behind = longer
        self.quoted_tokens = len(behind) - len(local)
        again = self._fresh()
        tokens = [int(again.start(behind, prompt).argmax())]
        while len(tokens) < steps:
            tokens.append(int(again.step(tokens[-1]).argmax()))
        return tokens

    def _fresh(self) -> IncrementalReference:
        shared = self.engine.config.candidate_positions == "shared"
        return IncrementalReference(self.engine.base.model, self.engine.require_adapter(), self.chunks, shared=shared)
