"""Conversations over a tiny model: what is read, what is reused, what is refused; and that threads never mix."""

from __future__ import annotations

import gc
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from focusdoc import Answer, Chat, Document, FocusEngine, Message
from focusdoc.chat.threads import last_answer
from focusdoc.decoding.parallel import ParallelDecoder
from focusdoc.errors import AdapterError, ConfigError, PromptTooLongError

BOOK = "\n\n".join(f"Paragraph {number} tells of house {number}, which is blue." for number in range(60))


def prompt(question: str, context: str = BOOK) -> list[Message]:
    frame = "Context is below.\n---------\n{}\n---------\nAnswer the query.\nQuery: {}\nAnswer: "
    return [Message("user", frame.format(context, question))]


def answer(chat: Chat, messages: Sequence[Message], **generation: object) -> Answer:
    return last_answer(chat.stream(messages, **{"max_new_tokens": 4, "ignore_eos": True, **generation}))  # type: ignore[arg-type]


def test_a_short_conversation_is_the_models_own(chat: Chat) -> None:
    found = answer(chat, [Message("system", "Be brief."), Message("user", "Hello")])
    assert found.usage.num_chunks == found.usage.encoded_tokens == 0
    assert found.usage.prompt_tokens == chat.count("system\nBe brief.\nuser\nHello\nassistant\n") + 2 + 3
    assert found.sources == ()


def test_a_second_question_over_the_same_text_reads_nothing(chat: Chat) -> None:
    first = answer(chat, prompt("Who?"))
    assert first.usage.encoded_tokens == first.usage.document_tokens == chat.count(BOOK)
    for question in ("Why?", "And which of all the many houses in this text is green?", "W" * 100):
        again = answer(chat, prompt(question))
        assert again.usage.encoded_tokens == 0
        assert again.usage.document_tokens == first.usage.document_tokens
        assert again.usage.prompt_tokens > len(question)


def test_another_text_is_read(chat: Chat) -> None:
    answer(chat, prompt("Who?"))
    assert answer(chat, prompt("Who?", BOOK.upper())).usage.encoded_tokens == chat.count(BOOK)


def test_parts_are_known_again_in_any_order(chat: Chat) -> None:
    other = BOOK.replace("house", "tree")
    assert answer(chat, [Message("user", [BOOK, other, "Which?"])]).usage.encoded_tokens > 0
    assert answer(chat, [Message("user", [other, BOOK, "Which one then?"])]).usage.encoded_tokens == 0


def test_a_growing_conversation_leaves_its_cut_where_it_is(chat: Chat) -> None:
    turns = [Message(("user", "assistant")[number % 2], f"Turn {number} says this. ") for number in range(41)]
    read = [answer(chat, turns[:count]).usage.encoded_tokens for count in (31, 33, 35, 37, 39, 41)]
    assert read[0] > 0
    assert read.count(0) >= 3  # each reading makes room for several turns


def test_pieces_join_to_the_answer_and_sources_quote_the_text(chat: Chat) -> None:
    pieces = list(chat.stream(prompt("Who?"), max_new_tokens=6, ignore_eos=True))
    found = pieces[-1].answer
    assert found is not None
    assert "".join(pieces) == found.text
    assert all(source.text in BOOK for source in found.sources)
    assert len(found.chunk_shares) == found.usage.num_chunks
    assert sum(found.chunk_shares) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_any_line_ends_give_the_same_answer_and_the_same_memory(chat: Chat, end: str) -> None:
    def asked(question: str, end: str) -> list[Message]:
        rows = "\n".join(f"row {number} of many" for number in range(100))
        return [Message("user", f"The query is: {question}\n------\n{rows}\n------\n".replace("\n", end))]

    wanted = answer(chat, asked("Who?", "\n"))
    found = answer(chat, asked("Who?", end))
    assert found.token_ids == wanted.token_ids
    assert found.usage.document_tokens == wanted.usage.document_tokens
    assert found.usage.encoded_tokens == 0
    assert answer(chat, asked("And why is that so, if it is so at all?", end)).usage.encoded_tokens == 0


