"""Files of ours are written whole or not at all, and the cache is where the user wants it."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

from focusdoc import storage
from focusdoc.errors import ConfigError, FocusdocError


class TestCacheDir:
    def test_is_the_platforms_user_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FOCUSDOC_CACHE", raising=False)
        monkeypatch.setattr(platformdirs, "user_cache_path", lambda name, appauthor: tmp_path / name)
        assert storage.cache_dir() == tmp_path / "focusdoc"

    def test_the_variable_moves_it_and_it_is_private(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FOCUSDOC_CACHE", str(tmp_path / "deep" / "cache"))
        folder = storage.cache_dir()
        assert folder == tmp_path / "deep" / "cache"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    def test_refuses_a_place_it_cannot_make(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("FOCUSDOC_CACHE", str(tmp_path / "file" / "cache"))
        with pytest.raises(ConfigError, match=r"cannot be made .*set FOCUSDOC_CACHE"):
            storage.cache_dir()

    def test_refuses_a_place_it_cannot_write(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FOCUSDOC_CACHE", str(tmp_path))
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        with pytest.raises(ConfigError, match="not writable; set FOCUSDOC_CACHE"):
            storage.cache_dir()

    @pytest.mark.parametrize("home", [RuntimeError("no home"), Path("~/.cache/focusdoc")], ids=["new", "old"])
    def test_a_user_without_a_home_is_told_what_to_set(
        self, monkeypatch: pytest.MonkeyPatch, home: RuntimeError | Path
    ) -> None:
        """Versions of platformdirs raise, or leave the tilde, which would be a folder of that name."""

        def user_cache_path(*_: object, **__: object) -> Path:
            if isinstance(home, RuntimeError):
                raise home
            return home

        monkeypatch.delenv("FOCUSDOC_CACHE", raising=False)
        monkeypatch.setattr(platformdirs, "user_cache_path", user_cache_path)
        with pytest.raises(ConfigError, match="no home for a cache; set FOCUSDOC_CACHE"):
            storage.cache_dir()

    def test_a_path_under_a_home_that_is_not_there_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def expanduser(self: Path) -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "expanduser", expanduser)
        monkeypatch.setenv("FOCUSDOC_CACHE", "~/cache")
        with pytest.raises(ConfigError, match="~/cache begins with ~, but this user has no home"):
            storage.cache_dir()

    def test_where_it_is_can_be_asked_without_making_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FOCUSDOC_CACHE", str(tmp_path / "cache"))
        assert storage.cache_path() == tmp_path / "cache"
        assert not (tmp_path / "cache").exists()


class TestAtomicWrite:
    def test_writes_and_replaces(self, tmp_path: Path) -> None:
        target = tmp_path / "new" / "file"
        storage.atomic_write(target, b"one")
        storage.atomic_write(target, b"two")
        assert target.read_bytes() == b"two"
        assert list(target.parent.iterdir()) == [target]

    def test_a_failure_leaves_the_old_file_and_no_rubbish(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        target = tmp_path / "file"
        storage.atomic_write(target, b"old")

        def full_disk(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space"):
            storage.atomic_write(target, b"new")
        assert target.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [target]

    def test_writes_through_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "real").write_bytes(b"old")
        (tmp_path / "link").symlink_to(tmp_path / "real")
        storage.atomic_write(tmp_path / "link", b"new")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
class TestAtomicFolder:
    @pytest.fixture(autouse=True)
    def _way(self, exchange: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        if not exchange:
            monkeypatch.setattr(storage, "_exchange", lambda one, other: False)

    def test_appears_only_when_complete(self, tmp_path: Path) -> None:
        target = tmp_path / "new" / "folder"
        with storage.atomic_folder(target) as fresh:
            (fresh / "a").write_text("1")
            assert not target.exists()
        assert (target / "a").read_text() == "1"
        assert list(target.parent.iterdir()) == [target]

    def test_replaces_an_older_folder_with_all_it_held(self, tmp_path: Path) -> None:
        target = tmp_path / "folder"
        (target / "sub").mkdir(parents=True)
        (target / "sub" / "old").write_text("old")
        with storage.atomic_folder(target) as fresh:
            (fresh / "new").write_text("new")
            assert (target / "sub" / "old").read_text() == "old"
        assert [path.name for path in target.iterdir()] == ["new"]
        assert list(tmp_path.iterdir()) == [target]

    def test_a_failure_leaves_the_older_folder_and_no_rubbish(self, tmp_path: Path) -> None:
        target = tmp_path / "folder"
        target.mkdir()
        (target / "old").write_text("old")

        def interrupted() -> None:
            with storage.atomic_folder(target) as fresh:
                (fresh / "half").write_text("")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert [path.name for path in target.iterdir()] == ["old"]
        assert list(tmp_path.iterdir()) == [target]

    def test_a_file_in_its_place_stays(self, tmp_path: Path) -> None:
        target = tmp_path / "file"
        target.write_text("mine")
        with pytest.raises(NotADirectoryError, match="choose another name"), storage.atomic_folder(target):
            pass
        assert target.read_text() == "mine"
        assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges two names in one step")
def test_folders_are_exchanged_in_one_step(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
    assert storage._exchange(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "one" / "two").exists()
    assert (tmp_path / "two" / "one").exists()


def test_when_the_second_rename_fails_the_older_folder_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").write_text("old")
    monkeypatch.setattr(storage, "_exchange", lambda one, other: False)
    rename, calls = os.rename, []

    def second_fails(source: Path, destination: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        rename(source, destination)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(OSError, match="Input/output"), storage.atomic_folder(target) as fresh:
        (fresh / "new").write_text("new")
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    killed = storage._temp_beside(target)
    killed.mkdir()
    (killed / "big").write_text("")
    storage._temp_beside(target).write_text("")
    other = storage._temp_beside(tmp_path / "other")
    other.mkdir()
    storage.remove_leftovers(target)
    assert list(tmp_path.iterdir()) == [other]


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    assert storage.sha256_of(tmp_path / "file") == hashlib.sha256(b"x" * 100_000).hexdigest()


def test_a_lock_keeps_another_process_out_and_is_freed_when_its_holder_dies(tmp_path: Path) -> None:
    lock = tmp_path / "new" / "lock"
    code = (
        "import sys, time\nfrom focusdoc.storage import file_lock\n"
        "with file_lock(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(FocusdocError, match=r"lock for 0.1 seconds; wait"), storage.file_lock(lock, timeout=0.1):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with storage.file_lock(lock, timeout=5):
        pass
    with storage.file_lock(lock, timeout=0.1):  # released at the end of the block
        pass
