"""What the OpenAPI document allows never makes the server fail."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from server_conftest import Serve


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("schemathesis") is None, reason="schemathesis is not installed")
def test_no_request_of_the_schema_is_a_server_error(serve: Serve, tmp_path: Path) -> None:
    url = serve(max_waiting=1000).removesuffix("/v1")
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"),
        *("--checks", "not_a_server_error", "--max-examples", "25", "--seed", "7", "--request-timeout", "30"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "generated" in done.stdout, done.stdout[-4000:]
