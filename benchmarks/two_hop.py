"""Two-hop questions: one retrieval step compared with several.

    python benchmarks/two_hop.py --data ../shared/data --reader NAME --output FILE [--part tuning] [--ways steps]

From Wikipedia passages, a film's passage that names its director and the director's passage with the date of birth give
a question by rule: "When was the director of the film X born?" The film's passage does not have the date, and the
director's does not name the film. All such passages are one document. Each question is answered in four ways, with the
same first retrieval:

- one: from the passages of one retrieval step;
- wide: from the best eight passages of one step, so that it reads as much as the others;
- written: a second step for the question plus the first answer; the reply with more confidence is kept;
- steps: focusdoc.readers.steps, as in `focusdoc ask`: the person is looked up and named in the question first.

`--write FOLDER` writes the document and its questions instead, for retrieval with the same reader:

    focusdoc eval natural --data FOLDER/questions.json --documents FOLDER --mode bm25 --reader NAME --output DIR
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from focusdoc import Document, FocusEngine, GenerationConfig
from focusdoc.decoding.prompt import Request
from focusdoc.evaluation.natural_scores import interval
from focusdoc.memory.chunk_memory import DocumentMemory
from focusdoc.readers.drafts import best_draft, draft_replies
from focusdoc.readers.finding import Found
from focusdoc.readers.passages import choose_passages
from focusdoc.readers.reading import Read
from focusdoc.readers.replies import Reply, Session

_DIRECTOR = re.compile(r"(?:directed by|film by) ([A-Z][\w.\-]+(?: [A-Z][\w.\-]+){1,3})")
_BORN = re.compile(r"\([^()]*?(\d{1,2} [A-Z][a-z]+ \d{4}|[A-Z][a-z]+ \d{1,2}, \d{4})")
#: The date of birth is within so many first characters of a person's passage.
_HEAD = 200
WAYS = ("wide", "written", "steps")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with qa/")
    parser.add_argument("--reader", help="as for focusdoc ask; one in this process")
    parser.add_argument("--part", choices=("tuning", "held out"), default="held out", help="the half of the questions")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="beside one, which is always answered")
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--store", default="auto")
    parser.add_argument("--output", type=Path, default=Path("two_hop.json"), help="rows; existing ones are kept")
    parser.add_argument("--write", type=Path, help="write files of questions to this folder, and answer none")
    args = parser.parse_args()
    text, asked = questions(args.data / "qa" / "2wikimultihopqa_corpus.json", args.part)
    asked = asked[: args.cases]
    if args.write is not None:
        return write(args.write, text, asked)
    rows = json.loads(args.output.read_text()) if args.output.exists() else []
    if len(rows) < len(asked):
        engine = FocusEngine.from_pretrained(reader=args.reader, store=args.store)
        memory = engine.read(Document.from_text(text, {"name": "films and directors"}))
        for row in asked[len(rows) :]:
            rows.append(row | {"ways": in_ways(engine, memory, row, args.ways)})
            args.output.write_text(json.dumps(rows, indent=1) + "\n")
            print(f"{len(rows)} of {len(asked)}", end="\r", flush=True)
    report(rows)


def questions(file: Path, part: str) -> tuple[str, list[dict[str, str]]]:
    """The document of one half of the films, and its questions."""
    texts = {row["title"]: row["text"] for row in json.loads(file.read_text(encoding="utf-8"))}
    known: list[dict[str, str]] = []
    for film, text in texts.items():
        named = _DIRECTOR.search(text)
        if named and named[1] in texts and named[1] != film and (born := _BORN.search(texts[named[1]][:_HEAD])):
            known.append({"film": film, "director": named[1], "born": born[1]})
    draw = random.Random(0)
    draw.shuffle(known)
    half = len(known) // 2
    rows = known[:half] if part == "tuning" else known[half:]
    titles = sorted({title for row in rows for title in (row["film"], row["director"])})
    draw.shuffle(titles)
    asked = [row | {"question": f"When was the director of the film {row['film']} born?"} for row in rows]
    return "\n\n".join(texts[title] for title in titles), asked


def write(folder: Path, text: str, asked: list[dict[str, str]]) -> None:
    """The document and its questions, as files for `focusdoc eval natural`; the place is where the date is."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "films.txt").write_text(text, encoding="utf-8", newline="")
    rows = [
        {
            "question": row["question"],
            "answer": r"(?s)\A" + "".join(rf"(?=.*\b{part}\b)" for part in re.findall(r"\w+", row["born"])),
            "places": [found.span() for found in re.finditer(re.escape(row["born"]), text)],
        }
        for row in asked
    ]
    (folder / "questions.json").write_text(json.dumps({"films": rows}, indent=1) + "\n", encoding="utf-8")


