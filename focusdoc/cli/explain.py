"""``focusdoc explain``: show the attention behind an answer as an HTML page and a PNG."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from focusdoc.cli import options
from focusdoc.cli.dataclass_options import dataclass_options, option
from focusdoc.cli.display import errors, say, write
from focusdoc.cli.loading import EngineOptions, check_question, open_documents, read
from focusdoc.storage import atomic_write


@dataclass_options(without=("reader", "reader_model", "memory_dtype", "quote_tokens"))
def explain(
    file: options.File,
    question: options.Question,
    layer: Annotated[int | None, option("The layer to show, from 0; without it, the mean over all.", None, "N")] = None,
    head: Annotated[int | None, option("The head to show, from 0; without it, the mean over all.", None, "N")] = None,
    html: Annotated[Path, option("The page; a PNG is written next to it.", "Output", "FILE")] = Path(
        "explanation.html"
    ),
    max_new_tokens: options.MaxNewTokens = 32,
    password: options.Password = None,
    *,
    loading: EngineOptions,
) -> None:
    """Answer a question and show what each token of the answer attended to (the paper's Figures 7 and 8)."""
    question = check_question(question)
    documents = open_documents([file], password)
    engine = replace(loading, reader="none").load()
    engine.check_question(question, max_new_tokens=max_new_tokens)
    from focusdoc.evaluation.explain import check_layer_and_head, explanation_page, explanation_png
    from focusdoc.evaluation.explain import explain as explained

    check_layer_and_head(engine, layer, head)
    (memory,), _ = read(engine, documents)
    with errors.status("Thinking"):
        found = explained(engine, memory, question, layer=layer, head=head, max_new_tokens=max_new_tokens)
        page, picture = explanation_page(found), explanation_png(found)
    atomic_write(html, page.encode())
    png = html.with_suffix(".png")
    atomic_write(png, picture)
    write(f"{found.answer.text.strip()}\n")
    say(f"The page is {html}, its figures are {png}.", "dim")
