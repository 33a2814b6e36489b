"""Conversations with a reader: what it is given, what comes back, what is refused before anything is read."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest

from endpoints import Endpoint, delta
from focusdoc import Chat, Document, FocusConfig, FocusEngine, Message
from focusdoc.chat.threads import last_answer
from focusdoc.errors import ConfigError, PromptTooLongError, ReaderError
from focusdoc.modeling.base import BaseModel
from focusdoc.readers import endpoint
from focusdoc.readers.endpoint import EndpointReader
from focusdoc.readers.local import LocalReader
from focusdoc.readers.reader import ANSWER_INSTRUCTION, SYSTEM_INSTRUCTION
from scripted_reader import ScriptedReader
from tiny_models import tiny_model

BOOK = "\n\n".join(f"Paragraph {number} tells of house {number}, which is blue." for number in range(60))
SHORT = [("system", "Be brief."), ("user", "Hello"), ("assistant", "Good day."), ("user", "Who are you?")]


def messages(*turns: tuple[str, str]) -> list[Message]:
    return [Message(role, text) for role, text in turns]


def reading(chat: Chat, reader: Any) -> Chat:
    return chat.with_reader(reader)


@pytest.fixture
def local(tiny_tokenizer: Any) -> LocalReader:
    model = tiny_model("qwen2", vocab_size=len(tiny_tokenizer), max_position_embeddings=4096)
    return LocalReader(BaseModel(model, tiny_tokenizer, "tiny reader"))


class TestShortConversations:
    def test_the_reader_gets_them_as_they_are(self, chat: Chat) -> None:
        reader = ScriptedReader("I am ", "told.")
        pieces = list(reading(chat, reader).stream(messages(*SHORT), max_new_tokens=9, temperature=0.5))
        found = pieces[-1].answer
        assert reader.asked == [SHORT]
        assert (reader.kept[0].max_new_tokens, reader.kept[0].temperature) == (9, 0.5)
        assert pieces == ["I am ", "told.", ""]
        assert found is not None
        assert (found.text, found.sources, found.finish_reason) == ("I am told.", (), "stop")
        assert (found.usage.prompt_tokens, found.usage.reader_tokens, found.usage.completion_tokens) == (0, 77, 2)
        assert (found.timings.first_token, found.timings.decode) == (0.5, 0.25)

    def test_what_is_too_old_for_its_window_is_left_out_and_never_the_systems_words(self, chat: Chat) -> None:
        turns = [(("user", "assistant")[number % 2], f"Turn {number}.") for number in range(21)]
        reader = ScriptedReader("x", window=200)
        list(reading(chat, reader).stream(messages(("system", "Be brief."), *turns), max_new_tokens=10))
        (system, first, *_, last), asked = reader.asked[0], reader.asked[0]
        assert system == ("system", "Be brief.")
        assert first[0] == "user"
        assert last == turns[-1]
        assert asked[1:] == turns[-len(asked) + 1 :]
        assert 3 < len(asked) < 8

    def test_a_last_message_that_does_not_fit_is_refused(self, chat: Chat) -> None:
        with pytest.raises(PromptTooLongError, match=r"exceed the 40 tokens of told; shorten the question or lower"):
            reading(chat, ScriptedReader("x", window=40)).stream(messages(("user", "Who?")), max_new_tokens=20)

    def test_a_model_in_this_process_keeps_to_stop_strings_seeds_and_cancelling(
        self, chat: Chat, local: LocalReader
    ) -> None:
        asking = reading(chat, local)

        def asked(**settings: Any) -> Any:
            return last_answer(asking.stream(messages(*SHORT), max_new_tokens=12, ignore_eos=True, **settings))

        whole = asked()
        assert whole.usage.completion_tokens == 12
        assert whole.usage.reader_tokens > 40
        assert asked(temperature=1.5, seed=3).text == asked(temperature=1.5, seed=3).text != whole.text
        stop = whole.text[4:6]
        stopped = asked(stop=stop)
        assert stopped.text == whole.text[: whole.text.index(stop)]
        assert stopped.finish_reason == "stop"
        cancel = threading.Event()
        cancel.set()
        assert asked(cancel=cancel).finish_reason == "cancelled"

    def test_a_failure_is_an_error_and_what_came_before_was_streamed(self, chat: Chat) -> None:
        stream = reading(chat, ScriptedReader("I am ", "told.", fails_after=1)).stream(messages(*SHORT))
        assert next(stream) == "I am "
        with pytest.raises(ReaderError, match="broke off"):
            next(stream)


class TestLongConversations:
    TURNS = (
        ("system", "Answer in French."),
        ("user", f"Read this.\n-----\n{BOOK}\n-----\nHave you read it all?"),
        ("assistant", "Yes."),
        ("user", "Which houses are blue?"),
    )

    def test_the_reader_gets_their_frame_with_passages_in_front_of_the_last_question(self, chat: Chat) -> None:
        reader = ScriptedReader("Toutes.")
        found = last_answer(reading(chat, reader).stream(messages(*self.TURNS), max_sources=9))
        (system, first, second, last) = reader.asked[0]
        assert system == ("system", f"{SYSTEM_INSTRUCTION}\n\nAnswer in French.")
        assert first == ("user", "Read this.\n-----\n\n-----\nHave you read it all?")
        assert second == ("assistant", "Yes.")
        assert last[0] == "user"
        assert last[1].endswith(f"\n-----\n\n{ANSWER_INSTRUCTION}\nQuestion: Which houses are blue?")
        assert found.sources
        assert all(source.text in BOOK and source.text in last[1] for source in found.sources)
        assert found.text == "Toutes."
        assert found.usage.encoded_tokens == found.usage.document_tokens == chat.count(BOOK)
        assert found.usage.reader_tokens == 77
        assert found.timings.first_token > 0.5

    def test_the_text_is_known_again_also_by_another_reader(self, chat: Chat) -> None:
        last_answer(chat.stream(messages(*self.TURNS), max_new_tokens=2))
        for reader in (ScriptedReader("x"), ScriptedReader("y")):
            found = last_answer(reading(chat, reader).stream(messages(*self.TURNS)))
            assert found.usage.encoded_tokens == 0

    def test_passages_go_before_earlier_turns(self, chat: Chat) -> None:
        turns = messages(*self.TURNS[1:3], ("user", "One. " * 20), ("assistant", "Two. " * 20), ("user", "Which?"))
        wide, narrow = ScriptedReader("x"), ScriptedReader("x", window=700)
        sources = [last_answer(reading(chat, one).stream(turns, max_new_tokens=9)).sources for one in (wide, narrow)]
        assert sources[0] == sources[1]
        assert [role for role, _ in wide.asked[0]] == ["system", "user", "assistant", "user", "assistant", "user"]
        assert [role for role, _ in narrow.asked[0]] == ["system", "user"]

    def test_a_failure_leaves_the_sources(self, chat: Chat) -> None:
        with pytest.raises(ReaderError, match="broke off") as failed:
            last_answer(reading(chat, ScriptedReader("Tou", fails_after=0)).stream(messages(*self.TURNS)))
        assert failed.value.sources
        assert all(source.text in BOOK for source in failed.value.sources)  # type: ignore[attr-defined]

    def test_cancelling_ends_it(self, chat: Chat) -> None:
        cancel = threading.Event()
        stream = reading(chat, ScriptedReader("One ", "two ", "three")).stream(messages(*self.TURNS), cancel=cancel)
        assert next(stream) == "One "
        cancel.set()
        *_, last = stream
        assert last.answer is not None
        assert (last.answer.text, last.answer.finish_reason) == ("One ", "cancelled")

    def test_a_reader_with_another_tokenizer_and_no_system_role(self, chat: Chat, tiny_tokenizer: Any) -> None:
        strict = copy.deepcopy(tiny_tokenizer)
        strict.chat_template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + (
            tiny_tokenizer.chat_template
        )
        model = tiny_model("qwen2", vocab_size=len(strict), max_position_embeddings=8192)
        reader = LocalReader(BaseModel(model, strict, "strict"))
        found = last_answer(reading(chat, reader).stream(messages(*self.TURNS), max_new_tokens=3, ignore_eos=True))
        assert found.usage.completion_tokens == 3
        assert found.usage.reader_tokens > len(SYSTEM_INSTRUCTION)


class TestEndpoints:
    @pytest.mark.parametrize(
        ("failure", "said"),
        [
            ("down", "No reader answers"),
            ("slow", "silent for too long"),
            ("key", "status 401.*FOCUSDOC_READER_KEY"),
            ("model", "status 404.*a model named 'm'"),
            ("cut", "ended in the middle"),
        ],
    )
    def test_what_goes_wrong_there_leaves_the_sources(
        self, chat: Chat, monkeypatch: pytest.MonkeyPatch, failure: str, said: str
    ) -> None:
        monkeypatch.setattr(endpoint, "_PIECE_TIMEOUT", 0.3)
        with Endpoint.running() as served:
            served.status = {"key": 401, "model": 404}.get(failure, 200)
            if failure == "slow":
                served.silent.clear()
            if failure == "cut":
                served.events = [delta("The")]
            url = "http://127.0.0.1:9/v1" if failure == "down" else served.url
            asking = reading(chat, EndpointReader(url, "m"))
            document = Document.from_text(BOOK)
            for ask in (
                lambda: asking.ask([document], "Which?"),
                lambda: last_answer(asking.stream(messages(*TestLongConversations.TURNS))),
            ):
                with pytest.raises(ReaderError, match=said) as failed:
                    ask()
                assert failed.value.sources
                assert all(source.text in BOOK for source in failed.value.sources)  # type: ignore[attr-defined]

    def test_roles_sampling_and_stop_strings_go_there(self, chat: Chat) -> None:
        with Endpoint.running() as served:
            asking = reading(chat, EndpointReader(served.url, "m"))
            settings: dict[str, Any] = {"max_new_tokens": 9, "temperature": 0.5, "stop": "END", "seed": 3}
            answers = [
                last_answer(asking.stream(messages(*turns), **settings))
                for turns in (SHORT, TestLongConversations.TURNS)
            ]
        assert [answer.text for answer in answers] == ["Eppie", "Eppie"]
        assert [answer.usage.reader_tokens for answer in answers] == [11, 11]
        (_, _, short), (_, _, long) = served.asked
        assert [(one["role"], one["content"]) for one in short["messages"]] == SHORT
        assert [one["role"] for one in long["messages"]] == ["system", "user", "assistant", "user"]
        for asked in (short, long):
            assert (asked["max_tokens"], asked["temperature"], asked["stop"], asked["seed"]) == (9, 0.5, ["END"], 3)


class TestDocuments:
    def test_are_asked_as_the_engine_asks_them(self, chat: Chat) -> None:
        reader = ScriptedReader("Blue", ".")
        asking = reading(chat, reader)
        document = Document.from_text(BOOK, {"name": "book"})
        pieces = list(asking.stream_question([document], "What colour?", max_sources=9))
        found = asking.ask([document], "What colour?", max_sources=9)
        wanted = asking.engine.ask(asking.engine.read(document), "What colour?", max_sources=9)
        assert pieces == ["Blue", ".", ""]
        assert found.text == wanted.text == "Blue."
        assert found.sources == wanted.sources
        assert reader.asked[0] == reader.asked[1] == reader.asked[2]
        assert found.usage.encoded_tokens == 0

    @pytest.mark.parametrize("text", ["Blue.", "The house is blue.", BOOK[:63]])
    def test_shorter_than_a_chunk(self, chat: Chat, text: str) -> None:
        reader = ScriptedReader("Blue")
        found = reading(chat, reader).ask([Document.from_text(text)], "What colour?")
        assert found.text == "Blue"
        assert text in reader.asked[0][-1][1]
        assert found.sources
        assert all(source.text in text for source in found.sources)


class TestStructuredAnswers:
    SCHEMA = {"enum": ["blue", "red"]}

    @pytest.mark.parametrize("turns", [SHORT, TestLongConversations.TURNS], ids=["short", "long"])
    def test_a_model_in_this_process_keeps_to_a_grammar_of_its_own_tokens(
        self, chat: Chat, tiny_tokenizer: Any, turns: list[tuple[str, str]]
    ) -> None:
        """The reader's vocabulary is another one than the base model's: by its tokens alone the answer is JSON."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        symbols = [*sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=True), "<|end|>"]
        backend = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(symbols)}, merges=[]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")
        tokenizer.chat_template = tiny_tokenizer.chat_template
        model = tiny_model(
            "qwen2", vocab_size=len(symbols), max_position_embeddings=4096, eos_token_id=len(symbols) - 1
        )
        asking = reading(chat, LocalReader(BaseModel(model, tokenizer, "other")))
        found = last_answer(asking.stream(messages(*turns), grammar=asking.grammar(self.SCHEMA), max_new_tokens=30))
        assert found.text in ('"blue"', '"red"')
        assert found.finish_reason == "stop"

    def test_others_refuse_it_and_name_the_remedy(self, chat: Chat) -> None:
        wanted = "reader told does not support grammars.*use a model in this process as the reader"
        grammar = chat.grammar(self.SCHEMA)
        asking = reading(chat, ScriptedReader("x"))
        with pytest.raises(ConfigError, match=wanted):
            asking.grammar(self.SCHEMA)
        for turns in (SHORT, TestLongConversations.TURNS):
            with pytest.raises(ConfigError, match=wanted):
                asking.stream(messages(*turns), grammar=grammar)
        with pytest.raises(ConfigError, match=wanted):
            asking.stream_question([Document.from_text(BOOK)], "Who?", grammar=grammar)
        assert len(chat.pool) == 0


