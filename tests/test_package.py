"""The package as a whole: quick to import, complete in its names, and layered: imports only point down."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import focusdoc
from focusdoc import errors

ROOT = Path(focusdoc.__file__).parent

#: The floors, lowest first. A module may import from its own part and from parts on lower floors.
FLOORS = [
    {"errors", "container", "terminal"},
    {"config", "storage", "texts", "attention"},
    {"modeling", "documents"},
    {"memory"},
    {"decoding"},
    {"training", "readers", "cluster"},
    {"engine"},
    {"chat", "evaluation"},
    {"focusdoc", "server"},  # the facade, __init__.py, beside the server
    {"cli"},
]


def part_of(module: str) -> str:
    """The part of the package that `module` belongs to: its folder or file right below ``focusdoc``."""
    names = module.split(".")
    part = names[1] if len(names) > 1 else names[0]
    return "cli" if part == "__main__" else part  # it only starts the command line


def module_name(path: Path) -> str:
    names = ["focusdoc", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def python_files() -> dict[str, Path]:
    return {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports_of(module: str, path: Path, known: set[str]) -> set[str]:
    """The modules of this package that `path` imports, anywhere in it: also inside functions and for types only."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            source = node.module or ""
            # `from package import module` imports the module.
            submodules = {f"{source}.{alias.name}" for alias in node.names} & known
            found |= submodules or {source}
    return {name for name in found if name.split(".")[0] == "focusdoc"} - {module}


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """For every module of the package, what it imports of the package."""
    files = python_files()
    return {module: imports_of(module, path, set(files)) for module, path in files.items()}


class TestImport:
    def test_is_quick_and_loads_no_framework(self) -> None:
        code = (
            "import sys, time; begun = time.perf_counter(); import focusdoc; seconds = time.perf_counter() - begun; "
            "print(seconds, *({'torch', 'transformers', 'numpy', 'pypdf', 'pydantic'} & sys.modules.keys()))"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        seconds, *loaded = run.stdout.split()
        assert loaded == []
        assert float(seconds) < 1

    def test_of_documents_and_settings_loads_no_framework(self) -> None:
        code = (
            "import sys, focusdoc; focusdoc.load_text('some text'); focusdoc.FocusConfig(); "
            "print(*({'torch', 'transformers'} & sys.modules.keys()))"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        assert run.stdout.split() == []


class TestNames:
    @pytest.mark.parametrize("name", focusdoc.__all__)
    def test_public_name_is_there(self, name: str) -> None:
        assert getattr(focusdoc, name).__name__.split(".")[-1] == name

    def test_are_all_listed(self) -> None:
        assert set(focusdoc.__all__) == set(focusdoc._HOMES)
        assert set(focusdoc.__all__) <= set(dir(focusdoc))
        assert sorted(focusdoc.__all__) == focusdoc.__all__

    def test_are_known_to_type_checkers_from_where_they_are_loaded(self) -> None:
        tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
        typed = {
            alias.name: node.module
            for block in tree.body
            if isinstance(block, ast.If)
            for node in block.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        assert typed == focusdoc._HOMES

    def test_an_unknown_name_is_an_attribute_error(self) -> None:
        with pytest.raises(AttributeError, match="no_such_name"):
            focusdoc.no_such_name  # noqa: B018

    def test_version_is_that_of_the_distribution(self) -> None:
        assert focusdoc.__version__ == version("focusdoc")

    def test_types_are_marked_as_published(self) -> None:
        assert (ROOT / "py.typed").is_file()

    def test_every_error_has_the_one_base_class(self) -> None:
        defined = [value for value in vars(errors).values() if isinstance(value, type)]
        assert len(defined) > 10
        assert all(issubclass(error, focusdoc.FocusdocError) and error.__doc__ for error in defined)


class TestLayers:
    def test_every_import_finds_its_module(self, imports: dict[str, set[str]]) -> None:
        assert set().union(*imports.values()) <= imports.keys()

    def test_every_part_has_a_floor(self, imports: dict[str, set[str]]) -> None:
        assert {part_of(module) for module in imports} <= set().union(*FLOORS)

    def test_imports_only_point_down(self, imports: dict[str, set[str]]) -> None:
        floor = {part: number for number, parts in enumerate(FLOORS) for part in parts}
        upward = [
            f"{module} imports {other}"
            for module, others in imports.items()
            for other in others
            if part_of(module) != part_of(other)
            and module != "focusdoc"  # the facade names the homes of its names, for type checkers only
            and floor[part_of(other)] >= floor[part_of(module)]
        ]
        assert upward == []

    def test_no_import_runs_in_a_circle(self, imports: dict[str, set[str]]) -> None:
        # A module inside a package may be imported by the package's own __init__.py; Python runs that one first.
        graph = {module: others for module, others in imports.items() if module != "focusdoc"}
        graphlib.TopologicalSorter(graph).prepare()
