"""A question-answering chain in LCEL over a text that does not fit into the model's window.

python examples/langchain_chain.py                              some topics of the Python reference
python examples/langchain_chain.py notes.txt "Who signed it?"   your text, and your questions
"""

import sys
from pathlib import Path

from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_focusdoc import ChatFocusLLM

import focusdoc

TOPICS = ("assert", "naming", "pass", "del", "debugger", "global")
#: Answered in the topics "debugger" and "naming".
QUESTIONS = [
    "Which module holds the Python debugger?",
    "What does a function without a return statement return?",
]
PROMPT = ChatPromptTemplate(
    [("system", "Answer the question from the context, briefly.\n\n{context}"), ("human", "{question}")]
)


def python_topics() -> str:
    """Some topics of the language reference that every CPython carries."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[topic].strip()[:6000] for topic in TOPICS)


def main(arguments: list[str] | None = None) -> None:
    """Build the chain, stream the answers, and show what was read for each."""
    file, *questions = arguments or [None]
    book = Path(file).read_text(encoding="utf-8") if file else python_topics()
    llm = ChatFocusLLM(max_tokens=24)  # the embedded default model; pass model= and adapter= for another
    chain = {"context": lambda _: book, "question": RunnablePassthrough()} | PROMPT | llm

    for question in questions or (["What is this text about?"] if file else QUESTIONS):
        print(f"\nQ: {question}\nA: ", end="", flush=True)
        message = None
        for piece in chain.stream(question):  # the book is read with the first question, and never again
            print(piece.content, end="", flush=True)
            message = piece if message is None else message + piece
        details = message.usage_metadata["input_token_details"]
        seconds = message.response_metadata["timings"]["total"]
        print(f"\n   {details['cache_creation']:,} tokens read, {details['cache_read']:,} remembered; {seconds:.1f} s")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (focusdoc.FocusdocError, OSError, ValueError) as error:
        sys.exit(f"Error: {error}")
