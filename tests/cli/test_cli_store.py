"""`focusdoc store`, and what ask and chat say of a document that is known."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cli_samples import Run


@pytest.fixture
def memories(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store's folder, in a cache of this test's own, with the store turned on."""
    monkeypatch.delenv("FOCUSDOC_STORE")
    return own_cache / "memories"


@pytest.fixture
def asked(memories: Path, run: Run, book: Path, tiny: list[str]) -> Path:
    """The store's folder after one question."""
    result = run("ask", book, "What?", *tiny, "--max-new-tokens", 2)
    assert result.exit_code == 0, result.stderr
    return memories


def damage(memories: Path) -> None:
    (path,) = memories.glob("*/*/chunks-0.safetensors")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_second_question_reads_nothing(run: Run, asked: Path, book: Path, tiny: list[str]) -> None:
    options = ["ask", book, "What?", *tiny, "--max-new-tokens", 6]
    known = run(*options)
    assert "known document, nothing to read; first token" in " ".join(known.stdout.split())
    assert " read in " not in known.stdout
    anew = run(*options, "--no-store")
    assert re.search(r"read in [\d.]+ s", " ".join(anew.stdout.split()))
    assert anew.stdout.partition("\n\n")[0] == known.stdout.partition("\n\n")[0]
    assert stat.S_IMODE(asked.stat().st_mode) == 0o700


def test_json_tells_how_many_tokens_were_read(run: Run, asked: Path, book: Path, tiny: list[str]) -> None:
    options = ["ask", book, "What?", *tiny, "--max-new-tokens", 1, "--json"]
    assert json.loads(run(*options).stdout)["documents"][0]["tokens_encoded"] == 0
    book.write_text(book.read_text() + "And then a storm came up. " * 4)
    assert json.loads(run(*options).stdout)["documents"][0]["tokens_encoded"] == 1204 + 104 - 4 * 256
    assert json.loads(run(*options, "--chunk-size", 300).stdout)["documents"][0]["tokens_encoded"] == 1308
    assert json.loads(run(*options, "--chunk-size", 300).stdout)["documents"][0]["tokens_encoded"] == 0


def test_chat_says_that_it_knows_the_document(run: Run, asked: Path, book: Path, tiny: list[str]) -> None:
    result = run("chat", book, *tiny, "--max-new-tokens", 2, input="What?\n")
    assert "book.txt: known document, nothing to read. Ask a question" in result.stdout
    assert re.search(r"Read book.txt in [\d.]+ s", run("chat", book, *tiny, "--no-store", input="/quit\n").stdout)


def test_no_store_leaves_nothing(run: Run, memories: Path, book: Path, tiny: list[str]) -> None:
    assert run("ask", book, "What?", *tiny, "--max-new-tokens", 1, "--no-store").exit_code == 0
    assert not memories.exists()


def test_the_variable_turns_it_off(
    run: Run, memories: Path, book: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOCUSDOC_STORE", "off")
    assert run("ask", book, "What?", *tiny, "--max-new-tokens", 1).exit_code == 0
    assert not memories.exists()


def test_a_store_that_cannot_be_written_is_one_line_and_the_answer_comes(
    memories: Path, book: Path, tiny: list[str]
) -> None:
    memories.parent.mkdir(parents=True)
    memories.write_text("in the way")
    command = [sys.executable, "-m", "focusdoc", "ask", str(book), "What?", *tiny, "--max-new-tokens", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0
    assert "Sources" in done.stdout
    (line,) = [line for line in done.stderr.splitlines() if "store" in line]
    assert line.startswith("The document store is off: ")


def test_list(run: Run, asked: Path) -> None:
    listed = run("store", "list")
    assert listed.exit_code == 0, listed.stderr
    assert re.search(
        r"book\.txt +tiny, float32, chunks of 256 +1,204 +\d+ kB +\d{4}-\d\d-\d\d \d\d:\d\d", listed.stdout
    )
    assert re.search(r"1 document, \d+ kB of at most 20\.0 GB, in ", listed.stdout)
    values = json.loads(run("store", "list", "--json").stdout)
    assert values["folder"] == str(asked)
    (entry,) = values["documents"]
    assert {"document": "book.txt", "model": "tiny", "tokens": 1204, "problem": None}.items() <= entry.items()
    assert entry["bytes"] == values["bytes"]
    assert Path(entry["folder"]).is_dir()


def test_list_of_nothing_and_of_rubbish(run: Run, memories: Path) -> None:
    assert run("store", "list").stdout.startswith("No document is stored in ")
    (memories / "group" / "entry").mkdir(parents=True)
    (memories / "group" / "entry" / "manifest.json").write_text("{")
    assert "(the manifest is damaged" in run("store", "list").stdout


def test_names_are_plain_text(run: Run, memories: Path, tmp_path: Path, tiny: list[str]) -> None:
    book = tmp_path / "[red]a[bold]\x1b[31m\udcff.txt"
    book.write_text("words " * 20)
    run("ask", book, "What?", *tiny, "--max-new-tokens", 1)
    for command in ("list", "verify"):
        result = run("store", command)
        assert result.exit_code == 0
        assert "\x1b" not in result.stdout
    assert "[red]a[bold][31m?.txt" in run("store", "list").stdout


def test_verify_finds_and_removes_damage(run: Run, asked: Path, book: Path, tiny: list[str]) -> None:
    good = run("store", "verify")
    assert (good.exit_code, good.stdout) == (0, "1 document checked, 0 damaged.\n")
    damage(asked)
    bad = run("store", "verify")
    assert bad.exit_code == 1
    assert "book.txt: chunks-0.safetensors is damaged (its checksum differs); removed; it will be read" in bad.stdout
    assert "1 document checked, 1 damaged." in bad.stdout
    assert json.loads(run("store", "verify", "--json").stdout) == {"checked": 0, "documents": []}
    again = run("ask", book, "What?", *tiny, "--max-new-tokens", 1, "--json")
    assert json.loads(again.stdout)["documents"][0]["tokens_encoded"] == 1204


def test_damage_is_noticed_without_verify(run: Run, asked: Path, book: Path, tiny: list[str]) -> None:
    options = ["ask", book, "What?", *tiny, "--max-new-tokens", 6, "--json"]
    known = json.loads(run(*options).stdout)
    damage(asked)
    read_again = json.loads(run(*options).stdout)
    assert read_again["documents"][0]["tokens_encoded"] == 1204
    assert read_again["answer"] == known["answer"]


def test_clear(run: Run, asked: Path) -> None:
    result = run("store", "clear", "--yes")
    assert result.exit_code == 0, result.stderr
    assert re.fullmatch(r"1 document removed, \d+ kB\.\n", result.stdout)
    assert [path.name for path in asked.glob("*/")] == [".readers"]
    assert json.loads(run("store", "clear", "--json").stdout) == {"removed": 0, "bytes": 0}


def test_list_loads_no_framework(asked: Path) -> None:
    code = (
        "import atexit, sys; atexit.register(lambda: print({'torch', 'transformers', 'numpy'} & set(sys.modules)))\n"
        "sys.argv = ['focusdoc', 'store', 'list']\nfrom focusdoc.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert "book.txt" in done.stdout
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


def test_a_limit_that_is_no_number_is_a_mistake(run: Run, memories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOCUSDOC_STORE_BYTES", "a lot")
    result = run("store", "list")
    assert result.exit_code == 2
    assert "FOCUSDOC_STORE_BYTES is 'a lot'; give a number of bytes" in result.stderr