def test_a_system_message_alone_is_answered(chat: Chat) -> None:
    assert answer(chat, [Message("system", "Tell a joke.")]).text
    long = answer(chat, [Message("system", BOOK)])
    assert long.usage.encoded_tokens > 0


def test_documents_are_asked_as_the_engine_asks_them(chat: Chat, tiny_engine: FocusEngine) -> None:
    document = Document.from_text(BOOK, {"name": "book"})
    wanted = tiny_engine.ask(tiny_engine.read(document), "Who?", max_new_tokens=5, ignore_eos=True)
    found = chat.ask([document], "Who?", max_new_tokens=5, ignore_eos=True, max_sources=5)
    assert found.token_ids == wanted.token_ids
    assert found.sources[:3] == wanted.sources
    assert len(found.sources) == 5
    assert found.usage.encoded_tokens == found.usage.document_tokens
    assert chat.ask([document], "Why?", max_new_tokens=5).usage.encoded_tokens == 0


def test_a_known_text_is_quoted_under_its_new_name_and_pages(chat: Chat) -> None:
    chat.ask([Document.from_text(BOOK, {"name": "first"})], "Who?", max_new_tokens=1, ignore_eos=True)
    paged = Document.from_text(BOOK, {"name": "second"})
    found = chat.ask([paged], "Who?", max_new_tokens=1, ignore_eos=True)
    assert found.usage.encoded_tokens == 0
    assert {source.document for source in found.sources} == {"second"}


def test_answers_over_documents_end_with_their_json(chat: Chat) -> None:
    document, grammar = Document.from_text(BOOK), chat.grammar({"enum": ["blue", "red"]})
    found = chat.ask([document], "Which colour?", max_new_tokens=30, grammar=grammar)
    (together,) = chat.engine.ask_many(chat.read(document)[0], ["Which colour?"], max_new_tokens=30, grammar=grammar)
    for one in (found, together):
        assert one.finish_reason == "stop"
        assert one.text in ('"blue"', '"red"')
    cut = chat.ask([document], "Which colour?", max_new_tokens=3, grammar=grammar)
    assert cut.finish_reason == "length"
    assert found.text.startswith(cut.text)


def test_a_text_is_continued_as_it_stands(chat: Chat) -> None:
    short = last_answer(chat.continue_text("One, two,", max_new_tokens=3, ignore_eos=True))
    assert short.usage.prompt_tokens == len("One, two,")
    long = last_answer(chat.continue_text(BOOK, max_new_tokens=3, ignore_eos=True))
    assert long.usage.document_tokens > 2000
    assert long.usage.document_tokens + long.usage.prompt_tokens == chat.count(BOOK)


def test_eight_threads_over_three_documents_never_mix(chat: Chat) -> None:
    texts = [BOOK, BOOK.replace("house", "tree"), BOOK.upper()]
    jobs = [(text, f"Question {number}?") for text in texts for number in range(3)][:8]
    fresh = Chat(chat.engine, max_memory_bytes=10_000_000)
    wanted = [answer(fresh, prompt(question, text)).token_ids for text, question in jobs]
    found: list[Answer | None] = [None] * len(jobs)

    def work(index: int) -> None:
        text, question = jobs[index]
        found[index] = answer(chat, prompt(question, text))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.token_ids if one else None for one in found] == wanted
    # Each text was read by one thread, whoever came first.
    assert sum(one.usage.encoded_tokens for one in found if one) == sum(chat.count(text) for text in texts)


