"""Training samples: what is asked is really there, and every sample is a function of the seed and the step."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from focusdoc.decoding.prompt import encode_text, question_prompt
from focusdoc.errors import ConfigError, DocumentError, TrainingError
from focusdoc.training.data import DEFAULT_MIX, REUSE_WINDOW, SampleMaker, TrainingSample
from focusdoc.training.dense import TrainingPrompt
from focusdoc.training.facts import FACT_MAKERS, QUESTION_FRAMES
from focusdoc.training.planting import ChunkBuilder
from focusdoc.training.settings import SampleShape
from focusdoc.training.sources import load_questions

SHAPE = SampleShape(
    min_chunk_size=96,
    max_chunk_size=512,
    max_chunks=8,
    max_tokens=1024,
    prompts=4,
    max_reused=0,
    max_rows=None,
)
QUESTIONS = [
    ("The keeper of the light is called Anna Brandt.", "Who keeps the light?", "Anna Brandt"),
    ("It rained for nine days in Bergen.", "How long did it rain?", "nine days"),
]


@pytest.fixture(scope="session")
def prose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of some thousand different sentences, without digits."""
    rng = random.Random(0)
    words = ["the", "a", "wind", "sea", "boat", "over", "under", "slowly", "grey", "old", "keeper", "of", "went"]
    path = tmp_path_factory.mktemp("texts") / "prose.txt"
    path.write_text(" ".join(" ".join(rng.choices(words, k=rng.randint(4, 12))) + "." for _ in range(1500)))
    return path


@pytest.fixture
def maker(tiny_tokenizer: Any, prose: Path) -> SampleMaker:
    """All objectives, byte by byte."""
    return SampleMaker(tiny_tokenizer, [prose], QUESTIONS, shape=SHAPE, seed=1)


def only(tokenizer: Any, prose: Path, name: str, **settings: Any) -> SampleMaker:
    """A maker of one objective."""
    return SampleMaker(tokenizer, [prose], QUESTIONS, mix={name: 1.0}, **{"shape": SHAPE, **settings})


def prompts_of(maker: SampleMaker, steps: int = 40) -> list[tuple[TrainingSample, TrainingPrompt]]:
    return [(sample, prompt) for sample in map(maker.draw, range(steps)) for prompt in sample.prompts]


def chunks_of(sample: TrainingSample) -> list[list[int]]:
    ids, size = sample.token_ids, sample.chunk_size
    return [ids[start : start + size] for start in range(0, len(ids), size)]


def contains(tokens: list[int], part: list[int]) -> bool:
    return any(tokens[at : at + len(part)] == part for at in range(len(tokens) - len(part) + 1))