def in_ways(
    engine: FocusEngine, memory: DocumentMemory, row: dict[str, str], ways: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """For one look and each of `ways` the answer, whether it is right, the tokens of its passages, and its seconds."""
    reader, question, clock = engine.reader, row["question"], time.perf_counter
    assert reader is not None, "name a reader"
    way = Read(reader, engine.finder)
    settings = GenerationConfig(max_new_tokens=32)
    started = clock()
    found = engine.find(memory, question)
    looked = clock() - started
    request = Request([memory], [], [], settings, engine.base.tokenizer, [("user", question)])

    def timed(what: Callable[[Session], Reply], seconds: float) -> tuple[Reply, dict[str, Any]]:
        session, started = Session(reader, request, (), way.budget), clock()
        reply = what(session)
        return reply, {
            "text": reply.text,
            "right": float(is_date(reply.text, row["born"])),
            "tokens": sum(map(reader.count, session.texts(session.read))),
            "seconds": round(seconds + clock() - started, 2),
            "confidence": reply.confidence,
            "steps": [[step.question, step.text] for step in reply.steps],
        }

    def from_look(session: Session, found: Found, **choice: Any) -> Reply:
        return best_draft(draft_replies(session, question, found, choose_passages(found, session.fits, **choice)))

    def again(session: Session) -> Reply:
        second = from_look(session, engine.find(memory, f"{question} {first.text}"))
        return max(first, second, key=lambda reply: reply.confidence)

    first, one = timed(lambda session: from_look(session, found), looked)
    more: dict[str, Callable[[], tuple[Reply, dict[str, Any]]]] = {
        "wide": lambda: timed(lambda session: from_look(session, found, enough=1.1), looked),
        "written": lambda: timed(again, one["seconds"]),
        "steps": lambda: timed(lambda session: way.try_two_steps(session, first), one["seconds"]),
    }
    results = {"one": one} | {name: more[name]()[1] for name in ways if name in more}
    for name in ("written", "steps"):
        if name in results:
            results[name]["tokens"] += one["tokens"]
    return results


def is_date(text: str, born: str) -> bool:
    """Whether a text has the year, the month and the day of a date, in any order."""
    return all(re.search(rf"\b{part}\b", text) for part in re.findall(r"\w+", born))


def report(rows: list[dict[str, Any]]) -> None:
    print(f"{len(rows)} questions")
    for name in rows[0]["ways"]:
        ways = [row["ways"][name] for row in rows]
        right = [way["right"] for way in ways]
        low, high = interval(right)
        tokens, seconds = (sum(way[what] for way in ways) / len(ways) for what in ("tokens", "seconds"))
        print(
            f"{name:<8} right {sum(right) / len(right):.0%} ({low:.0%} to {high:.0%}), {tokens:.0f} tokens of passages,"
            f" {seconds:.1f} s"
        )
    if "steps" in rows[0]["ways"]:
        gained = [row["ways"]["steps"]["right"] - row["ways"]["one"]["right"] for row in rows]
        low, high = interval(gained)
        print(f"steps against one look: {sum(gained) / len(gained):+.0%} ({low:+.0%} to {high:+.0%})")


if __name__ == "__main__":
    main()
