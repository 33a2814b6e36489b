"""Ask questions of a whole book: it is read once, then every question is answered from the memory of it.

    python examples/qa_over_book.py                                  three questions of the Python language reference
    python examples/qa_over_book.py report.pdf "Who signed it?"      your PDF or text, and your questions

With --pages N only the first N pages are read, for a quick try; answers from later pages are then out of reach.
"""

import argparse
import sys
import time
from pathlib import Path

import focusdoc

#: Asked of the reference.
QUESTIONS = [
    "Which exception does an assert statement raise when it fails?",
    "What does a generator function return when it is called?",
    "Which keyword begins a coroutine function?",
]


def python_reference() -> focusdoc.Document:
    """The Python language reference as every CPython carries it for help(): one page for each topic."""
    from pydoc_data.topics import topics

    text, pages = "", []
    for number, (topic, words) in enumerate(topics.items(), start=1):
        start = len(text)
        text += f"Topic: {topic}\n\n{words.strip()}\n\n\n"
        pages.append(focusdoc.Page(number, topic, start, len(text)))
    return focusdoc.Document(text, tuple(pages), {"name": "The Python Language Reference", "format": "text"})


def first_pages(document: focusdoc.Document, count: int) -> focusdoc.Document:
    """The beginning of a document, as a document."""
    pages = document.pages[:count]
    return focusdoc.Document(document.text[: pages[-1].end], pages, document.metadata)


def main(arguments: list[str] | None = None) -> None:
    """Read, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", help="a PDF or text; without it, the Python language reference")
    parser.add_argument("questions", nargs="*", metavar="question", help="what to ask of it")
    parser.add_argument("--pages", type=int, metavar="N", help="read only the first N pages")
    options = parser.parse_args(arguments)
    if options.pages is not None and options.pages < 1:
        parser.error("--pages must be at least 1")

    document = focusdoc.load(Path(options.file)) if options.file else python_reference()
    questions = options.questions or (["What is this document about?"] if options.file else QUESTIONS)
    what = f"{document.name} ({len(document.pages):,} pages)"
    if options.pages and options.pages < len(document.pages):
        document = first_pages(document, options.pages)
        what += f", only its first {options.pages:,} pages"

    # A small model finds; a larger one writes, once `focusdoc models install qwen2.5-coder-1.5b-instruct` has run.
    engine = focusdoc.FocusEngine.from_pretrained(reader="auto")
    engine.require_adapter()

    print(f"Reading {what} ...", flush=True)
    begun = time.perf_counter()
    memory = engine.read(document)  # with a progress bar, on a terminal
    seconds = time.perf_counter() - begun
    size = f"{memory.num_tokens:,} tokens in {memory.num_chunks:,} chunks, {memory.num_bytes / 1e9:.2f} GB"
    if memory.tokens_encoded:
        print(f"Read {size}, in {seconds:.1f} s ({memory.tokens_encoded / seconds:,.0f} tokens/s).")
    else:
        print(f"Known already: {size}.")

    for question in questions:
        print(f"\nQ: {question}\nA: ", end="", flush=True)
        answer = None
        for piece in engine.stream(memory, question, max_new_tokens=48):
            print(piece, end="", flush=True)
            answer = piece.answer  # the last piece brings the whole answer
        print()
        for source in answer.sources:
            label = f" ({source.page_label})" if source.page_label else ""
            quote = " ".join(source.text.split())
            print(f"   page {source.page}{label}, {source.score:.0%}: {quote[:90]}{'...' if len(quote) > 90 else ''}")
        timings, usage = answer.timings, answer.usage
        print(
            f"   {usage.completion_tokens} token{'s' * (usage.completion_tokens != 1)} in {timings.total:.1f} s, "
            f"the first after {timings.first_token:.1f} s"
        )


if __name__ == "__main__":
    try:
        main()
    except focusdoc.FocusdocError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped.")
