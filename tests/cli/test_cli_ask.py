"""`focusdoc ask`: the answer, its sources, its numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cli_samples import Run, pdf


def test_answer_sources_and_numbers(run: Run, book: Path, tiny: list[str]) -> None:
    result = run("ask", book, "What does the keeper count?", *tiny, "--max-new-tokens", 12)
    assert result.exit_code == 0, result.stderr
    answer, _, rest = result.stdout.partition("\n\n")
    assert re.fullmatch("[!-~]{12}", answer)
    assert rest.startswith("Sources\n1. character ")
    assert "% into the text)" in rest
    assert "“" in rest
    assert re.search(r"\d+% of the attention", rest)
    assert "1,204 document tokens in 5 chunks" in " ".join(rest.split())
    assert re.search(r"12 of the answer; read in [\d.]+ s; first token after [\d.]+ s; then [\d.,]+ tokens/s\.", rest)
    assert "truncated at --max-new-tokens 12" in result.stderr


def test_the_plan_is_told_before_reading(run: Run, book: Path, tiny: list[str]) -> None:
    result = run("ask", book, "What?", *tiny, "--max-new-tokens", 2, "--no-store")
    assert re.search(r"book.txt: 1,204 tokens, [\d.]+ [kM]B of memory, about \d+ s\.", result.stderr)
    result = run("ask", book, "What?", *tiny, "--max-new-tokens", 2, "--no-store", "--memory-dtype", "int8")
    assert re.search(r"1,204 tokens, [\d.]+ [kM]B of memory in int8, about", result.stderr)
    result = run("ask", book, "What?", *tiny, "--memory-dtype", "int4")
    assert result.exit_code == 2
    assert "--memory-dtype is 'int4'" in result.stderr


def test_long_passages_are_shortened(run: Run, tmp_path: Path, tiny: list[str]) -> None:
    book = tmp_path / "words.txt"
    book.write_text("word " * 200)
    lines = run("ask", book, "Which?", *tiny, "--max-new-tokens", 2).stdout.splitlines()
    first, second = (index for index, line in enumerate(lines) if re.match(r"[12]\. ", line))
    assert second - first <= 4


def test_json_is_all_there_is_on_standard_output(run: Run, book: Path, tiny: list[str]) -> None:
    result = run("ask", book, "  What? ", *tiny, "--max-new-tokens", 5, "--json", "--chunk-size", 400)
    assert result.exit_code == 0, result.stderr
    values = json.loads(result.stdout)
    assert list(values) == [
        *(
            "documents",
            "model",
            "question",
            "answer",
            "found",
            "confidence",
            "steps",
            "finish_reason",
            "sources",
            "warnings",
            "usage",
            "timings",
        ),
    ]
    assert values["question"] == "What?"
    assert len(values["answer"]) == 5
    assert values["finish_reason"] == "length"
    document = {"name": "book.txt", "format": "text", "pages": None, "characters": 1204, "tokens": 1204, "chunks": 4}
    assert document.items() <= values["documents"][0].items()
    assert values["model"]["chunk_size"] == 400
    assert values["model"]["mode"] == "incremental"
    assert values["usage"]["completion_tokens"] == 5
    assert values["timings"].keys() == {"read", "first_token", "decode", "total"}
    source = values["sources"][0]
    assert source["text"] == book.read_text()[source["start"] : source["end"]]


def test_no_stream_prints_the_same(run: Run, book: Path, tiny: list[str]) -> None:
    streamed, whole = (run("ask", book, "What?", *tiny, "--max-new-tokens", 9, *more) for more in ([], ["--no-stream"]))
    assert whole.exit_code == 0, whole.stderr
    assert whole.stdout.partition("\n\n")[0] == streamed.stdout.partition("\n\n")[0] != ""


def test_paper_mode(run: Run, book: Path, tiny: list[str]) -> None:
    result = run("ask", book, "What?", *tiny, "--max-new-tokens", 3, "--paper", "--chunk-size", 300, "--json")
    assert result.exit_code == 0, result.stderr
    model = json.loads(result.stdout)["model"]
    assert (model["mode"], model["chunk_size"]) == ("refresh", 300)


def test_sampling_options_and_stop_strings(run: Run, book: Path, tiny: list[str]) -> None:
    options = ["ask", book, "What?", *tiny, "--max-new-tokens", 12, "--json"]
    drawing = ["--temperature", 1.5, "--top-p", 0.95, "--top-k", 50, "--repetition-penalty", 1.1, "--seed", 3]
    first, again = (json.loads(run(*options, *drawing).stdout)["answer"] for _ in range(2))
    greedy = json.loads(run(*options).stdout)["answer"]
    assert first == again != greedy
    ended = json.loads(run(*options, "--stop", "not there", "--stop", greedy[4:6]).stdout)
    assert ended["answer"] == greedy[: greedy.index(greedy[4:6])]
    assert ended["finish_reason"] == "stop"


def test_a_document_cannot_speak_to_the_terminal(run: Run, tmp_path: Path, tiny: list[str]) -> None:
    book = tmp_path / "[red]book.txt"
    book.write_text("[bold]loud[/bold] :smile: [/] \x1b[31mred\x1b[0m \x9b2J [link=http://x]y[/link]")
    result = run("ask", book, "What?", *tiny, "--max-new-tokens", 2)
    assert result.exit_code == 0, result.stderr
    assert "[bold]loud[/bold] :smile: [/] [31mred[0m" in result.stdout
    assert not set("\x1b\x9b") & set(result.stdout)


def test_pages_are_named_and_empty_ones_reported(run: Run, tmp_path: Path, tiny: list[str]) -> None:
    book = tmp_path / "pages.pdf"
    book.write_bytes(pdf(["", "The keeper counts ships. " * 8, "", ""]))
    result = run("ask", book, "What?", *tiny, "--max-new-tokens", 2)
    assert result.exit_code == 0, result.stderr
    assert "1. page 2  100% of the attention" in result.stdout
    assert "3 of 4 pages have no text" in result.stderr
    assert "(pages 1, 3-4)" in result.stderr


def test_several_files_are_several_documents(run: Run, book: Path, tmp_path: Path, tiny: list[str]) -> None:
    other = tmp_path / "pages.pdf"
    other.write_bytes(pdf(["The keeper counts ships. " * 8, "More of it"]))
    result = run("ask", book, other, "What?", *tiny, "--max-new-tokens", 2)
    assert result.exit_code == 0, result.stderr
    assert re.search(r"\d\. book.txt, character [\d,]+ \(\d+% into the text\)", result.stdout)
    assert re.search(r"\d\. pages.pdf, page 1  ", result.stdout)
    values = json.loads(run("ask", book, other, "What?", *tiny, "--max-new-tokens", 2, "--json").stdout)
    assert [document["name"] for document in values["documents"]] == ["book.txt", "pages.pdf"]
    assert {source["document"] for source in values["sources"]} == {"book.txt", "pages.pdf"}
    assert values["usage"]["document_tokens"] == sum(document["tokens"] for document in values["documents"])


def test_files_of_one_name_are_told_apart(run: Run, book: Path, tmp_path: Path, tiny: list[str]) -> None:
    (tmp_path / "old").mkdir()
    other = tmp_path / "old" / "book.txt"
    other.write_text("Another book. " * 20)
    values = json.loads(run("ask", book, other, "What?", *tiny, "--max-new-tokens", 2, "--json").stdout)
    assert [document["name"] for document in values["documents"]] == [str(book), str(other)]


@pytest.mark.parametrize("data", [b"The keeper counts ships. " * 9, pdf(["The keeper counts ships."])])
def test_a_dash_is_standard_input(run: Run, tiny: list[str], data: bytes) -> None:
    result = run("ask", "-", "What?", *tiny, "--max-new-tokens", 2, "--json", input=data)
    assert result.exit_code == 0, result.stderr
    values = json.loads(result.stdout)
    assert values["documents"][0]["name"] == "standard input"
    assert "keeper counts" in values["sources"][0]["text"]


def test_slides_are_named_by_their_titles_and_what_was_left_out_is_said(
    run: Run, tmp_path: Path, tiny: list[str]
) -> None:
    page = tmp_path / "page.html"
    page.write_text("<html><h2>Loomings</h2><p>Call me Ishmael.<h2>The Bag</h2>" + "<p>I stuffed a shirt. " * 9)
    result = run("ask", page, "What?", *tiny, "--max-new-tokens", 2)
    assert re.search(r"section [12] \((Loomings|The Bag)\)", result.stdout)
    letter = tmp_path / "letter.eml"
    parts = ["Content-Type: text/plain\n\nText", "Content-Disposition: attachment; filename=bill.pdf\n\nx"]
    body = "\n".join(f"--x\n{part}" for part in parts)
    letter.write_text(f"Subject: A\nContent-Type: multipart/mixed; boundary=x\n\n{body}\n--x--\n")
    result = run("ask", letter, "What?", *tiny, "--max-new-tokens", 2, "--json")
    assert "Note: letter.eml: its attachments were not read: bill.pdf." in result.stderr
    assert json.loads(result.stdout)["warnings"] == ["letter.eml: its attachments were not read: bill.pdf."]


class TestReader:
    """A second model writes the answer; the candidates of the first one find the passages."""

    def test_a_model_reads_what_the_other_found(self, run: Run, book: Path, tiny: list[str]) -> None:
        options = (*tiny, "--reader", tiny[1], "--max-new-tokens", 7, "--json")
        values = json.loads(run("ask", book, "What does the keeper count?", *options).stdout)
        assert values["model"]["reader"] == "tiny"
        assert values["usage"]["completion_tokens"] == 7
        assert values["usage"]["reader_tokens"] > 300
        assert all(source["text"].startswith("The keeper") for source in values["sources"])

    def test_where_it_cannot_be_reached_the_sources_are_shown(self, run: Run, book: Path, tiny: list[str]) -> None:
        result = run("ask", book, "What?", *tiny, "--reader", "http://127.0.0.1:9/v1", "--reader-model", "m")
        assert result.exit_code == 2
        assert result.stdout.strip().startswith("Sources\n1. character ")
        assert "No reader answers at http://127.0.0.1:9/v1" in result.stderr

    def test_an_endpoint_needs_a_model(self, run: Run, book: Path, tiny: list[str]) -> None:
        result = run("ask", book, "What?", *tiny, "--reader", "http://127.0.0.1:9/v1")
        assert result.exit_code != 0
        assert "--reader-model" in result.stderr
