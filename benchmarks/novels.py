"""Natural questions of whole novels: right answers, and how often the sources hold the answer.

    python benchmarks/novels.py --data ../shared/data --reader qwen2.5-coder-1.5b-instruct --half first

The questions are those of qa/novels.json, each with a regular expression that a right answer matches. Memories go to
the document store, so a second run reads nothing. Tune on the first half of the novels, report the second.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from pathlib import Path

from focusdoc import FocusEngine, load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with books/ and qa/novels.json")
    parser.add_argument("--reader", help="as for focusdoc ask; without it the default model answers")
    parser.add_argument("--reader-model")
    parser.add_argument("--half", choices=["first", "second", "both"], default="both", help="of the novels")
    parser.add_argument("--store", default="auto", help="the folder of the document store")
    given = parser.parse_args()
    novels = json.loads((given.data / "qa" / "novels.json").read_text(encoding="utf-8"))
    names = list(novels)
    middle = (len(names) + 1) // 2
    names = {"first": names[:middle], "second": names[middle:], "both": names}[given.half]
    engine = FocusEngine.from_pretrained(reader=given.reader, reader_model=given.reader_model, store=given.store)
    right: list[bool] = []
    found: list[bool] = []
    seconds: list[float] = []
    for name in names:
        memory = engine.read(load(given.data / "books" / f"{name}.txt"))
        for row in novels[name]:
            begun = time.perf_counter()
            answer = engine.ask(memory, row["question"], max_new_tokens=48, max_sources=8)
            seconds.append(time.perf_counter() - begun)
            # An answer may begin with a capital that the word has not.
            ways = (answer.text, answer.text[:1].lower() + answer.text[1:])
            right.append(any(re.search(row["answer"], text) for text in ways))
            found.append(any(re.search(row["answer"], source.text) for source in answer.sources))
            said = " ".join(answer.text.split())[:90]
            print(
                f"{'right' if right[-1] else '-':<6}{'found' if found[-1] else '-':<6}{row['question']} -> {said}",
                flush=True,
            )
    print(
        f"{sum(right)} of {len(right)} right, the answer's words among the sources of {sum(found)}; "
        f"{statistics.median(seconds):.1f} s a question"
    )


if __name__ == "__main__":
    main()
