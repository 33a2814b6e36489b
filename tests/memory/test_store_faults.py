"""Whatever goes wrong with the document store is a miss or a warning, never a wrong answer and never an error."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from focusdoc.memory import entries, manifest, segments, store
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.store import DocumentStore
from focusdoc.modeling.base import BaseModel
from store_samples import (
    IDS,
    assert_fresh,
    flip,
    only_entry,
    read,
    read_through,
    sign,
)


class TestFaults:
    """Each: the entry is not used, it is removed, the answer is right, and the document is stored anew."""

    def recovers(self, folder: Path, base: BaseModel, encoded: int = 90) -> None:
        blocks, found = read(folder, base, IDS)
        assert found == encoded
        assert_fresh(blocks, base, IDS)
        assert read(folder, base, IDS)[1] == 0
        assert not any(entry.damaged for entry in entries.verify_entries(folder))

    @pytest.mark.parametrize("file", ["chunks-0.safetensors", "tail.safetensors", "manifest.json"])
    @pytest.mark.parametrize("place", [0.0, 0.05, 0.3, 0.7, 1.0])
    def test_a_byte_flipped(self, folder: Path, base: BaseModel, file: str, place: float) -> None:
        read(folder, base, IDS)
        path = only_entry(folder) / file
        flip(path, min(int(path.stat().st_size * place), path.stat().st_size - 2))
        self.recovers(folder, base)

    def test_a_byte_flipped_while_the_process_runs(self, folder: Path, base: BaseModel) -> None:
        kept = DocumentStore(folder)
        for encoded in (90, 0):
            assert read_through(kept, base, IDS)[1] == encoded
        flip(only_entry(folder) / "chunks-0.safetensors", 900)
        assert read_through(kept, base, IDS)[1] == 90

    def test_a_flip_in_any_slice_of_a_long_file(
        self, folder: Path, base: BaseModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(manifest, "_SLICE", 1000)
        read(folder, base, IDS)
        path = only_entry(folder) / "chunks-0.safetensors"
        assert read(folder, base, IDS)[1] == 0
        for place in (0, 999, 1000, 5555, path.stat().st_size - 1):
            flip(path, place)
            self.recovers(folder, base)
            path = only_entry(folder) / "chunks-0.safetensors"

    @pytest.mark.parametrize("file", ["chunks-0.safetensors", "tail.safetensors", "manifest.json"])
    @pytest.mark.parametrize("left", [0, 7, 100, -1])
    def test_a_file_truncated(self, folder: Path, base: BaseModel, file: str, left: int) -> None:
        read(folder, base, IDS)
        path = only_entry(folder) / file
        path.write_bytes(path.read_bytes()[: left if left >= 0 or file != "manifest.json" else -2])
        self.recovers(folder, base)

    @pytest.mark.parametrize("file", ["chunks-0.safetensors", "tail.safetensors", "manifest.json"])
    def test_a_file_gone(self, folder: Path, base: BaseModel, file: str) -> None:
        read(folder, base, IDS)
        (only_entry(folder) / file).unlink()
        blocks, encoded = read(folder, base, IDS)
        assert encoded == 90
        assert_fresh(blocks, base, IDS)

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "null", '{"checksum": 1}', "\x00" * 50, '{"manifest":{"format_version":1}}', "\xff"]
    )
    def test_json_damaged(self, folder: Path, base: BaseModel, text: str) -> None:
        read(folder, base, IDS)
        (only_entry(folder) / "manifest.json").write_bytes(text.encode("latin-1"))
        self.recovers(folder, base)

    @pytest.mark.parametrize(
        "change",
        [
            {"maker": "another model"},
            {"chunk_size": 8},
            {"format_version": 2},
            {"num_tokens": 91},
            {"num_tokens": 80},
            {"segments": []},
            {"unknown": 1},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_a_manifest_from_another_model_or_version(
        self, folder: Path, base: BaseModel, change: dict[str, Any]
    ) -> None:
        read(folder, base, IDS)
        sign(only_entry(folder), lambda body: body.update(change))
        self.recovers(folder, base)

    @pytest.mark.parametrize(
        "change",
        [
            {"dtype": "bfloat16"},
            {"shape": [2, 5, 2, 16, 4]},
            {"file": "../x.safetensors"},
            {"file": "/x.safetensors"},
            {"num_bytes": 3},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_a_manifest_that_describes_other_files(self, folder: Path, base: BaseModel, change: dict[str, Any]) -> None:
        read(folder, base, IDS)
        sign(only_entry(folder), lambda body: body["segments"][0].update(change))
        self.recovers(folder, base)

    def test_files_of_another_document(self, folder: Path, base: BaseModel) -> None:
        other = [*IDS[:16], *reversed(IDS[16:])]
        read(folder, base, IDS)
        mine = only_entry(folder)
        read(folder, base, other)
        (theirs,) = set(entries.entry_folders(folder)) - {mine}
        for path in theirs.iterdir():
            if path.suffix == ".safetensors":
                (mine / path.name).write_bytes(path.read_bytes())
        blocks, encoded = read(folder, base, IDS)
        assert encoded == 90 - 16  # the first chunk is the other's too
        assert_fresh(blocks, base, IDS)

    def test_a_writer_killed(self, folder: Path, base: BaseModel) -> None:
        read(folder, base, IDS[:32])
        code = (
            "import os, signal, sys\n"
            "from pathlib import Path\n"
            "from focusdoc.memory import store\n"
            "from store_samples import IDS, BaseModel, read\n"
            "from tiny_models import tiny_model\n"
            "write = store.write_segment\n"
            "def killed(path, blocks, num_chunks):\n"
            "    if path.name == 'tail.safetensors':\n"
            "        path.write_bytes(b'half')\n"
            "        os.kill(os.getpid(), signal.SIGKILL)\n"
            "    return write(path, blocks, num_chunks)\n"
            "store.write_segment = killed\n"
            "read(Path(sys.argv[1]), BaseModel(tiny_model()), IDS)\n"
        )
        died = subprocess.run([sys.executable, "-c", code, str(folder)], env=_environment(), check=False, timeout=120)
        assert died.returncode == -signal.SIGKILL
        assert len(list(folder.glob("*/.*"))) == 1  # its half-written entry
        assert len(entries.entry_folders(folder)) == 1
        self.recovers(folder, base, encoded=90 - 32)
        assert list(folder.glob("*/.*")) == []

    def test_two_processes_write_one_document(self, folder: Path, base: BaseModel) -> None:
        code = (
            "import sys\n"
            "from pathlib import Path\n"
            "from store_samples import IDS, BaseModel, read\n"
            "from tiny_models import tiny_model\n"
            "base = BaseModel(tiny_model()); base.fingerprint; print('ready', flush=True); sys.stdin.readline()\n"
            "print(*(read(Path(sys.argv[1]), base, IDS)[1] for _ in range(3)))\n"
        )
        command = [sys.executable, "-c", code, str(folder)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        both: list[subprocess.Popen[str]] = [
            subprocess.Popen(command, env=_environment(), **pipes)  # type: ignore[call-overload]  # of one kind
            for _ in range(2)
        ]
        try:
            for process in both:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
            for process in both:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            told = [process.communicate(timeout=120)[0].split() for process in both]
        finally:
            for process in both:
                process.kill()
        assert [counts[1:] for counts in told] == [["0", "0"], ["0", "0"]]
        assert {counts[0] for counts in told} <= {"0", "90"}
        only_entry(folder)
        self.recovers(folder, base, encoded=0)

    def test_a_store_locked_for_long(
        self, folder: Path, base: BaseModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(entries, "LOCK_SECONDS", 0.05)
        folder.mkdir(parents=True)
        kept = DocumentStore(folder)
        with entries.store_lock(folder):
            blocks, encoded = read_through(kept, base, IDS)
        assert encoded == 90
        assert_fresh(blocks, base, IDS)
        assert "is not stored: Another process has held" in caplog.text
        assert [read_through(kept, base, IDS)[1] for _ in range(2)] == [90, 0]  # it is not off for life

    @pytest.mark.parametrize(
        "number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO], ids=lambda number: errno.errorcode[number]
    )
    def test_a_full_or_read_only_disk(
        self,
        folder: Path,
        base: BaseModel,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        number: int,
    ) -> None:
        write = segments.write_segment

        def fails(path: Path, blocks: Sequence[MemoryBlock], num_chunks: int) -> manifest.Segment:
            if path.name != "tail.safetensors":
                return write(path, blocks, num_chunks)
            raise OSError(number, os.strerror(number))

        kept = DocumentStore(folder)
        with monkeypatch.context() as patch:
            patch.setattr(store, "write_segment", fails)
            for _ in range(3):
                blocks, encoded = read_through(kept, base, IDS)
                assert encoded == 90
                assert_fresh(blocks, base, IDS)
        (record,) = caplog.records  # said once
        assert record.levelno == logging.WARNING
        assert "The document store is off" in record.getMessage()
        assert os.strerror(number) in record.getMessage()
        assert entries.entry_folders(folder) == []
        assert list(folder.glob("*/.*")) == []
        self.recovers(folder, base)

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
    def test_a_read_only_folder_is_still_read_from(
        self, folder: Path, base: BaseModel, caplog: pytest.LogCaptureFixture
    ) -> None:
        read(folder, base, IDS)
        folder.chmod(0o500)
        try:
            assert read(folder, base, IDS)[1] == 0
            assert read(folder, base, IDS[::-1])[1] == 90
        finally:
            folder.chmod(0o700)
        assert "The document store is off" in caplog.text

    def test_a_store_that_is_only_read_is_found_in_and_left_as_it_is(
        self, folder: Path, base: BaseModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As one that was filled when a container's image was built; root may write everywhere, so it is only told."""
        read(folder, base, IDS)
        before = sorted(folder.rglob("*"))
        access = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and access(path, mode))
        kept = DocumentStore(folder)
        assert kept.free_space() is None
        blocks, encoded = read_through(kept, base, IDS)
        assert encoded == 0
        assert_fresh(blocks, base, IDS)
        assert sorted(folder.rglob("*")) == before

    def test_a_file_where_the_folder_should_be(
        self, folder: Path, base: BaseModel, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder.parent.mkdir()
        folder.write_text("")
        assert read(folder, base, IDS)[1] == 90
        assert "The document store is off" in caplog.text


def _environment() -> dict[str, str]:
    paths = str(Path(__file__).parents[1] / "helpers")
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def test_an_entry_that_is_evicted_while_it_is_opened_is_read_again(
    tmp_path: Path, base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(tmp_path, base, IDS)

    def gone(path: Path, **settings: Any) -> Any:
        shutil.rmtree(Path(path).parent)
        raise RuntimeError("unable to open file: No such file or directory (2)")  # as torch does

    with monkeypatch.context() as patch:
        patch.setattr(segments, "safe_open", gone)
        assert read(tmp_path, base, IDS)[1] == len(IDS)
    assert read(tmp_path, base, IDS)[1] == 0


def test_a_group_that_vanishes_while_entries_are_listed_is_skipped(
    tmp_path: Path, base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(tmp_path, base, IDS)
    read(tmp_path, base, IDS[1:])
    subfolders, calls = entries.subfolders, []

    def vanishing(folder: Path) -> list[Path]:
        found = subfolders(folder)
        if not calls:
            shutil.rmtree(found[0])
        calls.append(folder)
        return found

    monkeypatch.setattr(entries, "subfolders", vanishing)
    assert len(entries.entry_folders(tmp_path)) == 1


def test_documents_that_differ_in_their_last_chunk_alone_are_both_kept(tmp_path: Path, base: BaseModel) -> None:
    one, other = IDS, [*IDS[:-3], 4, 4, 4]
    for ids in (one, other):
        read(tmp_path, base, ids)
    assert [read(tmp_path, base, ids)[1] for ids in (one, other)] == [0, 0]
    grown = [*other, *IDS[:20]]
    read(tmp_path, base, grown)
    assert read(tmp_path, base, one)[1] == 0
