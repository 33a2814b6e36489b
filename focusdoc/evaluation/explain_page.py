"""An `Explanation` as a self-contained HTML page and as a PNG."""

from __future__ import annotations

import html

from focusdoc.evaluation import plots
from focusdoc.evaluation.explain import Explanation
from focusdoc.evaluation.report import document, picture
from focusdoc.terminal import plain

#: Columns of a heat map; the local context shows its last ones, the chunks those with the most attention.
MAX_COLUMNS = 48
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#222;"
    "background:#fff}img{max-width:100%;height:auto}figure{margin:1rem 0}figcaption,.note{color:#666;font-size:.85rem}"
    ".answer{font-size:1.1rem;border-left:4px solid #c33;padding-left:.8rem}"
    ".page{white-space:pre-wrap;overflow-wrap:anywhere;border:1px solid #ddd;margin:.6rem 0;padding:.6rem;"
    "font-size:.85rem;max-height:22rem;overflow-y:auto}h3{margin:1.2rem 0 0;font-size:1rem}"
    "ol.sources li{margin:.4rem 0}"
)


def explanation_png(explanation: Explanation) -> bytes:
    """The three heat maps below one another: candidates, local tokens, and chunk mass."""
    return plots.heat_maps(_panels(explanation))


def explanation_page(explanation: Explanation) -> str:
    """The page: question and answer, the heat maps, and the document coloured by chunk mass; all text is escaped."""
    found = explanation
    body = [
        f"<h1>{_text(found.document.name)}</h1>",
        f"<p><b>{_text(found.question)}</b></p><p class='answer'>{_text(found.answer.strip())}</p>",
        picture(explanation_png(found), f"Attention behind the answer, {_where(found)}"),
        "<h2>Sources</h2><ol class='sources'>",
        *(f"<li>page {one.page}, {one.score:.0%}: {_text(one.text)}</li>" for one in found.sources),
        "</ol><h2>The document by chunk mass</h2>",
        "<p class='note'>The stronger the colour, the more of the attention that the answer paid to all candidates "
        "went to the candidate of that chunk.</p>",
        *_pages(found),
    ]
    return document(f"{found.document.name}: {found.question}", "\n".join(body), _STYLE)


def _pages(found: Explanation) -> list[str]:
    shares, strongest = found.chunk_shares, max(found.chunk_shares)
    of_page = found.page_shares()
    parts: list[str] = []
    for page in found.document.pages:
        if page.end == page.start:
            continue
        named = f"Page {page.number}" + (
            f" ({_text(page.label)})" if page.label not in (None, str(page.number)) else ""
        )
        parts.append(f"<h3>{named}: {of_page[page.number]:.1%}</h3><div class='page'>")
        for chunk, share in zip(found.chunks, shares, strict=True):
            start, end = max(page.start, chunk.char_start), min(page.end, chunk.char_end)
            if start < end:
                alpha = share / strongest if strongest else 0.0
                title = f"chunk {chunk.index}: {share:.1%}"
                text = _text(found.document.text[start:end])
                parts.append(
                    f'<span title="{title}" style="background:rgba(220,60,40,{0.6 * alpha:.3f})">{text}</span>'
                )
        parts.append("</div>")
    return parts


def _panels(found: Explanation) -> list[plots.Panel]:
    rows = [_label(token) for token in found.answer_tokens]
    best = sorted(found.masses.sum(dim=0).topk(min(MAX_COLUMNS, len(found.chunks))).indices.tolist())
    chunks = [str(found.chunks[index].index) for index in best]
    last = min(MAX_COLUMNS, len(found.local_tokens))
    first = len(found.local_tokens) - last
    where = _where(found)
    return [
        plots.Panel(f"Attention to the candidates, {where}", found.candidates[:, best].tolist(), rows, chunks, "chunk"),
        plots.Panel(
            f"Attention to the last {last} local tokens, {where}",
            found.local[:, first:].tolist(),
            rows,
            [_label(token) for token in found.local_tokens[first:]],
            "local token",
        ),
        plots.Panel(
            "Chunk mass of every token of the answer, all layers and heads",
            found.masses[:, best].tolist(),
            rows,
            chunks,
            "chunk",
        ),
    ]


def _where(found: Explanation) -> str:
    layer = "all layers" if found.layer is None else f"layer {found.layer}"
    head = "all heads" if found.head is None else f"head {found.head}"
    return f"{layer}, {head}"


def _label(token: str) -> str:
    """A token as a label: what cannot be seen is shown as a mark, and nothing is taken for a formula."""
    return plain(token).replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·").replace("$", r"\$") or "∅"


def _text(text: str) -> str:
    return html.escape(plain(text), quote=True)
