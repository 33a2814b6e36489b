"""ChatFocusLLM over a cluster: a tiny model whose chunks are kept by holders in this process, without Ray."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_focusdoc import ChatFocusLLM, FocusRetriever
from pydantic import ValidationError
from samples import planted

from focusdoc import FocusConfig
from focusdoc.cluster import ray_holders
from focusdoc.cluster.spread import shares_of
from holders_here import open_here
from tiny_models import save_tiny

OSLO = planted("Oslo", "771204")  # 36 chunks of 16 tokens, 5 parts
LONG = [SystemMessage(f"Answer from the context.\n\n{OSLO}"), HumanMessage("What is the access code of Oslo?")]


@pytest.fixture
def tiny(llm: ChatFocusLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of a tiny model; whatever opens a cluster gets holders in this process."""
    monkeypatch.setattr(ray_holders, "open_cluster", open_here)
    saved = save_tiny(tmp_path, llm.focus.get().engine.base.tokenizer)
    return {**saved, "config": FocusConfig(chunk_size=16, local_window=256), "max_tokens": 8}


async def test_answers_are_those_of_one_process(tiny: dict[str, Any]) -> None:
    alone, spread = ChatFocusLLM(**tiny), ChatFocusLLM(**tiny, cluster=2)
    wanted, found = alone.invoke(LONG), spread.invoke(LONG)
    assert found.content == wanted.content != ""
    assert [source["text"] for source in found.response_metadata["sources"]] == [
        source["text"] for source in wanted.response_metadata["sources"]
    ]
    assert found.usage_metadata == wanted.usage_metadata
    again = await spread.ainvoke(LONG)
    assert again.content == wanted.content
    assert again.usage_metadata["input_token_details"]["cache_creation"] == 0
    documents = [Document(OSLO)]
    passages = [
        [one.page_content for one in FocusRetriever.from_documents(documents, llm).invoke("Oslo?")]
        for llm in (alone, spread)
    ]
    assert passages[0] == passages[1] != []


def test_its_memories_are_its_own(tiny: dict[str, Any]) -> None:
    alone, spread = (ChatFocusLLM(**tiny, cluster=where) for where in (None, 2))
    spread.invoke(LONG)
    chat = spread.focus.get()
    (memory,) = chat.pool._memories.values()
    assert len(shares_of(chat.engine.cluster, memory.blocks)) == 2
    assert alone.invoke(LONG).usage_metadata["input_token_details"]["cache_read"] == 0


def test_objects_and_copies_keep_it(tiny: dict[str, Any]) -> None:
    spread = ChatFocusLLM(**tiny, cluster=2)
    for again in (ChatFocusLLM(**tiny, cluster=2), copy.deepcopy(spread), pickle.loads(pickle.dumps(spread))):
        assert again.cluster == 2
        assert again.focus is spread.focus
    assert len({id(ChatFocusLLM(**tiny, cluster=where).focus) for where in (None, 2, "auto", "10.0.0.1:6379")}) == 4
    assert spread._get_llm_string() != ChatFocusLLM(**tiny)._get_llm_string()


def test_an_engine_of_ones_own_has_its_own(llm: ChatFocusLLM) -> None:
    with pytest.raises(ValidationError, match="engine= is already loaded, so cluster= has no effect"):
        ChatFocusLLM(engine=llm.focus.get(), cluster=2)
