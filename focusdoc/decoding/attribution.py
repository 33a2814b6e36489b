"""Attribution: the chunks that an answer attended to, and the passage in each."""

from __future__ import annotations

from collections.abc import Sequence

import regex
import torch
from torch import Tensor
from torch.nn import functional

from focusdoc.decoding.answer import Source
from focusdoc.decoding.generation import AnswerDecoder
from focusdoc.documents.chunking import char_span
from focusdoc.memory.chunk_memory import DocumentMemory

#: Tokens of a passage around the highest score, before it is widened to whole sentences.
PASSAGE_TOKENS = 48
#: A sentence end in any script of Unicode, including closing quotation marks and brackets, or a paragraph end. Only
#: ASCII punctuation needs white space after it (3.5, example.org). Thai and Lao put a space between sentences instead,
#: and hardly anywhere else.
SENTENCE_END = regex.compile(
    r"\p{Sentence_Terminal}\p{Sentence_Break=Close}*\s"
    r"|(?![.!?])\p{Sentence_Terminal}[\p{Pe}\p{Pf}]*"
    r"|(?<=[\p{Thai}\p{Lao}])[ ]"
    r"|(?>\r\n|\r|\n){2}|\f"
)
_AT_SENTENCE_END = regex.compile(r"\p{Sentence_Terminal}\p{Sentence_Break=Close}*\Z")
LINE_END = regex.compile(r"\r\n|\r|\n")
#: Passages are widened to sentence ends within this many characters.
_SENTENCE_REACH = 160


def chunk_shares(masses: Tensor) -> Tensor:
    """Each chunk's share of the attention mass; `masses` is [steps, num_chunks]."""
    per_chunk = masses.sum(dim=0)
    return per_chunk / per_chunk.sum().clamp_min(torch.finfo(torch.float32).tiny)


def find_sources(
    decoder: AnswerDecoder,
    memories: Sequence[DocumentMemory],
    token_ids: Sequence[int],
    masses: Tensor,
    *,
    prompt_len: int,
    limit: int = 3,
) -> tuple[Source, ...]:
    """The passages that support an answer, ordered by their chunks' attention mass.

    Args:
        decoder: in its state after the answer.
        memories: the documents whose chunks the decoder has, in order.
        token_ids: the token fed at each step: the last prompt token, then the answer's tokens except the last.
        masses: float32 [steps, num_chunks], `AnswerDecoder.candidate_mass` of each step.
        prompt_len: tokens of the dynamic prompt.
        limit: maximum number of sources.
    """
    if any(memory.document is None for memory in memories):
        return ()  # made from bare token ids, so there is no text to quote
    shares = chunk_shares(masses)
    ranked: list[int] = shares.argsort(descending=True)[:limit].tolist()
    owners = [(memory, chunk) for memory in memories for chunk in memory.chunks]
    scores = decoder.answer_token_scores(ranked, token_ids, masses, prompt_len=prompt_len)
    sources = []
    for index, attention in zip(ranked, scores, strict=True):
        memory, chunk = owners[index]
        if memory.document is None or memory.tokenized is None:
            continue
        first, last, centre = passage_tokens(attention)
        begin, stop = char_span(memory.tokenized, chunk.token_start + first, chunk.token_start + last)
        page = memory.document.page_at(
            char_span(memory.tokenized, chunk.token_start + centre, chunk.token_start + last)[0]
        )
        # The passage stays on the page of its highest-scoring token.
        start, end = whole_sentences(memory.document.text, max(begin, page.start), min(stop, page.end))
        start, end = max(start, page.start), min(end, page.end)
        sources.append(
            Source(
                page=page.number,
                start=start,
                end=end,
                text=memory.document.text[start:end],
                score=float(shares[index]),
                chunk=chunk.index,
                document=memory.document.name,
                page_label=page.label,
            )
        )
    return tuple(sources)


def passage_tokens(attention: Tensor) -> tuple[int, int, int]:
    """The tokens [first, last) around the highest scores in `attention` [chunk_len], and the centre of those."""
    length = len(attention)
    if length <= PASSAGE_TOKENS:
        return 0, length, int(attention.argmax())
    width = PASSAGE_TOKENS // 3
    smooth = functional.avg_pool1d(attention[None, None], width, stride=1)[0, 0]
    centre = int(smooth.argmax()) + width // 2
    first = min(max(0, centre - PASSAGE_TOKENS // 2), length - PASSAGE_TOKENS)
    return first, first + PASSAGE_TOKENS, centre


def whole_sentences(text: str, start: int, end: int) -> tuple[int, int]:
    """Characters ``start:end`` widened to the nearest sentence or paragraph ends, without surrounding white space.

    If there are none nearby, as in tables, lists and code, widen to whole lines, or at least to whole words.
    """
    before = text[max(0, start - _SENTENCE_REACH) : start]
    cut = _end_of_last(before, SENTENCE_END) or _end_of_last(before, LINE_END) or before.rfind(" ") + 1
    if cut:
        start += cut - len(before)
    after = text[end : end + _SENTENCE_REACH]
    if stop := _end_of_first(after, SENTENCE_END):
        end += 0 if _AT_SENTENCE_END.search(text, max(0, end - 3), end) else stop
    elif end + len(after) == len(text) and _AT_SENTENCE_END.search(after):
        end = len(text)  # the last sentence, with no white space after it
    elif not text[max(0, end - 1) : end].isspace():
        end += _end_of_first(after, LINE_END) or after.find(" ") + 1
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _end_of_first(text: str, mark: regex.Pattern[str]) -> int:
    """End of the first `mark` in `text`; 0 if there is none."""
    found = mark.search(text)
    return found.end() if found else 0


def _end_of_last(text: str, mark: regex.Pattern[str]) -> int:
    """End of the last `mark` in `text`; 0 if there is none."""
    return max((found.end() for found in mark.finditer(text)), default=0)