class TestContinuing:
    def test_is_the_base_models(self, chat: Chat) -> None:
        reader = ScriptedReader("x")
        for text in ("One, two,", BOOK):
            wanted = last_answer(chat.continue_text(text, max_new_tokens=3, ignore_eos=True))
            found = last_answer(reading(chat, reader).continue_text(text, max_new_tokens=3, ignore_eos=True))
            assert found.token_ids == wanted.token_ids
            assert found.usage.reader_tokens == 0
        assert reader.asked == []

    def test_takes_no_grammar_since_that_is_the_readers(self, chat: Chat, local: LocalReader) -> None:
        asking = reading(chat, local)
        grammar = asking.grammar(TestStructuredAnswers.SCHEMA)
        for text in ("One, two,", BOOK):
            with pytest.raises(ConfigError, match="the grammar is for the tokens of the reader tiny reader"):
                asking.continue_text(text, grammar=grammar)


def test_a_question_without_room_for_a_passage_is_refused_before_anything_is_read(chat: Chat) -> None:
    asking = reading(chat, ScriptedReader("x", window=190))
    with pytest.raises(PromptTooLongError, match=r"exceed the 190 tokens of told"):
        asking.stream_question([Document.from_text(BOOK)], "Why? " * 90, max_new_tokens=20)
    assert len(chat.pool) == 0


def test_readers_make_chats_that_are_told_apart(chat: Chat, tiny_engine: FocusEngine, local: LocalReader) -> None:
    readers = [None, local, EndpointReader("http://one/v1", "m"), EndpointReader("http://two/v1", "m")]
    identities = [reading(chat, reader).identity for reader in readers]
    assert len(set(identities)) == len(readers)
    assert identities[0] == chat.identity
    assert reading(chat, EndpointReader("http://one/v1", "m", key="secret")).identity == identities[2]


def test_another_reader_shares_weights_and_leaves_the_engine_as_it_was(tiny_engine: FocusEngine) -> None:
    reader = ScriptedReader("x")
    other = tiny_engine.with_reader(reader)
    assert (other.reader, tiny_engine.reader) == (reader, None)
    assert other.with_reader(None).reader is None
    assert other.base is tiny_engine.base
    assert other.own_way.projections.packed() is tiny_engine.own_way.projections.packed()
    look = FocusEngine(tiny_engine.base, None, FocusConfig(chunk_size=64, heads=((1, 0),)))
    assert look.with_reader(reader).ask(look.read(Document.from_text(BOOK)), "Who?").text == "x"
