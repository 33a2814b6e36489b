"""Questions over a PDF with LlamaIndex, every answer with the pages that it came from.

python examples/llama_index_pdf_citations.py                                a small report, made on the spot
python examples/llama_index_pdf_citations.py report.pdf "Who signed it?"    your PDF, and your questions
"""

import sys
import tempfile
from pathlib import Path

from llama_index.llms.focusdoc import FocusLLM, FocusQueryEngine
from sample_pdf import write_sample_pdf

import focusdoc

#: Chosen among those that the small default model answers rightly; the README says what it cannot do.
QUESTIONS = ["What is the access code of Lima?", "Which town gave the clock?"]


def main(arguments: list[str] | None = None) -> None:
    """Read the file once, ask, and print answers with page labels and passages."""
    file, *questions = arguments or [None]
    # Small chunks, so that each page of the short report has one of its own; books want the default, 1,024 tokens.
    config = None if file else focusdoc.FocusConfig(chunk_size=128)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(file) if file else write_sample_pdf(Path(folder) / "report.pdf")
        engine = FocusQueryEngine.from_files([path], FocusLLM(config=config, max_new_tokens=24))
    print(f"Read {engine.read():,} new tokens of {path.name}.")
    for question in questions or (["What is this document about?"] if file else QUESTIONS):
        response = engine.query(question)
        print(f"\nQ: {question}\nA: {response}")
        for source in response.source_nodes:
            quote = " ".join(source.get_content().split())
            print(f"   page {source.metadata['page_label']}, {source.score:.0%}: {quote[:100]}")
        usage, seconds = response.metadata["usage"], response.metadata["timings"]["total"]
        print(f"   {usage['encoded_tokens']} tokens read, {usage['cached_tokens']:,} remembered; {seconds:.1f} s")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except focusdoc.FocusdocError as error:
        sys.exit(f"Error: {error}")
