"""The clients of LangChain and LlamaIndex against the server, as their users write them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from server_conftest import Serve
from test_server import QUESTION, STORY, asked, client, uploaded


def test_langchain_with_responses(serve: Serve) -> None:
    langchain_openai = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    url = serve()
    api = client(url)
    file = uploaded(api)
    model = langchain_openai.ChatOpenAI(
        model="tiny", base_url=url, api_key="none", use_responses_api=True, max_tokens=8, max_retries=0
    )
    content: list[Any] = [{"type": "file", "file_id": file}, {"type": "text", "text": QUESTION}]
    answer = model.invoke([{"role": "user", "content": content}])
    same = asked(api, file).choices[0].message
    assert answer.text == same.content
    (block,) = answer.content
    assert block["annotations"][0]["file_id"] == file
    assert answer.usage_metadata["input_token_details"]["cache_read"] == len(STORY)
    pieces = [piece.text for piece in model.stream([{"role": "user", "content": content}])]
    assert "".join(pieces) == same.content


def test_langchain_with_chat_completions(serve: Serve) -> None:
    langchain_openai = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    model = langchain_openai.ChatOpenAI(model="tiny", base_url=serve(), api_key="none", max_tokens=6, max_retries=0)
    assert model.invoke(f"{STORY}\n\n{QUESTION}").text
    assert "".join(piece.text for piece in model.stream("Hello")) == model.invoke("Hello").text


def test_llama_index(serve: Serve) -> None:
    like = pytest.importorskip("llama_index.llms.openai_like", reason="llama-index-llms-openai-like is not installed")
    from llama_index.core.llms import ChatMessage

    url = serve()
    model = like.OpenAILike(model="tiny", api_base=url, api_key="none", is_chat_model=True, max_tokens=6, temperature=0)
    said = [ChatMessage(role="user", content=f"{STORY}\n\n{QUESTION}")]
    whole = model.chat(said).message.content
    *_, last = model.stream_chat(said)
    assert last.message.content == whole


def test_the_example(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for needed in ("langchain_openai", "llama_index.llms.openai_like"):
        pytest.importorskip(needed, reason=f"{needed} is not installed")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    path = tmp_path / "story.txt"
    path.write_text(STORY, encoding="utf-8")
    importlib.import_module("serve_clients").main([str(path), QUESTION, "--url", serve()])
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line in ("openai:", "LangChain:", "LlamaIndex:")] == [
        "openai:",
        "LangChain:",
        "LlamaIndex:",
    ]
    assert "story.txt, page 1" in printed
