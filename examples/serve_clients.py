"""Ask a running `focusdoc serve` about a file with the clients that you have already.

    pip install openai langchain-openai llama-index-llms-openai-like
    focusdoc serve &
    python examples/serve_clients.py book.pdf "Who stole the gold?" [--url http://127.0.0.1:8000/v1] [--key KEY]

The same with curl:

    curl -s $URL/files -F purpose=user_data -F file=@book.pdf            # {"id": "file-...", "status": "uploaded", ...}
    curl -s $URL/files/file-...                                          # until "status" is "processed"
    curl -s $URL/chat/completions -H 'Content-Type: application/json' -d '{"messages": [{"role": "user", "content": [
      {"type": "file", "file": {"file_id": "file-..."}}, {"type": "text", "text": "Who stole the gold?"}]}]}'
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openai


def with_openai(client: openai.OpenAI, file_id: str, question: str) -> None:
    """Chat completions, streamed; the citations come with the last piece."""
    content: list[Any] = [{"type": "file", "file": {"file_id": file_id}}, {"type": "text", "text": question}]
    stream = client.chat.completions.create(
        model="focusdoc", messages=[{"role": "user", "content": content}], stream=True
    )
    cited: list[Any] = []
    for chunk in stream:
        delta: Any = chunk.choices[0].delta
        print(delta.content or "", end="", flush=True)
        cited += getattr(delta, "annotations", None) or []
    print()
    for each in cited:
        print(f"   {each['url_citation']['title']}: {each['url_citation']['quote'][:80]!r}")


def with_langchain(url: str, key: str, file_id: str, question: str) -> None:
    """LangChain, by the responses API."""
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model="focusdoc", base_url=url, api_key=key, use_responses_api=True)  # type: ignore[arg-type]
    content = [{"type": "file", "file_id": file_id}, {"type": "text", "text": question}]
    answer = model.invoke([{"role": "user", "content": content}])
    print(answer.text)
    for block in answer.content:
        for each in block.get("annotations", []) if isinstance(block, dict) else []:
            print(f"   {each.get('filename')}, page {each.get('page')}")


def with_llama_index(url: str, key: str, text: str, question: str) -> None:
    """LlamaIndex, with a long text in the message; the server keeps its memory as well."""
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai_like import OpenAILike

    model = OpenAILike(model="focusdoc", api_base=url, api_key=key, is_chat_model=True, timeout=600)
    print(model.chat([ChatMessage(role="user", content=f"{text}\n\n{question}")]).message.content)


def main(arguments: Sequence[str] | None = None) -> None:
    """Upload the file, wait until it is read, and ask in three ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("question")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--key", default="none")
    args = parser.parse_args(arguments)
    client = openai.OpenAI(base_url=args.url, api_key=args.key, timeout=600)
    with args.file.open("rb") as content:
        file = client.files.create(file=content, purpose="user_data")
    read = client.files.wait_for_processing(file.id, poll_interval=0.2)
    if read.status != "processed":
        raise SystemExit(f"{args.file}: {read.status_details}")
    print("openai:")
    with_openai(client, file.id, args.question)
    print("LangChain:")
    with_langchain(args.url, args.key, file.id, args.question)
    if args.file.suffix in (".txt", ".md"):
        print("LlamaIndex:")
        with_llama_index(args.url, args.key, args.file.read_text(encoding="utf-8"), args.question)


if __name__ == "__main__":
    main()
