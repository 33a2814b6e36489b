"""Find and read: the candidates of the base model find passages, a reader writes the answer from them."""

from __future__ import annotations

import time
from collections.abc import Generator

from focusdoc.decoding.answer import Answer, TextPiece, Timings, Usage
from focusdoc.decoding.answering import Asked, left_out_of
from focusdoc.decoding.attribution import chunk_shares
from focusdoc.decoding.generation import AnswerDecoder
from focusdoc.errors import ReaderError
from focusdoc.readers.confidence import FOUND, confidence_of, signals_of
from focusdoc.readers.finding import Finder
from focusdoc.readers.fitting import fit_reading
from focusdoc.readers.passages import choose_passages, in_order, text_of
from focusdoc.readers.reader import Judge, Messages, Reader, judging_prompt, reading_prompt, relay
from focusdoc.readers.sources import sources_of

#: Tokens of passages, in the reader's own.
BUDGET = 1000


def stream_read_answer(
    decoder: AnswerDecoder,
    asked: Asked,
    reader: Reader,
    question: str,
    finder: Finder,
    *,
    earlier: Messages = (),
    budget: int = BUDGET,
) -> Generator[TextPiece, None, None]:
    """Yield the text as the reader writes it; the last piece carries the whole `Answer`.

    Args:
        decoder: fresh, over the chunks of the memories.
        finder: of the base model.
        earlier: the conversation before the question; what is too old for the reader's window is left out.
        budget: tokens of passages that the reader gets at most, as it counts them.

    Raises:
        PromptTooLongError: not one passage fits into the reader's window. ReaderError: with the sources found.
    """
    begun = time.perf_counter()
    memories = asked.memories
    earlier, budget = fit_reading(reader, question, earlier, asked.settings, budget)
    found = finder.find(decoder, asked, question)
    passages = choose_passages(
        found, lambda some: sum(reader.count(text_of(memories, each)) for each in some) <= budget
    )
    texts = [text_of(memories, each) for each in in_order(passages)]
    looked = time.perf_counter() - begun
    pieces: list[str] = []
    try:
        writing = reader.write(reading_prompt(question, texts, earlier), asked.settings, asked.cancel)
        written = yield from relay(writing, pieces)
    except ReaderError as error:
        error.sources = sources_of(memories, passages, question, "", asked.max_sources)
        raise
    text = "".join(pieces)
    sources = sources_of(memories, passages, question, text, asked.max_sources)
    usage = Usage(
        sum(memory.num_tokens for memory in memories),
        decoder.num_chunks,
        len(asked.local_ids),
        written.completion_tokens,
        quoted_tokens=sum(map(reader.count, texts)),
        reader_tokens=written.prompt_tokens,
    )
    shares = tuple(chunk_shares(decoder.candidate_mass[None].cpu()).tolist())
    warnings = left_out_of(memories)
    judging = time.perf_counter()
    judge = reader if isinstance(reader, Judge) and written.finish_reason != "cancelled" else None
    agreement = None if judge is None else judge.agrees(judging_prompt(question, texts, text, earlier))
    timings = Timings(looked + written.first_token, written.decode + time.perf_counter() - judging)
    confidence = confidence_of(signals_of(found, written.log_likelihood, agreement))
    yield TextPiece(
        "",
        Answer(
            text,
            sources,
            usage,
            timings,
            (),
            written.finish_reason,
            shares,
            warnings,
            confidence,
            confidence >= FOUND,
            written.log_likelihood,
        ),
    )