class TestCancelling:
    def test_a_stream_left_early_frees_its_decoder(self, chat: Chat) -> None:
        def decoders() -> int:
            gc.collect()
            return sum(type(thing) is ParallelDecoder for thing in gc.get_objects())

        before = decoders()
        stream = chat.stream(prompt("Who?"), max_new_tokens=500, ignore_eos=True)
        next(stream)
        assert decoders() == before + 1
        stream.close()
        assert decoders() == before

    def test_reading_ends_with_the_pass_it_is_in(self, chat: Chat) -> None:
        cancel = threading.Event()
        cancel.set()
        assert list(chat.stream(prompt("Who?"), cancel=cancel, max_new_tokens=4)) == []
        assert len(chat.pool) == 0
        assert answer(chat, prompt("Who?")).usage.encoded_tokens > 0  # and the lock is free again


class TestBadCalls:
    def test_a_prompt_that_cannot_fit_beside_its_documents(self, tiny_engine: FocusEngine) -> None:
        narrow = Chat(FocusEngine(tiny_engine.base, tiny_engine.adapter, replace(tiny_engine.config, local_window=40)))
        with pytest.raises(PromptTooLongError, match=r"takes \d+ tokens with its template.*window of 40"):
            narrow.stream(prompt("Who?"))

    @pytest.mark.parametrize("messages", [[], [Message("user", "  ")], [Message("system", " ")]])
    def test_empty_prompt(self, chat: Chat, messages: list[Message]) -> None:
        with pytest.raises(ConfigError, match="prompt is empty"):
            chat.stream(messages)

    def test_empty_text_to_continue(self, chat: Chat) -> None:
        with pytest.raises(ConfigError, match="prompt is empty"):
            chat.continue_text(" ")

    def test_no_documents(self, chat: Chat) -> None:
        with pytest.raises(ConfigError, match="no document"):
            chat.stream_question([], "Who?")

    def test_unknown_role(self) -> None:
        with pytest.raises(ConfigError, match=r"role 'tool' is unknown.*user"):
            Message("tool", "4")

    def test_a_part_that_is_no_text(self) -> None:
        with pytest.raises(ConfigError, match="has a bytes"):
            Message("user", [b"x"])  # type: ignore[list-item]

    def test_a_prompt_longer_than_the_memory(self, tiny_engine: FocusEngine) -> None:
        small = Chat(tiny_engine, max_memory_bytes=200_000)
        assert small.context_window == small.max_tokens + 512
        with pytest.raises(PromptTooLongError, match=r"but the memory holds 781 \(200,000 bytes\)"):
            small.stream(prompt("Who?"))
        with pytest.raises(PromptTooLongError, match="raise max_memory_bytes"):
            small.read(Document.from_text(BOOK))

    def test_settings_are_checked_before_anything_is_read(self, chat: Chat) -> None:
        with pytest.raises(ConfigError, match="stop is"):
            chat.stream(prompt("Who?"), stop=[""])
        assert len(chat.pool) == 0

    def test_a_model_without_an_adapter_answers_short_prompts_alone(self, tiny_engine: FocusEngine) -> None:
        bare = Chat(FocusEngine(tiny_engine.base, None, tiny_engine.config))
        assert answer(bare, [Message("user", "Hello")]).text
        with pytest.raises(AdapterError):
            bare.stream(prompt("Who?"))

    def test_too_little_memory(self, tiny_engine: FocusEngine) -> None:
        with pytest.raises(ConfigError, match="max_memory_bytes is 0"):
            Chat(tiny_engine, max_memory_bytes=0)


def test_what_is_forgotten_is_on_disk_no_more_even_if_it_left_ram_before(
    tiny_engine: FocusEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOCUSDOC_STORE", "on")
    engine = FocusEngine(tiny_engine.base, tiny_engine.adapter, tiny_engine.config, store=tmp_path)
    document = Document.from_text(BOOK)
    memory = engine.read(document)
    chat = Chat(engine, max_memory_bytes=memory.num_bytes)
    chat.read(document)
    chat.read(Document.from_text(BOOK.upper()))
    assert chat.pool.find(BOOK) is None
    assert engine.documents.is_stored(memory.token_ids)
    chat.forget(BOOK)
    assert not engine.documents.is_stored(memory.token_ids)
