"""Answering with a reader: the base model finds passages, and the reader writes the answer from them."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import replace
from functools import partial

from focusdoc.decoding.answer import Answer, TextPiece, Timings, Usage
from focusdoc.decoding.answering import Way, document_warnings
from focusdoc.decoding.prompt import Request, local_and_prompt, question_prompt
from focusdoc.errors import ReaderError
from focusdoc.readers.confidence import MIN_CONFIDENCE
from focusdoc.readers.drafts import CONFIDENT, best_draft, draft_replies, is_truncated, repeats_the_question
from focusdoc.readers.finding import Finder, Found
from focusdoc.readers.fitting import fit_reading
from focusdoc.readers.passages import Passage, choose_passages
from focusdoc.readers.reader import ANSWER_INSTRUCTION, EXPLAIN_INSTRUCTION, Judge, Reader
from focusdoc.readers.replies import Reply, Session
from focusdoc.readers.sources import sources_of
from focusdoc.readers.steps import find_description, may_only_name, name_of, only_names, resolve_description

#: Default budget for passages, in the reader's tokens.
BUDGET = 1000


class Read(Way):
    """Answers the last message from passages.

    `finder` ranks the windows of the documents.
    """

    #: Maximum tokens of passages in a prompt, as the reader counts them.
    budget = BUDGET
    #: Whether the answer can be in one place, so that its confidence means something.
    reports_confidence = True

    def __init__(self, reader: Reader, finder: Finder) -> None:
        self.reader = reader
        self.finder = finder

    def check(self, request: Request) -> None:
        """See `Way.check`.

        Raises:
            ConfigError, PromptTooLongError: the reader does not support the settings, or the question does not fit its
                window; also what `OwnWay.check` raises.
        """
        self.finder.way.check(request)
        self.reader.check(request.settings)
        self._session(request)

    def stream(self, request: Request) -> Generator[TextPiece, None, None]:
        """See `Way.stream`.

        Raises:
            ReaderError: the reader fails; the error carries the sources found.
        """
        started_at = time.perf_counter()
        session, question = self._session(request), request.messages[-1][1]
        num_chunks = sum(memory.num_chunks for memory in request.memories)
        found = self.finder.find(request, question)
        passages = self.passages(session, found)
        try:
            reply = yield from self.reply(session, question, found, passages)
        except ReaderError as error:
            error.sources = sources_of(request.memories, passages, question, "", request.max_sources)
            raise
        usage = Usage(
            sum(memory.num_tokens for memory in request.memories),
            num_chunks,
            len(request.local_ids),
            reply.written.completion_tokens,
            quoted_tokens=sum(map(self.reader.count, session.texts(session.read))),
            reader_tokens=session.reader_tokens,
        )
        yield TextPiece(
            "",
            Answer(
                reply.text,
                sources_of(
                    request.memories, session.read, reply.question, reply.text, request.max_sources, reply.sources
                ),
                usage,
                Timings(session.first - started_at, session.decode),
                (),
                reply.written.finish_reason,
                tuple(found.chunk_probabilities(num_chunks).tolist()),
                document_warnings(request.memories),
                reply.confidence if self.reports_confidence else None,
                reply.confidence >= MIN_CONFIDENCE if self.reports_confidence else None,
                reply.written.log_likelihood,
                tuple((step.question, step.text) for step in reply.steps),
            ),
        )

    def passages(self, session: Session, found: Found) -> list[Passage]:
        """The passages for the reader, best first."""
        return choose_passages(found, session.fits)

    def reply(
        self, session: Session, question: str, found: Found, passages: list[Passage]
    ) -> Generator[TextPiece, None, Reply]:
        """Yield the answer's text; return the reply."""
        steps: tuple[Reply, ...] = ()
        instruction = ANSWER_INSTRUCTION
        # Choosing between drafts takes a judge, and drafts may be truncated, which a grammar does not allow.
        if isinstance(self.reader, Judge) and session.request.settings.grammar is None:
            drafts = draft_replies(session, question, found, passages)
            if not is_truncated(session, drafts[0]):
                best = self.try_two_steps(session, best_draft(drafts))
                question, found, passages, steps = best.question, best.found, list(best.passages), best.steps
                if repeats_the_question(best):
                    instruction, passages = EXPLAIN_INSTRUCTION, self.passages(session, found)
                elif not is_truncated(session, best):
                    session.first, session.decode = time.perf_counter(), 0.0
                    yield TextPiece(best.text)
                    return best
        retrieve = partial(self._find_again, session.request)
        reply = yield from session.reply(
            question, found, passages, session.request.settings, instruction, retrieve=retrieve
        )
        return replace(reply, steps=steps)

    def try_two_steps(self, session: Session, reply: Reply) -> Reply:
        """`reply`, or the reply to a question with its description replaced by a name.

        The second is kept if it is more confident, or if `reply` only resolves the description.
        """
        confident = reply.confidence >= CONFIDENT and not may_only_name(reply)
        if confident or reply.written.finish_reason == "cancelled":
            return reply
        description = find_description(session, reply.question)
        known = description and resolve_description(
            session, description, reply.found, self.passages(session, reply.found)
        )
        if not description or not known:
            return reply
        unanswered = only_names(reply, known)
        if reply.confidence >= CONFIDENT and not unanswered:
            return reply
        question = reply.question.replace(description, name_of(known))
        found = self._find_again(session.request, question)
        better = best_draft(draft_replies(session, question, found, self.passages(session, found)))
        keep = better.confidence > reply.confidence or (unanswered and better.adds_words)
        return replace(better, steps=(known,)) if keep else reply

    def _find_again(self, request: Request, question: str) -> Found:
        """The scored windows for another question, with the question alone as the dynamic prompt."""
        way = self.finder.way
        with way.base.tokenizer_lock:
            ids = question_prompt(request.tokenizer, question, "auto")
        local_ids, prompt_ids = local_and_prompt(way.base, way.config, ids)
        again = replace(request, local_ids=local_ids, prompt_ids=prompt_ids)
        return self.finder.find(again, question)

    def _session(self, request: Request) -> Session:
        *earlier, (_, question) = request.messages
        return Session(
            self.reader, request, *fit_reading(self.reader, question, earlier, request.settings, self.budget)
        )
