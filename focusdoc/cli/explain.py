"""``focusdoc explain``: where an answer looked, as a page and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from focusdoc.cli import options
from focusdoc.cli.display import errors, output, write
from focusdoc.cli.loading import EngineOptions, check_question, open_documents, read
from focusdoc.storage import atomic_write

_OUTPUT = "Output"


def explain(
    file: options.File,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question, in quotes.", show_default=False)],
    layer: Annotated[
        int | None, typer.Option(metavar="N", help="The layer to show, 0 for the first; without it, the mean of all.")
    ] = None,
    head: Annotated[
        int | None, typer.Option(metavar="N", help="The head to show, 0 for the first; without it, the mean of all.")
    ] = None,
    html: Annotated[
        Path,
        typer.Option(metavar="FILE", help="The page; a PNG of its figures goes beside it.", rich_help_panel=_OUTPUT),
    ] = Path("explanation.html"),
    max_new_tokens: options.MaxNewTokens = 32,
    model: options.Model = None,
    adapter: options.Adapter = "auto",
    chunk_size: options.ChunkSize = None,
    paper: options.Paper = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    password: options.Password = None,
    no_store: options.NoStore = False,
) -> None:
    """Ask one question and show what each token of the answer attended to (the paper's Figures 7 and 8)."""
    engine_options = EngineOptions(
        model=model,
        adapter=adapter,
        chunk_size=chunk_size,
        paper=paper,
        device=device,
        dtype=dtype,
        store=not no_store,
    )
    question = check_question(question)
    documents = open_documents([file], password)
    engine = engine_options.load()
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
    write(f"{found.answer.strip()}\n")
    output.print(f"The page is {html}, its figures are {png}.", style="dim", markup=False, soft_wrap=True)
