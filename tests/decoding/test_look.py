"""A look without training: the model's own heads find passages, and the model reads them by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from focusdoc import Document, FocusConfig, FocusEngine
from focusdoc.attention import attention_kernel
from focusdoc.decoding.look import LookDecoder, num_layers_for
from focusdoc.decoding.prompt import GAP, question_prompt
from focusdoc.decoding.quoting import NUM_CHUNKS, Texts, drop_unrelated_lines, points
from focusdoc.decoding.state import QuestionRows
from focusdoc.errors import ConfigError, MemoryMismatchError, PromptTooLongError
from focusdoc.memory.reading import read_chunks
from focusdoc.modeling.base import BaseModel
from look_reference import greedy, look_reference, together
from tiny_models import random_adapter, tiny_model

TOLERANCE = {"atol": 2e-5, "rtol": 1e-3}
FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma3_text", "olmo2", "granite"]
HEADS = ((0, 1), (1, 0), (1, 3))
PROMPT = [5, 9, 33, 70, 8, 14]
ROWS = QuestionRows(2, 5)
IDS = torch.randint(3, 96, (16 * 4 + 5,), generator=torch.Generator().manual_seed(1)).tolist()
CHUNKS = [IDS[at : at + 16] for at in range(0, len(IDS), 16)]
TEXT = "\n\n".join(f"House {number} at the river is painted {number * 7} times by its owner." for number in range(24))
QUESTION = "What about house 7?"


def looked(
    base: BaseModel,
    heads: tuple[tuple[int, int], ...] = HEADS,
    *,
    lower: bool = False,
    kind: Any = "model",
    **more: Any,
) -> LookDecoder:
    kernel = attention_kernel("auto")
    blocks = read_chunks(
        base.first_layers(num_layers_for(heads)) if lower else base, IDS, 16, kernel, memory_dtype=kind
    )
    decoder = LookDecoder(base, blocks, kernel=kernel, heads=heads, **more)
    decoder.look(PROMPT, PROMPT, ROWS)
    return decoder


class TestDecoder:
    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("chunk_batch", [None, 2])
    def test_looks_are_those_of_the_models_own_attention(self, family: str, chunk_batch: int | None) -> None:
        base = BaseModel(tiny_model(family))
        one = looked(base, chunk_batch=chunk_batch)
        expected = look_reference(base, CHUNKS, PROMPT, range(2, 5), HEADS)
        for found, own in zip(one.question_token_scores(range(5)), expected, strict=True):
            torch.testing.assert_close(found, own, **TOLERANCE)
        summed = together(expected)
        inside = one.answer_token_scores(range(5), [], torch.zeros(0), prompt_len=len(PROMPT))
        for found, own in zip(inside, summed, strict=True):
            torch.testing.assert_close(found, own, **TOLERANCE)
        torch.testing.assert_close(one.candidate_mass, torch.stack([own.max() for own in summed]), **TOLERANCE)

    def test_what_a_pass_bears_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        base = BaseModel(tiny_model())
        whole = torch.cat(looked(base).question_token_scores(range(5)), dim=1)
        for limit in ("MAX_WEIGHTS", "MAX_ROWS"):
            with monkeypatch.context() as patch:
                patch.setattr(f"focusdoc.decoding.look.{limit}", 1)
                torch.testing.assert_close(torch.cat(looked(base).question_token_scores(range(5)), dim=1), whole)

    @pytest.mark.parametrize("family", ["mistral", "gemma3_text"])
    def test_heads_in_windowed_layers_see_what_they_see(self, family: str) -> None:
        base = BaseModel(tiny_model(family, sliding_window=8))
        expected = look_reference(base, CHUNKS, PROMPT, range(2, 5), HEADS)
        found = looked(base).question_token_scores(range(5))
        assert not expected[0][0][:11].any()  # out of the window
        for own, look in zip(expected, found, strict=True):
            torch.testing.assert_close(look, own, **TOLERANCE)

    @pytest.mark.parametrize("family", ["llama", "gemma3_text"])
    def test_a_memory_of_the_lower_layers_is_enough(self, family: str) -> None:
        base, heads = BaseModel(tiny_model(family)), ((0, 1), (0, 2))
        whole, part = looked(base, heads), looked(base, heads, lower=True)
        torch.testing.assert_close(part.candidate_mass, whole.candidate_mass, **TOLERANCE)
        for one, other in zip(part.question_token_scores(range(5)), whole.question_token_scores(range(5)), strict=True):
            torch.testing.assert_close(one, other, **TOLERANCE)

    def test_an_int8_memory_gives_nearly_the_same(self) -> None:
        base = BaseModel(tiny_model())
        exact, rounded = (
            torch.cat(looked(base, kind=kind).question_token_scores(range(5)), dim=1) for kind in ("model", "int8")
        )
        assert torch.cosine_similarity(exact.flatten(), rounded.flatten(), dim=0) > 0.98

    def test_a_prompt_longer_than_a_chunk(self) -> None:
        base, prompt = BaseModel(tiny_model()), IDS[:40]
        kernel = attention_kernel("auto")
        decoder = LookDecoder(base, read_chunks(base, IDS, 16, kernel), kernel=kernel, heads=HEADS)
        decoder.look(prompt, prompt, QuestionRows(0, 40))
        expected = look_reference(base, CHUNKS, prompt, range(40), HEADS)
        for found, own in zip(decoder.question_token_scores(range(5)), expected, strict=True):
            torch.testing.assert_close(found, own, **TOLERANCE)

    @pytest.mark.parametrize("family", ["llama", "qwen2"])
    def test_the_answer_is_the_models_own_behind_another_local_context(self, family: str) -> None:
        base = BaseModel(tiny_model(family))
        decoder = looked(base)
        local = [*IDS[20:30], *PROMPT]
        tokens = [int(decoder.restart(local).argmax())]
        while len(tokens) < 4:
            tokens.append(int(decoder.step(tokens[-1]).argmax()))
        assert tokens == greedy(base, local, 4)


class TestLowerLayers:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_keys_and_values_are_those_of_the_whole_model(self, family: str) -> None:
        base, kernel = BaseModel(tiny_model(family)), attention_kernel("auto")
        whole, part = (read_chunks(one, IDS, 16, kernel) for one in (base, base.first_layers(1)))
        for block, lower in zip(whole, part, strict=True):
            assert lower.keys.shape[0] == 1
            torch.testing.assert_close(lower.keys[0], block.keys[0])
            torch.testing.assert_close(lower.values[0], block.values[0])

    def test_the_model_itself_is_left_as_it_is(self) -> None:
        base = BaseModel(tiny_model())
        ids = torch.tensor([PROMPT])
        before = base.model(ids).logits
        assert base.first_layers(2) is base
        read_chunks(base.first_layers(1), IDS, 16, attention_kernel("auto"))
        assert (base.num_layers, len(base.attention_layers)) == (2, 2)
        torch.testing.assert_close(base.model(ids).logits, before)


@pytest.fixture(scope="module")
def base(tiny_tokenizer: Any) -> BaseModel:
    model = tiny_model("llama", vocab_size=len(tiny_tokenizer), max_position_embeddings=1024)
    return BaseModel(model, tiny_tokenizer)


def engine_of(base: BaseModel, heads: tuple[tuple[int, int], ...] = HEADS, **more: Any) -> FocusEngine:
    store = more.pop("store", None)
    settings = FocusConfig(**{"chunk_size": 64, "condensing": "look", "heads": heads, **more})
    return FocusEngine(base, None, settings, store=store)


class TestAnswers:
    def test_are_those_of_the_reference(self, base: BaseModel) -> None:
        engine = engine_of(base)
        memories = [engine.read(Document.from_text(text)) for text in (TEXT, TEXT[::-1])]
        answer = engine.ask(memories, QUESTION, max_new_tokens=5, ignore_eos=True)
        local = question_prompt(base.tokenizer, QUESTION)
        ids = base.tokenizer(QUESTION, add_special_tokens=False)["input_ids"]
        first = next(at for at in range(len(local)) if local[at : at + len(ids)] == ids)
        chunks = [memory.token_ids[at : at + 64] for memory in memories for at in range(0, memory.num_tokens, 64)]
        looks = together(look_reference(base, chunks, local, range(first, first + len(ids)), HEADS))
        order = torch.stack([look.max() for look in looks]).argsort(descending=True)[:NUM_CHUNKS].tolist()
        text = Texts(memories, base.tokenizer)
        places = [text.place(*point) for point in points(order, [looks[index] for index in order])]
        places = drop_unrelated_lines(places, text, base.tokenizer.decode(local, skip_special_tokens=True))
        behind = local
        for count in range(1, len(places) + 1):
            marked = [
                {token for owner, at in places[:count] if owner == number for token in text.around(owner, at)}
                for number in range(2)
            ]
            passages = [each for owner, tokens in enumerate(marked) for each in text.passages(owner, tokens)]
            longer = question_prompt(base.tokenizer, QUESTION, quoted=GAP.join(passages))
            if len(longer) > len(local) + 384:
                break
            behind = longer
        assert answer.usage.quoted_tokens == len(behind) - len(local) > 0
        assert list(answer.token_ids) == greedy(base, behind, 5)

    def test_their_sources_are_what_was_looked_at_most(self, base: BaseModel) -> None:
        engine = engine_of(base)
        memory = engine.read(Document.from_text(TEXT))
        answer = engine.ask(memory, QUESTION, max_new_tokens=3, ignore_eos=True)
        assert 1 <= len(answer.sources) <= 3
        scores = [source.score for source in answer.sources]
        assert scores == sorted(scores, reverse=True)
        assert all(memory.document.text[one.start : one.end] == one.text for one in answer.sources)  # type: ignore[union-attr]

    def test_many_questions_are_answered_as_one(self, base: BaseModel) -> None:
        engine = engine_of(base)
        memory, asked = engine.read(Document.from_text(TEXT)), [QUESTION, "Who painted house 3?"]
        many = engine.ask_many(memory, asked, max_new_tokens=3)
        assert [one.text for one in many] == [engine.ask(memory, each, max_new_tokens=3).text for each in asked]

    def test_a_document_of_one_repeated_sentence(self, base: BaseModel) -> None:
        engine = engine_of(base)
        memory = engine.read(Document.from_text("The house is blue. " * 60))
        assert engine.ask(memory, "What colour is it?", max_new_tokens=3, ignore_eos=True).usage.completion_tokens == 3

    def test_bare_tokens_are_continued_behind_those_looked_at(self, base: BaseModel) -> None:
        engine = engine_of(base, chunk_size=32, local_window=9, quote_tokens=80)
        ids = torch.randint(3, len(base.tokenizer), (200,), generator=torch.Generator().manual_seed(3)).tolist()
        found = engine.generate(ids, max_new_tokens=3, ignore_eos=True)
        before, local = ids[:-9], ids[-9:]
        chunks = [before[at : at + 32] for at in range(0, len(before), 32)]
        looks = together(look_reference(base, chunks, local, range(9), HEADS))
        order = torch.stack([look.max() for look in looks]).argsort(descending=True)[:NUM_CHUNKS].tolist()
        chunk, centre = next(points(order, [looks[index] for index in order]))
        at = chunk * 32 + centre
        quoted = before[max(0, at - 32) : at + 32]  # no second place fits
        assert found.token_ids == greedy(base, [*quoted, *local], 3)


class TestMemories:
    @pytest.fixture(autouse=True)
    def stored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FOCUSDOC_STORE")

    def test_hold_no_layer_above_the_highest_head(self, base: BaseModel) -> None:
        engine, whole = engine_of(base, ((0, 1), (0, 3))), engine_of(base)
        memory = engine.read(Document.from_text(TEXT))
        assert {block.keys.shape[0] for block in memory.blocks} == {1}
        assert memory.num_bytes * 2 == whole.read(Document.from_text(TEXT)).num_bytes
        plans = [one.plan(Document.from_text(TEXT)).bytes_needed for one in (engine, whole)]
        assert plans[0] * 2 == plans[1]

    def test_of_all_layers_serve_a_look_but_not_the_other_way_round(self, base: BaseModel) -> None:
        candidates = FocusEngine(base, random_adapter(base.model), FocusConfig(chunk_size=64))
        look = engine_of(base, ((0, 1), (0, 3)))
        whole, part = (one.read(Document.from_text(TEXT)) for one in (candidates, look))
        texts = [look.ask(memory, QUESTION, max_new_tokens=4, ignore_eos=True).text for memory in (whole, part)]
        assert texts[0] == texts[1]
        with pytest.raises(MemoryMismatchError, match="first 1 layers"):
            candidates.ask(part, QUESTION)

    def test_known_whole_are_not_read_again(self, base: BaseModel, tmp_path: Path) -> None:
        candidates = FocusEngine(base, random_adapter(base.model), FocusConfig(chunk_size=64), store=tmp_path)
        candidates.read(Document.from_text(TEXT))
        look = engine_of(base, ((0, 1), (0, 3)), store=tmp_path)
        assert look.plan(Document.from_text(TEXT)).rung == "store"
        memory = look.read(Document.from_text(TEXT))
        assert memory.tokens_encoded == 0
        assert look.ask(memory, QUESTION, max_new_tokens=2, ignore_eos=True).usage.completion_tokens == 2

    def test_of_the_lower_layers_are_stored_by_themselves(self, base: BaseModel, tmp_path: Path) -> None:
        engine = engine_of(base, ((0, 1), (0, 3)), store=tmp_path)
        assert engine.read(Document.from_text(TEXT)).tokens_encoded > 0
        assert engine.read(Document.from_text(TEXT)).tokens_encoded == 0
        candidates = FocusEngine(base, random_adapter(base.model), FocusConfig(chunk_size=64), store=tmp_path)
        assert candidates.read(Document.from_text(TEXT)).tokens_encoded > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"condensing": "all"}, "condensing is 'all'"),
        ({"condensing": "look", "local_attention": "refresh"}, "refreshed"),
        ({"heads": ()}, "heads is"),
        ({"heads": ((1, -2),)}, "heads is"),
        ({"heads": [(1, 2), 3]}, "heads is"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FocusConfig(**settings)  # type: ignore[arg-type]


def test_heads_that_the_model_has_not(base: BaseModel) -> None:
    with pytest.raises(ConfigError, match=r"head 1 of layer 9, but .* has 4 heads in each of 2 layers"):
        engine_of(base, ((9, 1),))


def test_what_does_not_fit_behind_a_chunk_is_refused(base: BaseModel) -> None:
    engine = engine_of(base, chunk_size=1000, local_window=100)
    with pytest.raises(PromptTooLongError, match="A chunk of 1000 tokens and a question of 100"):
        engine.generate(list(range(3, 90)) * 15, max_new_tokens=3)


def test_an_engine_without_an_adapter_looks(base: BaseModel) -> None:
    assert FocusEngine(base, None, FocusConfig(chunk_size=64)).config.looks
    assert not FocusEngine(base, random_adapter(base.model), FocusConfig(chunk_size=64)).config.looks
