"""Load on a running `focusdoc serve`: 16 clients, 200 questions, five documents, two of which are read meanwhile.

    focusdoc serve --port 8000 &
    python benchmarks/serve_load.py --url http://127.0.0.1:8000/v1 --text ../shared/data/books/550_silas_marner.txt

Every document holds a fact of its own, and each answer is checked against the one that its document gets alone: none
may be mixed up. Prints how many were answered, refused (429) and wrong, and seconds to the first token.
"""

from __future__ import annotations

import argparse
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai

DOCUMENTS = 5
TOWNS = ("Lisbon", "Oslo", "Lima", "Quito", "Perth")


def document(text: str, number: int, characters: int) -> str:
    """A stretch of a text with a fact in its middle."""
    part = text[number * characters : (number + 1) * characters]
    middle = part.find("\n\n", len(part) // 2)
    fact = f"\n\nThe access code of {TOWNS[number]} is {712960 + number}.\n\n"
    return part[:middle] + fact + part[middle:]


def ask(client: openai.OpenAI, file_id: str, number: int, max_tokens: int) -> tuple[str, str, float]:
    """The answer's text, the file of its first citation, and seconds to its first token; "429" for a refusal."""
    content: list[Any] = [
        {"type": "file", "file": {"file_id": file_id}},
        {"type": "text", "text": f"What is the access code of {TOWNS[number]}?"},
    ]
    begun, first, text, cited = time.perf_counter(), 0.0, "", ""
    try:
        stream = client.chat.completions.create(
            model="focusdoc", messages=[{"role": "user", "content": content}], max_tokens=max_tokens, stream=True
        )
        for chunk in stream:
            delta: Any = chunk.choices[0].delta
            if delta.content:
                first = first or time.perf_counter() - begun
                text += delta.content
            for citation in getattr(delta, "annotations", None) or []:
                cited = cited or citation["url_citation"]["file_id"]
    except openai.RateLimitError:
        return "429", "", 0.0
    return text, cited, first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", default="none")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--characters", type=int, default=40_000, help="of each document")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=12)
    given = parser.parse_args()
    client = openai.OpenAI(base_url=given.url, api_key=given.key, max_retries=0, timeout=600)
    text = given.text.read_text(encoding="utf-8")

    def upload(number: int) -> str:
        data = document(text, number, given.characters).encode()
        return client.files.create(file=(f"{TOWNS[number]}.txt", data), purpose="user_data").id

    files = [upload(number) for number in range(DOCUMENTS - 2)]
    for file in files:
        client.files.wait_for_processing(file, poll_interval=0.2)
    alone = {number: ask(client, files[number], number, given.max_tokens) for number in range(DOCUMENTS - 2)}
    files += [upload(number) for number in range(DOCUMENTS - 2, DOCUMENTS)]  # these are read under load
    with ThreadPoolExecutor(given.clients) as pool:
        asked = [number % DOCUMENTS for number in range(given.questions)]
        found = list(pool.map(lambda number: ask(client, files[number], number, given.max_tokens), asked))
    for number in range(DOCUMENTS - 2, DOCUMENTS):
        alone[number] = ask(client, files[number], number, given.max_tokens)
    refused = sum(answer[0] == "429" for answer in found)
    pairs = [(alone[number], answer) for number, answer in zip(asked, found, strict=True) if answer[0] != "429"]
    wrong = sum(answer[:2] != wanted[:2] for wanted, answer in pairs)
    firsts = sorted(answer[2] for _, answer in pairs)
    print(f"answered {len(pairs)}, refused {refused}, not as alone {wrong}")
    print(f"first token: median {statistics.median(firsts):.2f} s, slowest {firsts[-1]:.2f} s")
    print(f"alone: {', '.join(f'{TOWNS[number]} {answer[0]!r}' for number, answer in alone.items())}")


if __name__ == "__main__":
    main()
