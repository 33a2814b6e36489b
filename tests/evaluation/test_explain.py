"""Explanations: the recorded attention is the decoder's own, and the page holds nothing that a document could run."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from focusdoc import Document, FocusConfig, FocusEngine
from focusdoc.decoding.looking import chunk_shares
from focusdoc.errors import EvaluationError
from focusdoc.evaluation.explain import Explanation, explain, explanation_page, explanation_png
from focusdoc.memory.chunk_memory import DocumentMemory
from holders_here import cluster_here

TEXT = "\f".join(f"Page {n}. <script>alert({n})</script> The house {n} is blue & {{{n}}}. " * 2 for n in range(1, 6))
QUESTION = "What is <b>blue</b>?"


@pytest.fixture(scope="module")
def asked(engine: FocusEngine) -> FocusEngine:
    return FocusEngine(engine.base, engine.adapter, replace(engine.config, quote_tokens=0))


@pytest.fixture(scope="module")
def memory(asked: FocusEngine) -> DocumentMemory:
    return asked.read(Document.from_text(TEXT, {"name": "<i>book</i>"}))


@pytest.fixture(scope="module")
def explained(asked: FocusEngine, memory: DocumentMemory) -> Explanation:
    return explain(asked, memory, QUESTION, max_new_tokens=5)


def test_the_answer_is_that_of_ask(asked: FocusEngine, memory: DocumentMemory, explained: Explanation) -> None:
    answer = asked.ask(memory, QUESTION, max_new_tokens=5)
    assert (explained.answer.text, explained.answer.sources) == (answer.text, answer.sources)
    assert len(explained.answer_tokens) == len(answer.token_ids)


def test_all_layers_and_heads_together_are_the_decoders_chunk_mass(
    asked: FocusEngine, memory: DocumentMemory, explained: Explanation
) -> None:
    torch.testing.assert_close(explained.candidates, explained.masses, atol=1e-5, rtol=1e-4)
    shares = asked.ask(memory, QUESTION, max_new_tokens=5).chunk_shares
    assert chunk_shares(explained.masses).tolist() == pytest.approx(shares, abs=1e-5)


def test_no_passage_is_quoted(engine: FocusEngine, asked: FocusEngine, explained: Explanation) -> None:
    """What is explained is what the answer owes to the candidates, whether or not `ask` would quote."""
    assert engine.config.quote_tokens
    quoting = explain(engine, engine.read(explained.document), QUESTION, max_new_tokens=5)
    assert quoting.local_tokens == explained.local_tokens
    assert quoting.answer.text == explained.answer.text


def test_a_look_has_no_candidates_to_explain(engine: FocusEngine) -> None:
    looking = FocusEngine(engine.base, None, FocusConfig(chunk_size=64, heads=((0, 1),)))
    with pytest.raises(EvaluationError, match="no adapter"):
        explain(looking, looking.read(Document.from_text(TEXT)), QUESTION)


def test_attention_adds_up_to_one(explained: Explanation) -> None:
    total = explained.candidates.sum(dim=1) + explained.local.sum(dim=1)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)
    # A token sees the local context up to itself and nothing after it.
    rows, columns = explained.local.shape
    for row in range(rows):
        assert not explained.local[row, columns - rows + row + 1 :].any()
        assert explained.local[row, columns - rows + row] > 0


def test_layers_and_heads_are_told_apart(asked: FocusEngine, memory: DocumentMemory, explained: Explanation) -> None:
    each = [
        explain(asked, memory, QUESTION, layer=layer, head=head, max_new_tokens=5).candidates
        for layer in range(asked.base.num_layers)
        for head in range(asked.base.num_heads)
    ]
    torch.testing.assert_close(torch.stack(each).mean(dim=0), explained.candidates, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(each[0], each[1])
    assert not torch.allclose(each[0], each[-1])


def test_shares_of_pages_add_up(explained: Explanation) -> None:
    shares = re.findall(r"<h3>Page (\d): ([\d.]+)%</h3>", explanation_page(explained))
    assert [page for page, _ in shares] == ["1", "2", "3", "4", "5"]
    assert sum(float(share) for _, share in shares) == pytest.approx(100, abs=0.3)


@pytest.mark.parametrize(("layer", "head", "words"), [(2, None, "layer is 2"), (None, -1, "head is -1")])
def test_no_such_layer_or_head(
    asked: FocusEngine, memory: DocumentMemory, layer: int | None, head: int | None, words: str
) -> None:
    with pytest.raises(EvaluationError, match=words):
        explain(asked, memory, QUESTION, layer=layer, head=head)


def test_the_page_is_self_contained_and_escapes_everything(explained: Explanation) -> None:
    page = explanation_page(explained)
    assert re.findall(r"<script|<i>book|<b>blue", page) == []
    assert "&lt;script&gt;" in page
    assert "&lt;i&gt;book&lt;/i&gt;" in page
    assert "default-src 'none'" in page
    assert "share of the answer's attention to all candidates" in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    assert page.count("<h3>Page ") == 5
    # All of the document's text is there, once.
    spans = re.findall(r"<span title=[^>]*>(.*?)</span>", page, flags=re.S)
    assert "".join(spans).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") == TEXT.replace("\f", "")


def test_the_picture_is_a_png(explained: Explanation) -> None:
    assert explanation_png(explained).startswith(b"\x89PNG")


def test_over_a_cluster_it_is_the_same(asked: FocusEngine, explained: Explanation) -> None:
    cluster = cluster_here(2, asked.base, asked.adapter)
    spread = FocusEngine(asked.base, asked.adapter, asked.config, store=None, cluster=cluster)
    found = explain(spread, spread.read(explained.document), QUESTION, max_new_tokens=5)
    assert found.answer.text == explained.answer.text
    torch.testing.assert_close(found.candidates, explained.candidates, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(found.local, explained.local, atol=2e-5, rtol=1e-4)
