"""FocusLLM over a cluster: a tiny model whose chunks are kept by holders in this process, without Ray."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
from conftest import planted
from llama_index.core import Document
from llama_index.llms.focusdoc import FocusLLM, FocusQueryEngine, FocusSynthesizer

from focusdoc import FocusConfig
from focusdoc.cluster import ray_holders
from focusdoc.cluster.spread import shares_of
from holders_here import open_here
from tiny_models import save_tiny

OSLO = planted("Oslo", "771204")  # 36 chunks of 16 tokens, 5 parts
PROMPT = f"Context is below.\n---------\n{OSLO}\n---------\nQuery: What is the access code of Oslo?\nAnswer: "


@pytest.fixture
def tiny(llm: FocusLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of a tiny model; whatever opens a cluster gets holders in this process."""
    monkeypatch.setattr(ray_holders, "open_cluster", open_here)
    saved = save_tiny(tmp_path, llm.focus.get().engine.base.tokenizer)
    return {**saved, "config": FocusConfig(chunk_size=16, local_window=256), "max_new_tokens": 8}


async def test_answers_are_those_of_one_process(tiny: dict[str, Any]) -> None:
    alone, spread = FocusLLM(**tiny), FocusLLM(**tiny, cluster=2)
    wanted, found = alone.complete(PROMPT), spread.complete(PROMPT)
    assert found.text == wanted.text != ""
    assert [source["text"] for source in found.additional_kwargs["sources"]] == [
        source["text"] for source in wanted.additional_kwargs["sources"]
    ]
    assert found.raw["usage"] == wanted.raw["usage"]
    again = await spread.acomplete(PROMPT)
    assert again.text == wanted.text
    assert again.raw["usage"]["encoded_tokens"] == 0
    nodes = [OSLO, planted("Riga", "640275", seed=1)]
    for ask in (
        lambda llm: str(FocusQueryEngine.from_documents(Document(text=OSLO), llm).query("Which code?")),
        lambda llm: FocusSynthesizer(llm).get_response("Which code?", nodes),
    ):
        assert ask(spread) == ask(alone) != ""


def test_its_memories_are_its_own(tiny: dict[str, Any]) -> None:
    alone, spread = (FocusLLM(**tiny, cluster=where) for where in (None, 2))
    spread.complete(PROMPT)
    chat = spread.focus.get()
    (memory,) = chat.pool._memories.values()
    assert len(shares_of(chat.engine.cluster, memory.blocks)) == 2
    assert alone.complete(PROMPT).raw["usage"]["cached_tokens"] == 0


def test_objects_copies_and_dictionaries_keep_it(tiny: dict[str, Any]) -> None:
    spread = FocusLLM(**tiny, cluster=2)
    for again in (
        FocusLLM(**tiny, cluster=2),
        copy.deepcopy(spread),
        pickle.loads(pickle.dumps(spread)),
        FocusLLM.from_dict(spread.to_dict()),
    ):
        assert again.cluster == 2
        assert again.focus is spread.focus
    assert len({id(FocusLLM(**tiny, cluster=where).focus) for where in (None, 2, "auto", "10.0.0.1:6379")}) == 4


def test_an_engine_of_ones_own_has_its_own(llm: FocusLLM) -> None:
    with pytest.raises(ValueError, match="engine= is already loaded, so cluster= has no effect"):
        FocusLLM(engine=llm.focus.get(), cluster=2)
