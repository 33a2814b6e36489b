"""Answers with citations in LangChain: passages by the model's own attention, no index and no embeddings.

python examples/langchain_citations.py                                a small report, made on the spot
python examples/langchain_citations.py report.pdf "Who signed it?"    your PDF, and your questions
"""

import sys
import tempfile
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_focusdoc import ChatFocusLLM, FocusRetriever
from sample_pdf import write_sample_pdf

import focusdoc

#: Chosen among those that the small default model answers rightly; the README says what it cannot do.
QUESTIONS = ["What is the access code of Lima?", "Which town gave the clock?"]
PROMPT = ChatPromptTemplate([("human", "{passages}\n\nQuestion: {question}\nAnswer briefly.")])


def as_text(passages: list[Document]) -> str:
    """The passages as one text for the prompt."""
    return "\n\n".join(passage.page_content for passage in passages)


def main(arguments: list[str] | None = None) -> None:
    """Find passages, answer from them, and print both."""
    file, *questions = arguments or [None]
    # Small chunks, so that each page of the short report has one of its own; books want the default, 1,024 tokens.
    llm = ChatFocusLLM(config=None if file else focusdoc.FocusConfig(chunk_size=128), max_tokens=24)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(file) if file else write_sample_pdf(Path(folder) / "report.pdf")
        retriever = FocusRetriever.from_files([path], llm, k=3)
    answer = {"passages": lambda given: as_text(given["passages"]), "question": lambda given: given["question"]}
    chain = {"passages": retriever, "question": RunnablePassthrough()} | RunnablePassthrough.assign(
        answer=answer | PROMPT | llm
    )
    for question in questions or (["What is this document about?"] if file else QUESTIONS):
        found = chain.invoke(question)
        print(f"\nQ: {question}\nA: {found['answer'].content}")
        for passage in found["passages"]:
            quote = " ".join(passage.page_content.split())
            print(f"   page {passage.metadata['page_label']}, {passage.metadata['score']:.0%}: {quote[:100]}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (focusdoc.FocusdocError, ValueError) as error:
        sys.exit(f"Error: {error}")
