"""With a reader: the base model's candidates find passages, the reader writes the answer from them."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import replace
from functools import partial
from typing import Any

from focusdoc.decoding.answer import Answer, TextPiece, Timings, Usage
from focusdoc.decoding.answering import OwnWay, Way, left_out_of
from focusdoc.decoding.attribution import chunk_shares
from focusdoc.decoding.prompt import Asked, local_and_prompt, question_prompt
from focusdoc.errors import ReaderError
from focusdoc.readers.confidence import FOUND
from focusdoc.readers.drafts import SURE, best_of, drafts, is_cut
from focusdoc.readers.finding import Finder, Found
from focusdoc.readers.fitting import fit_reading
from focusdoc.readers.passages import Passage, choose_passages
from focusdoc.readers.reader import Judge, Reader
from focusdoc.readers.replies import Desk, Reply
from focusdoc.readers.sources import sources_of
from focusdoc.readers.steps import described, name_for, name_in

#: Tokens of passages that a reader gets at once, in its own.
BUDGET = 1000


class Read(Way):
    """Answers what was said last, from passages.

    Args:
        own: the base model's way, whose decoder looks.
        finder: of the base model.
    """

    #: Tokens of passages that the reader gets at once, at most, as it counts them.
    budget = BUDGET
    #: Whether there is one place that tells the answer, so that it can be doubted.
    has_place = True

    def __init__(self, own: OwnWay[Any], reader: Reader, finder: Finder) -> None:
        self.own = own
        self.reader = reader
        self.finder = finder

    def check(self, asked: Asked) -> None:
        """See `Way.check`.

        Raises:
            ConfigError, PromptTooLongError: the reader cannot keep to the settings, or the question does not fit into
                its window; or what `OwnWay.check` raises.
        """
        self.own.check(asked)
        self.reader.check(asked.settings)
        self._desk(asked)

    def stream(self, asked: Asked) -> Generator[TextPiece, None, None]:
        """See `Way.stream`.

        Raises:
            ReaderError: with the sources found.
        """
        begun = time.perf_counter()
        desk, question = self._desk(asked), asked.said[-1][1]
        decoder = self.own.decoder(asked.blocks, asked.settings.max_new_tokens)
        found = self.finder.find(decoder, asked, question)
        passages = self.passages(desk, found)
        try:
            reply = yield from self.reply(desk, question, found, passages)
        except ReaderError as error:
            error.sources = sources_of(asked.memories, passages, question, "", asked.max_sources)
            raise
        usage = Usage(
            sum(memory.num_tokens for memory in asked.memories),
            decoder.num_chunks,
            len(asked.local_ids),
            reply.written.completion_tokens,
            quoted_tokens=sum(map(self.reader.count, desk.texts(desk.read))),
            reader_tokens=desk.reader_tokens,
        )
        yield TextPiece(
            "",
            Answer(
                reply.text,
                sources_of(asked.memories, desk.read, reply.question, reply.text, asked.max_sources, reply.sources),
                usage,
                Timings(desk.first - begun, desk.decode),
                (),
                reply.written.finish_reason,
                tuple(chunk_shares(decoder.candidate_mass[None].cpu()).tolist()),
                left_out_of(asked.memories),
                reply.confidence if self.has_place else None,
                reply.confidence >= FOUND if self.has_place else None,
                reply.written.log_likelihood,
                tuple((step.question, step.text) for step in reply.steps),
            ),
        )

    def passages(self, desk: Desk, found: Found) -> list[Passage]:
        """The passages that the reader gets, the best one first."""
        return choose_passages(found, desk.fits)

    def reply(
        self, desk: Desk, question: str, found: Found, passages: list[Passage]
    ) -> Generator[TextPiece, None, Reply]:
        """Yield the answer's text; returns the reply that it is."""
        steps: tuple[Reply, ...] = ()
        # A reader that cannot judge its drafts cannot choose between them, and a grammar wants all of an answer.
        if isinstance(self.reader, Judge) and desk.asked.settings.grammar is None:
            made = drafts(desk, question, found, passages)
            if not is_cut(desk, made[0]):
                best = self.in_steps(desk, best_of(made))
                if not is_cut(desk, best):
                    desk.first, desk.decode = time.perf_counter(), 0.0
                    yield TextPiece(best.text)
                    return best
                question, found, passages, steps = best.question, best.found, list(best.passages), best.steps
        look = partial(self._look, desk.asked)
        reply = yield from desk.reply(question, found, passages, desk.asked.settings, look=look)
        return replace(reply, steps=steps)

    def in_steps(self, desk: Desk, reply: Reply) -> Reply:
        """`reply`, or the one to a question that names what the first one describes, where that is surer."""
        if reply.confidence >= SURE or reply.written.finish_reason == "cancelled":
            return reply
        description = described(desk, reply.question)
        known = description and name_for(desk, description, reply.found, self.passages(desk, reply.found))
        if not description or not known:
            return reply
        question = reply.question.replace(description, name_in(known))
        found = self._look(desk.asked, question)
        better = best_of(drafts(desk, question, found, self.passages(desk, found)))
        return replace(better, steps=(known,)) if better.confidence > reply.confidence else reply

    def _look(self, asked: Asked, question: str) -> Found:
        """What another question makes of the windows: the candidates look again, for it alone."""
        with self.own.base.tokenizer_lock:
            ids = question_prompt(asked.tokenizer, question, "auto")
        local_ids, prompt_ids = local_and_prompt(self.own.base, self.own.config, ids)
        again = replace(asked, local_ids=local_ids, prompt_ids=prompt_ids)
        return self.finder.find(self.own.decoder(asked.blocks, 1), again, question)

    def _desk(self, asked: Asked) -> Desk:
        *earlier, (_, question) = asked.said
        return Desk(self.reader, asked, *fit_reading(self.reader, question, earlier, asked.settings, self.budget))
