"""What a server costs: its start, questions against the same call in Python, and questions while a file is read.

    python benchmarks/serve_times.py --data ../shared/data --output serve_times.json

Starts `focusdoc serve` with its defaults, uploads a novel of 100K tokens, and asks about it in turn with
an engine in this process. Then it uploads another novel, and asks about the first one while that is read. Nothing else
should run at the same time.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import openai

from focusdoc import Document, FocusEngine

BOOK, OTHER = "105_persuasion", "78_tarzan_of_the_apes"
#: About the first novel; the first question warms both up.
QUESTIONS = (
    "Where does Sir Walter Elliot live?",
    "Whom does Anne Elliot marry?",
    "Who falls at Lyme?",
    "What is Captain Wentworth's first name?",
    "Who rents Kellynch Hall?",
    "Whom does Louisa Musgrove marry?",
    "Which city do the Elliots move to?",
)


def ask(client: openai.OpenAI, file_id: str, question: str) -> tuple[float, float, str]:
    """Seconds to the first token and in all, and the answer."""
    content: list[Any] = [{"type": "file", "file": {"file_id": file_id}}, {"type": "text", "text": question}]
    begun, first, text = time.perf_counter(), 0.0, ""
    for chunk in client.chat.completions.create(
        model="focusdoc", messages=[{"role": "user", "content": content}], stream=True, max_tokens=64
    ):
        if chunk.choices and chunk.choices[0].delta.content:
            first = first or time.perf_counter() - begun
            text += chunk.choices[0].delta.content
    return first, time.perf_counter() - begun, text


def started(command: list[str], url: str) -> tuple[subprocess.Popen[bytes], float]:
    """A server, and the seconds until it could answer."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while True:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return process, time.perf_counter() - begun
        except httpx.HTTPError:
            pass
        if process.poll() is not None:
            raise SystemExit("The server has ended.")
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with books/")
    parser.add_argument("--rounds", type=int, default=3, help="starts, and questions while a file is read")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    books = {name: (args.data / "books" / f"{name}.txt").read_text(encoding="utf-8") for name in (BOOK, OTHER)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=900)
    result: dict[str, Any] = {"starts": []}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "focusdoc", "serve", "--port", str(port), "--folder", folder]
        for number in range(args.rounds):
            process, seconds = started(command, url)
            result["starts"].append(seconds)
            print(f"started in {seconds:.1f} s", flush=True)
            if number + 1 < args.rounds:
                process.terminate()
                process.wait()
        try:
            file = client.files.create(file=(f"{BOOK}.txt", books[BOOK].encode()), purpose="user_data")
            client.files.wait_for_processing(file.id, poll_interval=0.2)
            process.terminate()
            process.wait()
            process, _ = started(command, url)  # so that both open the memory that is stored
            client.files.wait_for_processing(file.id, poll_interval=0.2)
            engine = FocusEngine.from_pretrained(reader="auto")
            memory = engine.read(Document.from_text(books[BOOK]))
            result["pairs"] = []
            for number, question in enumerate(QUESTIONS):
                pair: dict[str, Any] = {"question": question}
                texts: list[str] = []
                for who in ("served", "python") if number % 2 else ("python", "served"):
                    begun = time.perf_counter()
                    if who == "served":
                        texts.append(ask(client, file.id, question)[2])
                    else:
                        texts.append(engine.ask(memory, question, max_new_tokens=64).text)
                    pair[who] = time.perf_counter() - begun
                result["pairs"].append(pair | {"same": texts[0] == texts[1]})
                print(result["pairs"][-1], flush=True)
            del engine, memory
            result["alone"] = [ask(client, file.id, question)[0] for question in QUESTIONS[1:]]
            print("alone", result["alone"], flush=True)
            result["while reading"] = []
            for number in range(args.rounds):
                text = f"Copy {number} of {time.time()}.\n\n{books[OTHER]}"  # unknown to the store
                other = client.files.create(file=(f"{number}.txt", text.encode()), purpose="user_data")
                for question in QUESTIONS[1:]:
                    state: Any = client.files.retrieve(other.id)
                    while not state.tokens_read and state.status == "uploaded":
                        time.sleep(0.05)
                        state = client.files.retrieve(other.id)
                    first = ask(client, file.id, question)[0]
                    if client.files.retrieve(other.id).status == "uploaded":
                        result["while reading"].append(first)
                client.files.delete(other.id)
                print("while reading", result["while reading"], flush=True)
        finally:
            process.terminate()
            process.wait()
    ratios = [pair["served"] / pair["python"] for pair in result["pairs"][1:]]
    alone, beside = statistics.median(result["alone"]), statistics.median(result["while reading"])
    result["summary"] = {
        "start, s (median)": statistics.median(result["starts"]),
        "a question through the server to the same in Python": statistics.median(ratios),
        "first token alone, s": alone,
        "while another file is read, s": beside,
        "ratio": beside / alone,
    }
    args.output.write_text(json.dumps(result, indent=1))
    print(json.dumps(result["summary"], indent=1))


if __name__ == "__main__":
    main()
