"""`focusdoc serve` as a process of its own: it starts, keeps what it has through a kill, and ends when asked to."""

from __future__ import annotations

import importlib.util
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_conftest import until
from test_server import STORY, asked, client, uploaded

from focusdoc.cli.main import app as commands

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options that choose a tiny model and its adapter."""
    path = Path(__file__).parents[1] / "cli" / "cli_samples.py"
    spec = importlib.util.spec_from_file_location("cli_samples", path)
    assert spec is not None
    assert spec.loader is not None
    samples: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(samples)
    folder = samples.save_tiny_model(tmp_path_factory.mktemp("serve") / "tiny")
    adapter = samples.save_untrained_adapter(folder, folder.parent / "adapter")
    return ["--model", str(folder), "--adapter", str(adapter), "--reader", "none", "--chunk-size", "64"]


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
        return number


@pytest.fixture
def start(model: list[str], tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts the command on `port`, and waits until it can answer; whatever still runs is killed in the end."""
    monkeypatch.setenv("FOCUSDOC_STORE", "on")
    monkeypatch.setenv("FOCUSDOC_CACHE", str(tmp_path / "cache"))
    running: list[subprocess.Popen[bytes]] = []

    def _start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "focusdoc", "serve", "--port", str(port), *model]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        running.append(process)

        def is_healthy() -> bool:
            assert process.poll() is None, process.stderr and process.stderr.read()
            try:
                return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
            except httpx.HTTPError:
                return False

        until(is_healthy, seconds=90)
        return process

    yield _start
    for process in running:
        process.kill()
        process.wait()


def test_what_is_there_outlives_a_kill(start: Start, port: int, tmp_path: Path) -> None:
    api = client(f"http://127.0.0.1:{port}/v1")
    process = start()
    file = uploaded(api)
    assert [model.id for model in api.models.list()] == ["tiny"]  # its name, and no path of the server
    before = asked(api, file).choices[0].message.content
    read_half = api.files.create(file=("long.txt", (STORY * 40).encode()), purpose="user_data")

    def upload() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="half.txt"\r\n\r\n' + b"a" * 100_000
        process.send_signal(signal.SIGKILL)
        process.wait()
        yield b"a" * 100_000

    with pytest.raises(httpx.HTTPError):
        httpx.post(
            f"http://127.0.0.1:{port}/v1/files",
            content=upload(),
            headers={"Content-Type": "multipart/form-data; boundary=x"},
        )
    start()
    assert {each.id for each in api.files.list()} == {file, read_half.id}
    assert sorted(path.name for path in (tmp_path / "cache" / "server").iterdir()) == sorted([file, read_half.id])
    assert api.files.wait_for_processing(file, poll_interval=0.05).status == "processed"
    assert asked(api, file).choices[0].message.content == before
    assert api.files.wait_for_processing(read_half.id, poll_interval=0.05).status == "processed"


def test_a_sigterm_lets_running_answers_end(start: Start, port: int) -> None:
    api = client(f"http://127.0.0.1:{port}/v1")
    process = start()
    file = uploaded(api)
    stream = asked(api, file, stream=True, extra_body={"max_completion_tokens": 60})
    next(iter(stream))
    threading.Timer(0.2, process.send_signal, [signal.SIGTERM]).start()
    *_, last = stream
    assert last.choices[0].finish_reason == "length"
    assert process.wait(timeout=40) in (0, -signal.SIGTERM)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--host", "0.0.0.0"], "--api-key-file"),
        (["--api-key-file", "missing"], "cannot be read"),
        (["--host", "books.example"], "--api-key-file"),
        (["--cors", "*"], "is no origin"),
        (["--cors", "chat.example"], "is no origin"),
        (["--cors", "https://chat.example/page"], "is no origin"),
    ],
)
def test_is_refused_before_anything_is_loaded(arguments: list[str], what: str) -> None:
    from typer.testing import CliRunner

    result = CliRunner().invoke(commands, ["serve", *arguments])
    assert result.exit_code == 2
    assert what in " ".join(result.output.split())


def test_short_keys_are_refused(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    (tmp_path / "keys").write_text("short\n")
    result = CliRunner().invoke(commands, ["serve", "--api-key-file", str(tmp_path / "keys")])
    assert "at least 16 characters" in " ".join(result.output.split())
