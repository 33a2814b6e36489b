"""Several processes of one run: what each is told, who is heard, and that none stays behind."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from focusdoc.errors import ConfigError, TrainingError
from focusdoc.training import processes
from focusdoc.training.processes import launch, under_launcher


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_GRACE", 1.0)


def program(tmp_path: Path, body: str) -> list[str]:
    """A command that runs `body`, which knows its `index` and the `folder` to write to."""
    path = tmp_path / "program.py"
    path.write_text(
        "import json, os, pathlib, signal, sys, time\n"
        f"index = int(os.environ['RANK'])\nfolder = pathlib.Path({str(tmp_path)!r})\n" + body
    )
    return [sys.executable, str(path)]


def alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


def test_each_process_knows_its_place_and_where_they_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(processes, "num_cpus", lambda: 7)
    command = program(tmp_path, "(folder / f'{index}.json').write_text(json.dumps(dict(os.environ)))")
    assert launch(3, command) == 0
    told = [json.loads((tmp_path / f"{index}.json").read_text()) for index in range(3)]
    assert [each["RANK"] for each in told] == [each["LOCAL_RANK"] for each in told] == ["0", "1", "2"]
    assert len({(each["MASTER_ADDR"], each["MASTER_PORT"]) for each in told}) == 1
    assert {(each["WORLD_SIZE"], each["LOCAL_WORLD_SIZE"], each["OMP_NUM_THREADS"]) for each in told} == {
        ("3", "3", "2")
    }
    assert not under_launcher()


def test_the_main_process_alone_is_heard(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    launch(2, program(tmp_path, "print(f'out {index}'); print(f'err {index}', file=sys.stderr)"))
    assert capfd.readouterr() == ("out 0\n", "err 0\n")


def test_where_all_fail_alike_the_main_one_has_told_it(tmp_path: Path) -> None:
    assert launch(2, program(tmp_path, "time.sleep(0.3 * (1 - index)); sys.exit(2)")) == 2


def test_one_that_fails_alone_ends_the_run_with_its_last_words(tmp_path: Path) -> None:
    body = (
        "(folder / f'{index}').write_text(str(os.getpid()))\n"
        "if index == 1: sys.exit('first line\\nno memory')\n"
        "time.sleep(60)"
    )
    begun = time.monotonic()
    with pytest.raises(TrainingError, match="Process 2 of 3 exited with status 1: no memory"):
        launch(3, program(tmp_path, body))
    assert time.monotonic() - begun < 30
    assert not any(alive(int((tmp_path / name).read_text())) for name in ("0", "2") if (tmp_path / name).exists())


def test_one_that_is_killed_is_named_whatever_the_main_one_says(tmp_path: Path) -> None:
    body = "os.kill(os.getpid(), signal.SIGKILL) if index else (time.sleep(0.5), sys.exit(1))"
    with pytest.raises(TrainingError, match="exited with status -9: no message"):
        launch(2, program(tmp_path, body))


def test_ctrl_c_reaches_each_once_and_is_waited_for(tmp_path: Path) -> None:
    body = (
        "heard = []\n"
        "signal.signal(signal.SIGINT, lambda *_: heard.append(1))\n"
        "(folder / f'ready{index}').touch()\n"
        "while not heard: time.sleep(0.05)\n"
        "time.sleep(0.3)\n"
        "(folder / f'heard{index}').write_text(str(len(heard)))\n"
        "sys.exit(130)"
    )

    def interrupt() -> None:
        while not all((tmp_path / f"ready{index}").exists() for index in range(2)):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    threading.Thread(target=interrupt, daemon=True).start()
    assert launch(2, program(tmp_path, body)) == 130
    assert [(tmp_path / f"heard{index}").read_text() for index in range(2)] == ["1", "1"]
    assert signal.getsignal(signal.SIGINT) is before


def test_no_process_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="processes is 0"):
        launch(0, ["unused"])
