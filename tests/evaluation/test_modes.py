"""Every mode on a tiny model: what it feeds, what it keeps, and that its answer is that of the engine it stands for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from focusdoc import Document, FocusConfig, FocusEngine
from focusdoc.decoding.prompt import encode_text, question_prompt
from focusdoc.errors import AdapterError, ConfigError
from focusdoc.evaluation.item import MODES, Item, ModeSettings
from focusdoc.evaluation.modes import TEMPLATE_ROOM, cut_middle, cut_tail, keep_local, make_mode, split_prompt
from focusdoc.evaluation.retrieval import FINDERS

ITEM = Item(
    task="qasper",
    id="1",
    before="Read. ",
    context="The house is blue. " * 40,
    after="\n\nWhat is blue?",
    answers=["house"],
    max_new_tokens=6,
)


#: Those that a reader answers in have tests of their own.
WITHOUT_READER = [name for name in MODES if name not in ("read", "place", *FINDERS)]


class TestEveryMode:
    @pytest.mark.parametrize("name", WITHOUT_READER)
    @pytest.mark.parametrize("chat", [True, False])
    def test_answers_the_same_twice_and_tells_what_it_took(self, engine: FocusEngine, name: str, chat: bool) -> None:
        mode = make_mode(name, engine, ModeSettings(local_window=256, chunk_size=64))
        item = replace(ITEM, chat=chat)
        first, second = mode.answer(item), mode.answer(item)
        assert first.to_dict()["prediction"] == second.to_dict()["prediction"]
        assert first.to_dict()["usage"] == second.to_dict()["usage"]
        assert 1 <= first.new_tokens <= 6
        assert first.kv_bytes > 0
        assert set(first.to_dict()["timings"]) == {"read", "first_token", "decode"}

    @pytest.mark.parametrize("name", WITHOUT_READER)
    def test_ends_at_a_stop_text(self, engine: FocusEngine, name: str) -> None:
        mode = make_mode(name, engine, ModeSettings(local_window=256, chunk_size=64))
        whole = mode.answer(replace(ITEM, max_new_tokens=12)).prediction
        assert len(whole) > 2
        stopped = mode.answer(replace(ITEM, max_new_tokens=12, stop=(whole[2],))).prediction
        assert stopped == whole[: whole.index(whole[2])]

    @pytest.mark.parametrize("name", WITHOUT_READER)
    def test_configurations_are_plain_and_tell_settings_apart(self, engine: FocusEngine, name: str) -> None:
        one = make_mode(name, engine, ModeSettings(local_window=256)).facts
        two = make_mode(name, engine, ModeSettings(local_window=128)).facts
        assert one["model"] == "tiny"
        assert (one == two) == (name == "full")  # full attention takes the model's own context whatever is asked

    def test_an_unknown_one_lists_the_known(self, engine: FocusEngine) -> None:
        with pytest.raises(ConfigError, match="'best' is unknown; choose from focus, split, quoted, look, full"):
            make_mode("best", engine, ModeSettings())

    @pytest.mark.parametrize("name", ["focus", "split", "quoted", "paper"])
    def test_ours_needs_an_adapter(self, engine: FocusEngine, name: str) -> None:
        with pytest.raises(AdapterError, match="no adapter"):
            make_mode(name, FocusEngine(engine.base, None), ModeSettings())

    def test_look_answers_without_an_adapter(self, engine: FocusEngine) -> None:
        bare = FocusEngine(engine.base, None)
        settings = ModeSettings(local_window=256, chunk_size=64)
        mode = make_mode("look", bare, settings)
        assert mode.facts["condensing"] == "look"
        assert mode.facts["adapter"] is None
        found = mode.answer(ITEM)
        assert found.num_chunks > 1
        assert make_mode("ask", bare, settings).answer(ITEM).num_chunks == found.num_chunks
        # With an adapter at hand it is left aside.
        assert make_mode("look", engine, settings).answer(ITEM).prediction == found.prediction


class TestSplit:
    def test_the_prompts_tail_is_the_local_context(self, engine: FocusEngine) -> None:
        item = replace(ITEM, context=ITEM.context * 4)
        found = make_mode("split", engine, ModeSettings(local_window=256, chunk_size=64)).answer(item)
        config = replace(engine.config, local_window=256, chunk_size=64)
        ids = question_prompt(engine.base.tokenizer, item.prompt)
        output = FocusEngine(engine.base, engine.adapter, config).generate(ids, max_new_tokens=6)
        assert found.prediction == engine.base.tokenizer.decode(output.token_ids, skip_special_tokens=True)
        assert (found.prompt_tokens, found.document_tokens) == (256, len(ids) - 256)


class TestQuoted:
    def test_passages_stand_in_front_of_the_prompts_tail(self, engine: FocusEngine) -> None:
        settings = ModeSettings(local_window=512, chunk_size=64)
        item = replace(ITEM, context=ITEM.context * 4)
        found = make_mode("quoted", engine, settings).answer(item)
        config = replace(engine.config, local_window=512, chunk_size=64)
        ours = FocusEngine(engine.base, engine.adapter, config)
        assert config.quote_tokens
        tail = 512 - TEMPLATE_ROOM - config.quote_tokens  # the tiny tokenizer has a token for each letter
        memory = ours.read(Document.from_text(item.prompt[:-tail]))
        answer = ours.ask(memory, item.prompt[-tail:], max_new_tokens=6)
        assert answer.usage.quoted_tokens
        assert found.prediction == answer.text
        assert (found.document_tokens, found.num_chunks) == (memory.num_tokens, memory.num_chunks)

    def test_a_prompt_that_the_local_context_holds_is_seen_in_full(self, engine: FocusEngine) -> None:
        settings = ModeSettings(local_window=512, chunk_size=64)
        item = replace(ITEM, context="The house is blue.")
        found = make_mode("quoted", engine, settings).answer(item)
        assert found.num_chunks == found.document_tokens == 0
        assert found.prediction == make_mode("full", engine, settings).answer(item).prediction


class TestFocus:
    def test_is_read_and_ask_without_sources(self, engine: FocusEngine) -> None:
        settings = ModeSettings(local_window=512)
        found = make_mode("focus", engine, settings).answer(ITEM)
        ours = FocusEngine(engine.base, engine.adapter, replace(engine.config, local_window=512))
        memory = ours.read(Document.from_text(ITEM.before + ITEM.context))
        answer = ours.ask(memory, ITEM.after, max_new_tokens=6)
        assert found.prediction == answer.text
        assert (found.document_tokens, found.num_chunks) == (memory.num_tokens, memory.num_chunks)

    def test_completions_are_fed_as_bare_text(self, engine: FocusEngine) -> None:
        found = make_mode("focus", engine, ModeSettings()).answer(replace(ITEM, chat=False))
        assert found.prompt_tokens == len(ITEM.after)

    def test_one_document_is_read_once(self, engine: FocusEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        read: list[str] = []
        real = FocusEngine.read

        def counted(self: FocusEngine, document: Any, **settings: Any) -> Any:
            read.append(document.text)
            return real(self, document, **settings)

        monkeypatch.setattr(FocusEngine, "read", counted)
        mode = make_mode("focus", engine, ModeSettings())
        mode.answer(ITEM)
        mode.answer(replace(ITEM, id="2", after="\n\nAnd red?"))
        mode.answer(replace(ITEM, id="3", context="Another text."))
        assert read == [ITEM.document, "Read. Another text."]

    def test_long_prompts_are_cut_in_the_middle(self, engine: FocusEngine) -> None:
        found = make_mode("focus", engine, ModeSettings(max_tokens=200)).answer(ITEM)
        assert found.dropped_tokens == len(ITEM.prompt) - 200
        assert found.document_tokens == 200 - len(ITEM.after)

    def test_a_question_longer_than_the_window_goes_to_the_document(self, engine: FocusEngine) -> None:
        long = replace(ITEM, after="Word " * 100 + "What?")
        found = make_mode("focus", engine, ModeSettings(local_window=300)).answer(replace(long, chat=False))
        assert found.prompt_tokens == 300 - 64
        assert found.document_tokens + found.prompt_tokens == len(long.prompt)


class TestPaper:
    def test_is_generate_over_the_whole_prompt(self, engine: FocusEngine) -> None:
        item = replace(ITEM, context="The house is blue. " * 250)
        found = make_mode("paper", engine, ModeSettings(local_window=256, chunk_size=512)).answer(item)
        paper = FocusEngine(engine.base, engine.adapter, FocusConfig.paper(local_window=256, chunk_size=512))
        ids = [1, *encode_text(engine.base.tokenizer, item.prompt)]
        output = paper.generate(ids, max_new_tokens=6)
        assert found.prediction == engine.base.tokenizer.decode(output.token_ids, skip_special_tokens=True)
        assert found.num_chunks == -(-(len(ids) - 256) // 512)


class TestPlain:
    @torch.no_grad()
    def greedy(self, engine: FocusEngine, text: str) -> str:
        """The base model's answer, by transformers alone."""
        ids = question_prompt(engine.base.tokenizer, text)
        output = engine.base.model.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False, eos_token_id=2)
        return str(engine.base.tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True))

    def test_full_sees_everything(self, engine: FocusEngine) -> None:
        found = make_mode("full", engine, ModeSettings(local_window=16)).answer(ITEM)
        assert (found.prediction, found.dropped_tokens) == (self.greedy(engine, ITEM.prompt), 0)

    def test_full_is_cut_to_the_models_context(self, engine: FocusEngine) -> None:
        found = make_mode("full", engine, ModeSettings()).answer(replace(ITEM, context="Blue. " * 2000))
        assert found.prompt_tokens + 6 <= engine.base.context_length
        assert found.dropped_tokens > 7000

    def test_truncated_keeps_both_ends(self, engine: FocusEngine) -> None:
        found = make_mode("truncated", engine, ModeSettings(local_window=100)).answer(ITEM)
        assert found.prediction == self.greedy(engine, ITEM.prompt[:50] + ITEM.prompt[-50:])

    def test_tail_keeps_the_end(self, engine: FocusEngine) -> None:
        found = make_mode("tail", engine, ModeSettings(local_window=100)).answer(ITEM)
        assert found.prediction == self.greedy(engine, ITEM.prompt[-100:])

    def test_streaming_is_full_attention_within_its_window(self, engine: FocusEngine) -> None:
        wide = make_mode("streaming", engine, ModeSettings(local_window=2048)).answer(ITEM)
        assert wide.prediction == self.greedy(engine, ITEM.prompt)
        narrow = make_mode("streaming", engine, ModeSettings(local_window=64)).answer(ITEM)
        assert narrow.kv_bytes == 64 * engine.base.kv_bytes_per_token
        assert narrow.dropped_tokens == 0


