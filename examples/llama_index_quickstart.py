"""LlamaIndex over texts that do not fit into the model's window: every node in one prompt, read once.

python examples/llama_index_quickstart.py                              some topics of the Python reference
python examples/llama_index_quickstart.py notes.txt "Who signed it?"   your text, and your questions
"""

import sys
from pathlib import Path

from llama_index.core import Document, Settings, SummaryIndex
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.llms.focusdoc import FocusLLM

import focusdoc

TOPICS = ("assert", "naming", "pass", "del", "debugger", "global")
#: Answered in the topics "debugger" and "naming".
QUESTIONS = [
    "Which module holds the Python debugger?",
    "What does a function without a return statement return?",
]


def python_topics() -> list[Document]:
    """Some topics of the language reference that every CPython carries."""
    from pydoc_data.topics import topics

    return [Document(text=topics[topic].strip()[:6000], metadata={"topic": topic}) for topic in TOPICS]


def main(arguments: list[str] | None = None) -> None:
    """Build an index, ask, and show what was read for each question."""
    file, *questions = arguments or [None]
    documents = [Document(text=Path(file).read_text(encoding="utf-8"))] if file else python_topics()
    questions = questions or (["What is this text about?"] if file else QUESTIONS)

    counter = TokenCountingHandler()
    Settings.callback_manager = CallbackManager([counter])
    Settings.llm = FocusLLM(max_new_tokens=24)  # the embedded default model; pass model= and adapter= for another
    Settings.tokenizer = Settings.llm.tokenizer  # LlamaIndex counts as the model does

    # The window is as long as the memory, so "compact" puts every node into one prompt, which ends in the question.
    engine = SummaryIndex.from_documents(documents).as_query_engine(response_mode="compact")
    print(f"A window of {Settings.llm.metadata.context_window:,} tokens; reading {len(documents)} texts ...")
    for question in questions:
        print(f"\nQ: {question}\nA: {engine.query(question)}")
        counted = counter.llm_token_counts[-1]
        print(f"   {counted.prompt_token_count:,} tokens in the prompt, {counted.completion_token_count} in the answer")

    chat = Settings.llm.focus.get()
    print(f"\nRemembered and not read again: {len(chat.pool)} text(s) in {chat.pool.num_bytes / 1e6:.0f} MB.")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (focusdoc.FocusdocError, OSError) as error:
        sys.exit(f"Error: {error}")