class TestSoil:
    @given(data=st.data(), seed=st.integers(0, 1000))
    def test_keeps_lengths_and_everything_planted(self, data: st.DataObject, seed: int) -> None:
        size, count = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 5))
        text = [[100 * chunk + place for place in range(size)] for chunk in range(count)]
        builder = ChunkBuilder([list(chunk) for chunk in text], random.Random(seed))
        placed, filled = [], []
        for number, length in enumerate(data.draw(st.lists(st.integers(-5, 20), max_size=12)), start=1):
            if length < 0:
                made = [-number] * size
                if builder.fill(lambda length, made=made: made[:length]):  # type: ignore[misc]
                    filled.append(made)
            else:
                statement = [-1000 * number - place for place in range(length)]
                if builder.plant(statement):
                    placed.append(statement)
        ends = frozenset(data.draw(st.sets(st.integers(0, 100 * count), max_size=30)))
        chunks = builder.build(ends)

        assert [len(chunk) for chunk in chunks] == [size] * count
        assert all(made in chunks for made in filled)
        assert all(any(contains(chunk, statement) for chunk in chunks) for statement in placed)
        for chunk, before in zip(chunks, text, strict=True):
            kept = [token for token in chunk if token >= 0]
            assert kept == before[: len(kept)]  # the text goes on as it did, only its end makes room
            if kept:
                assert len(kept) + sum(len(statement) for statement in placed if contains(chunk, statement)) == size

    def test_refuses_what_does_not_fit(self) -> None:
        builder = ChunkBuilder([[1, 2, 3]], random.Random(0))
        assert not builder.plant([7] * 4)
        assert builder.plant([7] * 3)
        assert not builder.plant([7])
        assert not builder.fill(lambda length: [8] * length)
        assert builder.build(frozenset()) == [[7, 7, 7]]

    def test_fills_only_untouched_chunks(self) -> None:
        builder = ChunkBuilder([[1, 2, 3]], random.Random(0))
        assert builder.fill(lambda length: [8] * length)
        assert not builder.fill(lambda length: [9] * length)
        assert not builder.plant([7])
        assert builder.build(frozenset()) == [[8, 8, 8]]

    def test_plants_behind_the_end_of_a_sentence_where_one_is_near(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("focusdoc.training.planting._MID_SENTENCE", 0)
        end = 99
        text = [0, 1, 2, end] * 30
        for seed in range(20):
            builder = ChunkBuilder([list(text)], random.Random(seed))
            builder.plant([-1, -2])
            chunk = builder.build(frozenset({end}))[0]
            at = chunk.index(-1)
            assert at == 0 or chunk[at - 1] == end or at < 4

    def test_breaks_into_every_other_sentence(self) -> None:
        end, runs = 99, 200
        text = [*range(10), end] * 12
        behind = 0
        for seed in range(runs):
            builder = ChunkBuilder([list(text)], random.Random(seed))
            builder.plant([-1, -2])
            chunk = builder.build(frozenset({end}))[0]
            at = chunk.index(-1)
            behind += at == 0 or chunk[at - 1] == end
        # One place in eleven is behind an end anyway.
        assert 0.45 < behind / runs < 0.65


class TestShape:
    @given(st.integers(0, 1000), st.integers(2, 300), st.integers(0, 3000), st.integers(1, 300), st.integers(0, 5000))
    def test_draws_within_its_ranges(self, seed: int, smallest: int, above: int, chunks: int, more: int) -> None:
        shape = SampleShape(
            min_chunk_size=smallest,
            max_chunk_size=smallest + above,
            max_chunks=chunks,
            max_tokens=smallest + more,
        )
        chunk_size, num_chunks = shape.draw(random.Random(seed))
        assert smallest <= chunk_size <= smallest + above
        assert 1 <= num_chunks <= chunks
        assert chunk_size * num_chunks <= smallest + more

    def test_draws_small_and_large_chunks_alike(self) -> None:
        rng, shape = random.Random(0), SampleShape(min_chunk_size=32, max_chunk_size=2048, max_tokens=4096)
        sizes = sorted(shape.draw(rng)[0] for _ in range(2000))
        assert 200 < sizes[1000] < 330  # the geometric mean of 32 and 2,048 is 256

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"min_chunk_size": 1}, "min_chunk_size is 1"),
            ({"min_chunk_size": 0}, "min_chunk_size is 0"),
            ({"max_chunk_size": 10}, "max_chunk_size is 10"),
            ({"max_tokens": 31, "min_chunk_size": 32}, "max_tokens is 31"),
            ({"max_chunks": 0}, "max_chunks is 0"),
            ({"prompts": 0}, "prompts is 0"),
            ({"targets": -1}, "targets is -1"),
            ({"max_reused": -1}, "max_reused is -1"),
            ({"max_rows": 0}, "max_rows is 0"),
            ({"max_local": 15}, "max_local is 15"),
        ],
    )
    def test_refuses_ranges_without_a_sample(self, values: dict[str, int], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            SampleShape(**values)


class TestEverySample:
    def test_is_a_function_of_seed_and_step(self, tiny_tokenizer: Any, prose: Path, maker: SampleMaker) -> None:
        fresh = SampleMaker(tiny_tokenizer, [prose], QUESTIONS, shape=SHAPE, seed=1)
        other = SampleMaker(tiny_tokenizer, [prose], QUESTIONS, shape=SHAPE, seed=2)
        drawn = [maker.draw(step) for step in range(6)]
        assert [fresh.draw(step) for step in reversed(range(6))] == drawn[::-1]
        assert len({tuple(sample.token_ids) for sample in drawn}) == 6
        assert other.draw(0) != drawn[0]

    def test_does_not_touch_the_global_generator(self, maker: SampleMaker) -> None:
        before = random.getstate()
        maker.draw(0)
        assert random.getstate() == before

    def test_has_whole_chunks_within_the_ranges(self, maker: SampleMaker) -> None:
        for sample in map(maker.draw, range(60)):
            num_chunks, rest = divmod(len(sample.token_ids), sample.chunk_size)
            assert rest == 0
            assert SHAPE.min_chunk_size <= sample.chunk_size <= SHAPE.max_chunk_size
            assert 1 <= num_chunks <= SHAPE.max_chunks
            assert len(sample.token_ids) <= SHAPE.max_tokens
            assert len(sample.prompts) == SHAPE.prompts

    def test_holds_the_answer_to_every_question(self, maker: SampleMaker, tiny_tokenizer: Any) -> None:
        objectives = set()
        for sample, prompt in prompts_of(maker, 150):
            if prompt.objective in {*FACT_MAKERS, "files"}:
                answer = tiny_tokenizer.decode(
                    prompt.token_ids[-prompt.num_targets :], skip_special_tokens=True
                ).strip()
                texts = [tiny_tokenizer.decode(chunk) for chunk in chunks_of(sample)]
                assert any(answer in text or answer[0].lower() + answer[1:] in text for text in texts)
                objectives.add(prompt.objective)
        assert objectives == {*FACT_MAKERS, "files"}

    def test_is_drawn_by_the_weights(self, tiny_tokenizer: Any, prose: Path) -> None:
        mix = {"continuation": 3.0, "reconstruction": 1.0, "words": 0.0}
        maker = SampleMaker(tiny_tokenizer, [prose], mix=mix, shape=SHAPE)
        counts = Counter(prompt.objective for _, prompt in prompts_of(maker, 200))
        assert set(counts) == {"continuation", "reconstruction"}
        assert 0.69 < counts["continuation"] / counts.total() < 0.81

    def test_of_small_chunks_asks_for_nothing_planted(self, tiny_tokenizer: Any, prose: Path) -> None:
        shape = SampleShape(min_chunk_size=2, max_chunk_size=60, max_tokens=300)
        maker = SampleMaker(tiny_tokenizer, [prose], QUESTIONS, shape=shape)
        counts = Counter(prompt.objective for _, prompt in prompts_of(maker))
        assert set(counts) == {"continuation", "reconstruction"}

    def test_of_planted_facts_alone_has_chunks_with_room_for_them(self, tiny_tokenizer: Any, prose: Path) -> None:
        shape = SampleShape(min_chunk_size=16, max_chunk_size=256, max_chunks=64, max_tokens=512)
        maker = SampleMaker(tiny_tokenizer, [prose], mix={"number": 1, "reconstruction": 0}, shape=shape)
        for sample in map(maker.draw, range(40)):
            assert 96 <= sample.chunk_size <= 256
            assert len(sample.token_ids) <= 512


class TestEarlierSamples:
    @pytest.fixture
    def reusing(self, maker: SampleMaker) -> SampleMaker:
        return replace(maker, shape=replace(SHAPE, max_reused=3, max_chunks=12))

    def test_lend_their_chunks(self, reusing: SampleMaker, maker: SampleMaker) -> None:
        drawn = [reusing.draw(step) for step in range(40)]
        assert not drawn[0].earlier
        assert max(len(sample.earlier) for sample in drawn) == 3
        for sample in drawn:
            assert all(sample.number - REUSE_WINDOW <= other.number < sample.number for other in sample.earlier)
            assert len({other.number for other in sample.earlier}) == len(sample.earlier)
            chunks = sum(one.num_chunks for one in (sample, *sample.earlier))
            assert chunks <= max(12, sample.num_chunks)
            for other in sample.earlier:
                assert other.token_ids == drawn[other.number].token_ids

    def test_are_drawn_from_seed_and_step_alone(self, reusing: SampleMaker) -> None:
        late = replace(reusing).draw(33)
        for step in range(33):
            reusing.draw(step)
        assert reusing.draw(33) == late

    def test_answer_no_question_asked_beside_them(self, tiny_tokenizer: Any, prose: Path) -> None:
        shape = replace(SHAPE, max_reused=3, max_chunks=12)
        maker = only(tiny_tokenizer, prose, "passkey", shape=shape)
        together = [sample for sample in map(maker.draw, range(40)) if sample.earlier]
        for sample in together:  # every chunk may hold a pass key, so no other may be asked for
            for other in sample.earlier:
                assert not any(prompt.questions & other.answered for prompt in sample.prompts)

    def test_of_other_processes_are_left_to_them(self, reusing: SampleMaker) -> None:
        taking_turns = replace(reusing, stride=3)
        for sample in map(taking_turns.draw, range(40)):
            assert {(sample.number - other.number) % 3 for other in sample.earlier} <= {0}


def rows_of(prompt: TrainingPrompt) -> int:
    """Rows of a prompt in one chunk: what runs behind it there, and its candidates forward and backward."""
    window = prompt.prompt_window or len(prompt.token_ids)
    return min(len(prompt.token_ids), window + prompt.num_targets) + 2 * prompt.num_targets


class TestRows:
    def test_bound_the_prompts(self, maker: SampleMaker) -> None:
        bounded = replace(maker, shape=replace(SHAPE, prompts=8, max_rows=600))
        whole = replace(maker, shape=replace(SHAPE, prompts=8))
        counts = set()
        for step in range(40):
            sample, all_prompts = bounded.draw(step), whole.draw(step).prompts
            assert sample.prompts == all_prompts[: len(sample.prompts)]
            rows = sum(rows_of(prompt) for prompt in sample.prompts)
            assert len(sample.prompts) == 1 or rows * sample.num_chunks <= 600
            counts.add(len(sample.prompts))
        assert 1 in counts
        assert len(counts) > 2


class TestQuestions:
    def test_are_the_prompts_that_are_used_for_asking(self, tiny_tokenizer: Any, prose: Path) -> None:
        styles = Counter[str]()
        known = {
            tuple(question_prompt(tiny_tokenizer, form.format(question), style)): (style, answer)
            for _, question, answer in QUESTIONS
            for form in ("{}", *QUESTION_FRAMES)  # bare, and as frameworks put it
            for style in ("chat", "plain")
        }
        for _, prompt in prompts_of(only(tiny_tokenizer, prose, "files")):
            if prompt.objective == "files":
                style, answer = known[prompt.token_ids[: -prompt.num_targets]]
                space = " " if style == "plain" else ""
                expected = [*encode_text(tiny_tokenizer, space + answer), tiny_tokenizer.eos_token_id]
                assert list(prompt.token_ids[-prompt.num_targets :]) == expected
                styles[style] += 1
        assert min(styles["chat"], styles["plain"]) > 10

    @pytest.mark.parametrize("kind", sorted(FACT_MAKERS))
    def test_end_with_the_end_token_unless_a_sentence_is_completed(
        self, kind: str, tiny_tokenizer: Any, prose: Path
    ) -> None:
        ended = 0
        prompts = [prompt for _, prompt in prompts_of(only(tiny_tokenizer, prose, kind)) if prompt.objective == kind]
        for prompt in prompts:
            if prompt.token_ids[-1] == tiny_tokenizer.eos_token_id:
                ended += 1
            else:
                opening = tiny_tokenizer.decode(prompt.token_ids[: -prompt.num_targets])
                assert not opening.endswith(("Answer:", "assistant\n"))
        assert ended == len(prompts) if kind == "words" else 0.6 < ended / len(prompts) < 0.95

    def test_have_no_end_token_where_the_tokenizer_has_none(self, tiny_tokenizer: Any, prose: Path) -> None:
        backend = tiny_tokenizer.backend_tokenizer
        bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(backend.to_str()))
        prompts = [prompt for _, prompt in prompts_of(only(bare, prose, "words")) if prompt.objective == "words"]
        assert prompts
        for prompt in prompts:
            assert not set(prompt.token_ids) & set(tiny_tokenizer.all_special_ids)
            assert bare.decode(prompt.token_ids).startswith("Question: ")  # there is no template either

    def test_ask_for_one_pass_key_at_most(self, tiny_tokenizer: Any, prose: Path) -> None:
        maker = only(tiny_tokenizer, prose, "passkey")
        for step in range(40):
            objectives = [prompt.objective for prompt in maker.draw(step).prompts]
            assert objectives.count("passkey") <= 1
            assert set(objectives) <= {"passkey", "number", "reconstruction"}

    def test_never_have_two_answers_from_distractors(
        self, tiny_tokenizer: Any, prose: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make = FACT_MAKERS["number"]
        monkeypatch.setitem(FACT_MAKERS, "number", lambda rng: make(random.Random(rng.randrange(2))))
        facts = [make(random.Random(seed)) for seed in range(2)]
        maker = only(tiny_tokenizer, prose, "number", shape=SampleShape(min_chunk_size=512, max_tokens=2048, prompts=1))
        for sample, prompt in prompts_of(maker):
            asked = tiny_tokenizer.decode(prompt.token_ids)
            text = tiny_tokenizer.decode(sample.token_ids)
            assert sum(text.count(fact.statement) for fact in facts if fact.answer in asked) == 1

    def test_from_files_come_with_their_context_whole(self, tiny_tokenizer: Any, prose: Path) -> None:
        for sample, prompt in prompts_of(only(tiny_tokenizer, prose, "files")):
            if prompt.objective == "files":
                asked = tiny_tokenizer.decode(prompt.token_ids)
                context = next(context for context, question, _ in QUESTIONS if question in asked)
                assert any(context in tiny_tokenizer.decode(chunk) for chunk in chunks_of(sample))

    def test_from_files_that_fit_nowhere_become_reconstruction(self, tiny_tokenizer: Any, prose: Path) -> None:
        maker = SampleMaker(tiny_tokenizer, [prose], [("long " * 500, "Who?", "I")], mix={"files": 1}, shape=SHAPE)
        assert {prompt.objective for _, prompt in prompts_of(maker)} == {"reconstruction"}

    def test_of_pairs_may_stand_among_many_others(self, tiny_tokenizer: Any, prose: Path) -> None:
        maker = only(tiny_tokenizer, prose, "pair", shape=SampleShape(min_chunk_size=1024, max_chunks=4))
        lines = [
            tiny_tokenizer.decode(chunk).count("\n") for step in range(10) for chunk in chunks_of(maker.draw(step))
        ]
        assert max(lines) >= 8

    def test_of_pairs_leave_chunks_their_length_whatever_the_tokenizer_merges(self, prose: Path) -> None:
        symbols = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġ-", "Ġ-Ġ-", "Ġ-Ġ-Ġ-Ġ-"]
        vocab = {symbol: index for index, symbol in enumerate(symbols)}
        merges = [("Ġ", "-"), ("Ġ-", "Ġ-"), ("Ġ-Ġ-", "Ġ-Ġ-")]
        backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
        maker = only(PreTrainedTokenizerFast(tokenizer_object=backend), prose, "pair")
        for sample in map(maker.draw, range(30)):
            assert len(sample.token_ids) % sample.chunk_size == 0


class TestTextObjectives:
    def test_continuation_goes_on_behind_the_last_chunk(self, tiny_tokenizer: Any, prose: Path) -> None:
        text = encode_text(tiny_tokenizer, prose.read_text())
        for sample, prompt in prompts_of(only(tiny_tokenizer, prose, "continuation"), 10):
            assert contains(text, sample.token_ids + list(prompt.token_ids))
            assert prompt.num_targets == SHAPE.targets
            assert len(prompt.token_ids) >= 16 + SHAPE.targets

    @pytest.mark.parametrize("targets", [1, 16, 400])
    def test_reconstruction_repeats_a_stretch_of_one_chunk(
        self, targets: int, tiny_tokenizer: Any, prose: Path
    ) -> None:
        shape = SampleShape(min_chunk_size=2, max_chunk_size=200, max_chunks=4, max_tokens=400, targets=targets)
        for sample, prompt in prompts_of(only(tiny_tokenizer, prose, "reconstruction", shape=shape), 20):
            assert any(contains(chunk, list(prompt.token_ids)) for chunk in chunks_of(sample))
            assert prompt.num_targets == min(targets, sample.chunk_size // 2)

    def test_reconstruction_repeats_what_was_planted_too(self, tiny_tokenizer: Any, prose: Path) -> None:
        mix = {"number": 1.0, "reconstruction": 1.0}
        maker = SampleMaker(tiny_tokenizer, [prose], mix=mix, shape=SHAPE)
        stretches = [
            tiny_tokenizer.decode(prompt.token_ids)
            for sample, prompt in prompts_of(maker)
            if prompt.objective == "reconstruction"
            and any(contains(chunk, list(prompt.token_ids)) for chunk in chunks_of(sample))
        ]
        assert any(character.isdigit() for stretch in stretches for character in stretch)

    def test_many_targets_are_no_trouble(self, tiny_tokenizer: Any, prose: Path) -> None:
        shape = SampleShape(min_chunk_size=64, max_chunk_size=128, max_tokens=256, targets=500)
        for _, prompt in prompts_of(only(tiny_tokenizer, prose, "continuation", shape=shape), 5):
            assert prompt.num_targets == 500
            assert len(prompt.token_ids) >= 516


class TestBadSources:
    @pytest.mark.parametrize(
        "mix",
        [{"magic": 1.0}, {}, {"words": 0.0}, {"words": -1.0, "number": 2.0}],
        ids=["unknown", "empty", "all zero", "negative"],
    )
    def test_mix(self, mix: dict[str, float], tiny_tokenizer: Any, prose: Path) -> None:
        with pytest.raises(ConfigError, match="mix is"):
            SampleMaker(tiny_tokenizer, [prose], mix=mix)

    def test_mix_leaves_files_out_where_there_are_none(self, tiny_tokenizer: Any, prose: Path) -> None:
        maker = SampleMaker(tiny_tokenizer, [prose], shape=SHAPE)
        assert set(maker.mix) == set(DEFAULT_MIX) - {"files"}
        assert "files" in DEFAULT_MIX
        maker.draw(0)

    def test_mix_of_files_alone_without_any(self, tiny_tokenizer: Any, prose: Path) -> None:
        with pytest.raises(TrainingError, match="no question to train on"):
            SampleMaker(tiny_tokenizer, [prose], mix={"files": 1.0})

    def test_mix_that_needs_larger_chunks(self, tiny_tokenizer: Any, prose: Path) -> None:
        with pytest.raises(ConfigError, match="at most 64 tokens, but planted facts need 96"):
            SampleMaker(tiny_tokenizer, [prose], mix={"number": 1}, shape=SampleShape(max_chunk_size=64))

    def test_no_text(self, tiny_tokenizer: Any) -> None:
        with pytest.raises(TrainingError, match="no text to train on"):
            SampleMaker(tiny_tokenizer, [])

    def test_texts_that_are_all_too_short(self, tiny_tokenizer: Any, tmp_path: Path) -> None:
        (tmp_path / "short.txt").write_text("Too short.")
        with pytest.raises(TrainingError, match="has more than"):
            SampleMaker(tiny_tokenizer, [tmp_path / "short.txt"], shape=SHAPE).draw(0)

    def test_one_long_text_among_many_short_ones_is_found(
        self, tiny_tokenizer: Any, tmp_path: Path, prose: Path
    ) -> None:
        short = tmp_path / "short.txt"
        short.write_text("Too short.")
        maker = SampleMaker(tiny_tokenizer, [*[short] * 500, prose], shape=SHAPE)
        assert all(maker.draw(step).token_ids for step in range(10))

    def test_a_text_that_is_missing(self, tiny_tokenizer: Any, tmp_path: Path) -> None:
        with pytest.raises(DocumentError, match=r"gone\.txt"):
            SampleMaker(tiny_tokenizer, [tmp_path / "gone.txt"]).draw(0)

    def test_a_text_that_is_empty(self, tiny_tokenizer: Any, tmp_path: Path) -> None:
        (tmp_path / "empty.txt").touch()
        with pytest.raises(DocumentError, match="empty"):
            SampleMaker(tiny_tokenizer, [tmp_path / "empty.txt"]).draw(0)


SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "Light",
            "paragraphs": [
                {
                    "context": "Anna keeps the light.",
                    "qas": [
                        {
                            "id": "1",
                            "question": "Who?",
                            "answers": [{"text": "Anna", "answer_start": 0}, {"text": "A"}],
                        },
                        {"id": "2", "question": "Why?", "answers": [], "is_impossible": True},
                        {"id": "3", "question": "What?", "answers": [{"text": "the light", "answer_start": 11}]},
                    ],
                }
            ],
        },
        {"title": "Rain", "paragraphs": [{"context": "It rained.", "qas": [{"question": "When?", "answers": []}]}]},
    ],
}