class TestTruncation:
    @pytest.mark.parametrize(("limit", "first", "last"), [(10, "abcdefghij", ""), (6, "abc", "hij"), (5, "ab", "ij")])
    def test_middle(self, tiny_tokenizer: Any, limit: int, first: str, last: str) -> None:
        dropped = 10 - len(first) - len(last)
        assert cut_middle(tiny_tokenizer, "abcdefghij", limit) == (first, last, dropped)

    def test_tail(self, tiny_tokenizer: Any) -> None:
        assert cut_tail(tiny_tokenizer, "abcdefghij", 4) == ("ghij", 6)
        assert cut_tail(tiny_tokenizer, "abc", 4) == ("abc", 0)

    def test_a_prompt_keeps_its_question(self, tiny_tokenizer: Any) -> None:
        assert split_prompt(tiny_tokenizer, "abcdefgh", "ij", 6) == ("abch", "ij", 4)
        assert split_prompt(tiny_tokenizer, "ab", "cdefghij", 6) == ("abc", "hij", 4)
        assert split_prompt(tiny_tokenizer, "ab", "cd", None) == ("ab", "cd", 0)
        assert split_prompt(tiny_tokenizer, "ab", "cd", 4) == ("ab", "cd", 0)

    def test_the_last_tokens_stay_local(self, tiny_tokenizer: Any) -> None:
        assert keep_local(tiny_tokenizer, "ab", "cdefg", 2) == ("abcde", "fg")
        assert keep_local(tiny_tokenizer, "ab", "cd", 2) == ("ab", "cd")


def test_adapters_are_told_apart_by_their_weights(engine: FocusEngine) -> None:
    assert engine.adapter is not None
    name = next(iter(engine.adapter.weights))
    before = engine.adapter.digest()
    weight = engine.adapter.weights[name]
    engine.adapter.weights[name] = weight.to(torch.bfloat16)
    changed = engine.adapter.digest()
    engine.adapter.weights[name] = weight
    assert before == engine.adapter.digest() != changed
