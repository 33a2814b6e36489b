"""Where an answer came from: the chunks its tokens attended to, and the passage each candidate looked at."""

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

#: Tokens of a passage around the point looked at most, before it is widened to whole sentences.
PASSAGE_TOKENS = 48
#: What ends a sentence, in every script that Unicode knows, with the quotation marks and brackets that close behind it,
#: or a paragraph. Only the marks of ASCII need white space behind them (3.5, example.org). Thai and Lao have no mark,
#: but a space between sentences and hardly anywhere else.
SENTENCE_END = regex.compile(
    r"\p{Sentence_Terminal}\p{Sentence_Break=Close}*\s"
    r"|(?![.!?])\p{Sentence_Terminal}[\p{Pe}\p{Pf}]*"
    r"|(?<=[\p{Thai}\p{Lao}])[ ]"
    r"|(?>\r\n|\r|\n){2}|\f"
)
_AT_SENTENCE_END = regex.compile(r"\p{Sentence_Terminal}\p{Sentence_Break=Close}*\Z")
LINE_END = regex.compile(r"\r\n|\r|\n")
#: A passage is widened to sentence ends within this many characters.
_SENTENCE_REACH = 160


def chunk_shares(masses: Tensor) -> Tensor:
    """Share of all attention mass that each chunk got over an answer's `masses` [steps, num_chunks]."""
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
    """The passages behind an answer, the chunk with the largest attention mass first.

    Args:
        decoder: as it stands after the answer.
        memories: the documents whose chunks the decoder holds, in its order.
        token_ids: the token fed at each step: the last prompt token, then the answer's tokens but the last.
        masses: float32 [steps, num_chunks], `AnswerDecoder.candidate_mass` of each step.
        prompt_len: tokens of the dynamic prompt.
        limit: at most this many sources.
    """
    if any(memory.document is None for memory in memories):
        return ()  # made from bare token ids: there is no text to quote
    shares = chunk_shares(masses)
    ranked: list[int] = shares.argsort(descending=True)[:limit].tolist()
    owners = [(memory, chunk) for memory in memories for chunk in memory.chunks]
    looked = decoder.look_inside(ranked, token_ids, masses, prompt_len=prompt_len)
    sources = []
    for index, attention in zip(ranked, looked, strict=True):
        memory, chunk = owners[index]
        if memory.document is None or memory.tokenized is None:
            continue
        first, last, centre = passage_tokens(attention)
        begin, stop = char_span(memory.tokenized, chunk.token_start + first, chunk.token_start + last)
        page = memory.document.page_at(
            char_span(memory.tokenized, chunk.token_start + centre, chunk.token_start + last)[0]
        )
        # What was looked at most stands on this page; the words around it are quoted as far as the page goes.
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
    """The tokens [first, last) around what was looked at most in `attention` [chunk_len], and the centre of that."""
    length = len(attention)
    if length <= PASSAGE_TOKENS:
        return 0, length, int(attention.argmax())
    width = PASSAGE_TOKENS // 3
    smooth = functional.avg_pool1d(attention[None, None], width, stride=1)[0, 0]
    centre = int(smooth.argmax()) + width // 2
    first = min(max(0, centre - PASSAGE_TOKENS // 2), length - PASSAGE_TOKENS)
    return first, first + PASSAGE_TOKENS, centre


def whole_sentences(text: str, start: int, end: int) -> tuple[int, int]:
    """Characters ``start:end`` widened to the nearest sentence or paragraph ends, white space stripped.

    Where none is near, as in tables, lists and code, they are widened to whole lines, or at least to whole words.
    """
    before = text[max(0, start - _SENTENCE_REACH) : start]
    cut = _last(before, SENTENCE_END) or _last(before, LINE_END) or before.rfind(" ") + 1
    if cut:
        start += cut - len(before)
    after = text[end : end + _SENTENCE_REACH]
    if stop := _first(after, SENTENCE_END):
        end += 0 if _AT_SENTENCE_END.search(text, max(0, end - 3), end) else stop
    elif end + len(after) == len(text) and _AT_SENTENCE_END.search(after):
        end = len(text)  # nothing stands behind the last sentence, not even a space
    elif not text[max(0, end - 1) : end].isspace():
        end += _first(after, LINE_END) or after.find(" ") + 1
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _first(text: str, mark: regex.Pattern[str]) -> int:
    """Characters of `text` up to and with the first `mark`; 0 if there is none."""
    found = mark.search(text)
    return found.end() if found else 0


def _last(text: str, mark: regex.Pattern[str]) -> int:
    """Characters of `text` up to and with the last `mark`; 0 if there is none."""
    return max((found.end() for found in mark.finditer(text)), default=0)
