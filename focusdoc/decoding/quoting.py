"""Quoting: the passages that the candidates looked at first, put word by word into the local context.

A candidate is one key and one value in every layer. That is enough to find a passage and to tell what it says, but
names and numbers come out of it less surely than out of the words themselves. So the question is asked twice: the
candidates of its last token show where they look, and what stands there joins the local context, behind the same
candidates. The chunks are not run again; it costs the local rows of the passages and one look into a few chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from focusdoc.decoding.answering import AnswerWriter, Asked, DecoderT, OwnWay
from focusdoc.decoding.candidates import Candidates
from focusdoc.decoding.local_context import local_and_prompt
from focusdoc.decoding.parallel import ParallelDecoder
from focusdoc.decoding.passages import GAP, POINT, WIDTH, Texts, without_other_lines

#: Chunks that are looked into: those with the largest attention mass.
NUM_CHUNKS = 8
#: What is looked at less than this, against the point looked at most, is no passage: it would only distract.
LEAST = 0.3


class Quoting(OwnWay[DecoderT]):
    """Answers from passages that were looked at, quoted into the local context."""

    def writer(self, decoder: DecoderT, logits: Tensor, asked: Asked, *, begun: float) -> AnswerWriter:
        """See `OwnWay.writer`: the passages are quoted here, so that the first logits are those behind them."""
        local_ids = self.local_ids(decoder, asked)
        quoted_tokens = len(local_ids) - len(asked.local_ids)
        if not quoted_tokens:
            return super().writer(decoder, logits, asked, begun=begun)
        logits = decoder.restart(local_ids)
        # Behind passages the answer reads mostly in them. What it pays to candidates no longer tells where it comes
        # from, but the look that the passages were chosen by does, and stands as the first token's.
        return AnswerWriter(decoder, logits, asked, begun=begun, quoted_tokens=quoted_tokens, looks=1)

    def local_ids(self, decoder: DecoderT, asked: Asked) -> list[int]:
        """The local context with the passages in it that were looked at most.

        Args:
            decoder: as it stands after `start`.

        Returns:
            The local context as it is, where nothing fits.
        """
        prompt_ids, tokenizer, best = asked.prompt_ids, asked.tokenizer, list(asked.local_ids)
        longest = len(best) + self.quoted_most(decoder.num_chunks, len(best), asked.settings.max_new_tokens)
        if asked.quoted is None or longest <= len(best):
            return best
        text = Texts(asked.memories, tokenizer)
        places = [text.place(chunk, centre) for chunk, centre in self.points(decoder, prompt_ids)]
        question = tokenizer.decode(prompt_ids, skip_special_tokens=True)
        marked: list[set[int]] = [set() for _ in asked.memories]
        for owner, token in without_other_lines(places, text, question):
            more = [set(own) for own in marked]
            more[owner].update(text.around(owner, token))
            passages = [passage for index, own in enumerate(more) for passage in text.passages(index, own)]
            ids, _ = local_and_prompt(self.base, self.config, list(asked.quoted(GAP.join(passages))))
            if len(ids) > longest:
                break
            marked, best = more, ids
        return best

    def points(self, decoder: DecoderT, prompt_ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Chunk and token of what was looked at, the most first."""
        mass = decoder.candidate_mass.cpu()
        chunks: list[int] = mass.argsort(descending=True)[:NUM_CHUNKS].tolist()
        return points(chunks, decoder.look_inside(chunks, prompt_ids[-1:], mass[None], prompt_len=len(prompt_ids)))

    def quoted_most(self, num_chunks: int, local_len: int, max_new_tokens: int) -> int:
        """Tokens that passages may take, at most."""
        positions = self.positions_left(num_chunks, local_len, max_new_tokens)
        return min(self.config.quote_tokens or 0, self.config.local_window - local_len, positions)


class Quoted(Quoting[ParallelDecoder], Candidates):
    """Answers from passages that the candidates looked at, and from the candidates."""


def points(chunks: Sequence[int], looked: Sequence[Tensor]) -> Iterator[tuple[int, int]]:
    """Chunk and token of what was looked at, the most first; no two of a chunk nearer than `WIDTH` // 2.

    They end where less than `LEAST` of the first one's look is left.

    Args:
        looked: float32 [chunk_len] for each of `chunks`.
    """
    smooth: list[Tensor] = []
    for attention in looked:
        padded = functional.pad(attention, (POINT // 2, POINT - POINT // 2 - 1))
        smooth.append(functional.avg_pool1d(padded[None, None], POINT, stride=1)[0, 0])
    first = max(float(weights.max()) for weights in smooth)
    while True:
        peaks = torch.stack([weights.max() for weights in smooth])
        index = int(peaks.argmax())
        if peaks[index] <= 0 or peaks[index] < LEAST * first:
            return
        centre = int(smooth[index].argmax())
        yield chunks[index], centre
        smooth[index][max(0, centre - WIDTH // 2) : centre + WIDTH // 2] = 0