class TestLoadQuestions:
    def test_of_squad(self, tmp_path: Path) -> None:
        path = tmp_path / "squad.json"
        path.write_text(json.dumps(SQUAD))
        context = "Anna keeps the light."
        assert load_questions(path) == [(context, "Who?", "Anna"), (context, "What?", "the light")]

    @example([("A line\u2028and another\x85and\x0cone more", "q", "a")])
    @given(st.lists(st.tuples(st.text(), st.text(), st.text(min_size=1).filter(str.strip)), min_size=1, max_size=4))
    def test_of_jsonl(self, tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]) -> None:
        path = tmp_path_factory.mktemp("questions") / "rows.jsonl"
        names = ("context", "question", "answer")
        lines = [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) for row in rows]
        path.write_text("\n".join(lines) + "\n\n", encoding="utf-8", newline="\n")
        assert load_questions(path) == rows

    def test_of_jsonl_with_windows_line_ends(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_bytes(b'{"context": "c", "question": "q", "answer": "a"}\r\n\r\n')
        assert load_questions(path) == [("c", "q", "a")]

    def test_leaves_out_questions_without_an_answer(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl"
        rows = [{"context": "c", "question": "q", "answer": answer} for answer in ("", "a", " ")]
        path.write_text("\n".join(map(json.dumps, rows)))
        assert load_questions(path) == [("c", "q", "a")]

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("not_json.json", b"not json"),
            ("no_data.json", b"{}"),
            ("a_list.json", b"[1, 2]"),
            ("data_of_numbers.json", b'{"data": [1]}'),
            ("qas_of_texts.json", b'{"data": [{"paragraphs": [{"context": "c", "qas": ["q"]}]}]}'),
            (
                "answers_of_hub.json",
                b'{"data": [{"paragraphs": [{"context": "c", "qas": [{"answers": {"text": ["a"]}}]}]}]}',
            ),
            ("half_a_line.jsonl", b'{"context": "c", "question":'),
            ("no_answer.jsonl", b'{"context": "c", "question": "q"}'),
            ("a_list.jsonl", b'["c", "q", "a"]'),
            ("numbers.jsonl", b'{"context": "c", "question": "q", "answer": 7}'),
            ("latin1.jsonl", '{"context": "é"}'.encode("latin-1")),
        ],
    )
    def test_refuses_other_content(self, name: str, content: bytes, tmp_path: Path) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TrainingError, match=f"{name} is neither SQuAD-like JSON nor JSONL"):
            load_questions(tmp_path / name)

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("empty.jsonl", ""),
            ("blank.jsonl", '{"context": "c", "question": "q", "answer": ""}'),
            ("none.json", json.dumps({"data": SQUAD["data"][1:]})),
        ],
    )
    def test_refuses_a_file_without_an_answer(self, name: str, content: str, tmp_path: Path) -> None:
        (tmp_path / name).write_text(content)
        with pytest.raises(TrainingError, match=f"{name} has no question with an answer"):
            load_questions(tmp_path / name)

    def test_refuses_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(TrainingError, match=r"gone\.json"):
            load_questions(tmp_path / "gone.json")


def test_a_text_without_words_is_left_out(
    tiny_tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blank, story = tmp_path / "blank.txt", tmp_path / "story.txt"
    blank.write_text("  \n ")
    story.write_text("The keeper counts ships at dawn. " * 400)
    maker = SampleMaker(tiny_tokenizer, [blank, story], mix={"continuation": 1}, shape=SHAPE, seed=0)
    assert all(maker.make(step).token_ids for step in range(4))
    assert "blank.txt" in caplog.text
