"""The examples run, on a tiny random model; their answers are nonsense then."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest

import focusdoc

ROOT = Path(__file__).parents[1]


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def book_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example, with a tiny model in the place of the default one."""
    samples = _load(ROOT / "tests" / "cli" / "cli_samples.py")
    folder = samples.save_tiny_model(tmp_path / "tiny")
    config = focusdoc.FocusConfig(chunk_size=1024, allow_untrained=True)
    engine = focusdoc.FocusEngine.from_pretrained(folder, config=config)
    monkeypatch.setattr(focusdoc.FocusEngine, "from_pretrained", lambda reader: engine)
    return _load(ROOT / "examples" / "qa_over_book.py")


def test_the_reference_is_one_book_with_a_page_for_each_topic(book_example: ModuleType) -> None:
    book = book_example.python_reference()
    assert len(book.text) > 300_000
    page = next(page for page in book.pages if page.label == "pass")
    assert book.text[page.start :].startswith('Topic: pass\n\nThe "pass" statement')
    words = ("nothing happens", "Division by zero raises", "binds more tightly than")
    assert all(word in book.text for word in words)


def test_three_questions_of_the_reference(book_example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    book_example.main(["--pages", "3"])
    printed = capsys.readouterr().out
    assert "only its first 3 pages" in printed
    for question in book_example.QUESTIONS:
        assert f"Q: {question}\nA: " in printed
    assert len(re.findall(r"\n   page \d \((?:assert|assignment|async)\), \d+%: ", printed)) >= 3
    assert len(re.findall(r"\n   48 tokens in [\d.]+ s, the first after ", printed)) == 3


def test_a_file_and_a_question(book_example: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("The keeper counts ships. " * 100)
    book_example.main([str(tmp_path / "book.txt"), "What is counted?"])
    assert "Q: What is counted?\nA: " in capsys.readouterr().out
    with pytest.raises(focusdoc.FocusdocError, match="no file"):
        book_example.main([str(tmp_path / "missing")])


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("ray", "grpc")),  # Ray alone does not bring its Serve
    reason="needs Ray Serve: pip install 'focusdoc[cluster]'",
)
def test_the_server_answers_behind_ray_serve(tmp_path: Path) -> None:
    samples = _load(ROOT / "tests" / "cli" / "cli_samples.py")
    model = samples.save_tiny_model(tmp_path / "tiny")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = ["--model", str(model), "--reader", "none", "--folder", str(tmp_path / "files"), "--port", str(port)]
    # A machine that is busy takes longer than Ray allows.
    environment = os.environ | {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, str(ROOT / "examples" / "ray_serve.py"), *given]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as api:
            until = time.monotonic() + 300
            while not _is_healthy(api):
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(1)
            file = api.post("/v1/files", data={"purpose": "user_data"}, files={"file": ("a.txt", b"Ships. " * 99)})
            part = {"type": "file", "file": {"file_id": file.json()["id"]}}
            message = {"role": "user", "content": [part, {"type": "text", "text": "What?"}]}
            lines = api.post(
                "/v1/chat/completions", json={"messages": [message], "max_tokens": 3, "stream": True}
            ).text.splitlines()
            assert lines[0].startswith("data: {")
            assert "data: [DONE]" in lines
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


def _is_healthy(api: httpx.Client) -> bool:
    try:
        return api.get("/health").status_code == 200
    except httpx.HTTPError:
        return False
