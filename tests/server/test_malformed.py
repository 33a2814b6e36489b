"""A thousand malformed requests and uploads: each is refused in a sentence, and nothing is left behind."""

from __future__ import annotations

import copy
import json
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from server_conftest import MAX_BYTES, Serve

JUNK: tuple[Any, ...] = (None, True, -1, 1e308, "", "\x00", "\ud800", [], {}, [[]], {"type": 7}, "x" * 5000, 2**70)
CHAT: dict[str, Any] = {
    "model": "tiny",
    "messages": [
        {
            "role": "user",
            "content": [{"type": "file", "file": {"file_id": "file-0"}}, {"type": "text", "text": "Who?"}],
        }
    ],
    "max_tokens": 1,
    "temperature": 0,
    "top_p": 1,
    "stop": ["."],
    "response_format": {"type": "text"},
    "stream_options": {"include_usage": True},
}
RESPONSE: dict[str, Any] = {
    "model": "tiny",
    "input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-0"}]}],
    "instructions": "Be brief.",
    "max_output_tokens": 1,
    "previous_response_id": "resp_0",
}
#: What uvicorn itself says of a method that its parser does not know.
NO_HTTP = "Invalid HTTP request received."
JSON = {"Content-Type": "application/json"}
Send = Callable[..., httpx.Response]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) below `value`."""
    if not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    return [place for key in keys for place in [(value, key), *places(value[key])]]


def json_with_junk(rng: random.Random) -> tuple[str, bytes]:
    path, valid = rng.choice([("chat/completions", CHAT), ("responses", RESPONSE)])
    body = copy.deepcopy(valid)
    for _ in range(rng.randint(1, 3)):
        found = places(body)
        if found:
            container, key = rng.choice(found)
            container[key] = copy.deepcopy(rng.choice(JUNK))
    return path, json.dumps(body).encode()


def broken_json(rng: random.Random) -> tuple[str, bytes]:
    path, body = json_with_junk(rng)
    cut = rng.randrange(len(body))
    return path, rng.choice([body[:cut], body[:cut] + rng.randbytes(9) + body[cut:], rng.randbytes(rng.randint(0, 99))])


def deep_json(rng: random.Random) -> tuple[str, bytes]:
    depth = rng.choice([50, 5_000, 200_000])
    nested = b"[" * depth + b"]" * rng.choice([depth, 0])
    return rng.choice(["chat/completions", "responses"]), b'{"messages": ' + nested + b', "input": ' + nested + b"}"


def upload(rng: random.Random) -> tuple[bytes, dict[str, str]]:
    """A multipart body that lacks something, and its headers."""
    name = rng.choice(["a.txt", "../../etc/passwd", "", "\x00", 'a"b', "x" * 3000])
    head = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
    whole = head + b"text\r\n--b--\r\n"
    bodies = [whole[: rng.randrange(len(whole))], head + rng.randbytes(50), b"--b--\r\n", rng.randbytes(80), b""]
    expiry = b'--b\r\nContent-Disposition: form-data; name="expires_after[seconds]"\r\n\r\nsoon\r\n'
    bodies += [expiry + whole, head + b"x" * (MAX_BYTES + (2 << 20)) + b"\r\n--b--\r\n"]
    kinds = [
        "multipart/form-data; boundary=b",
        "multipart/form-data",
        "application/json",
        "multipart/form-data; boundary=",
    ]
    return rng.choice(bodies), {"Content-Type": rng.choice(kinds)}


def send_one(rng: random.Random, api: httpx.Client) -> httpx.Response:
    kind = rng.choice(["junk", "junk", "broken", "broken", "deep", "upload", "upload", "path", "method"])
    if kind == "upload":
        body, headers = upload(rng)
        return api.post("files", content=body, headers=headers)
    if kind == "path":
        name = rng.choice(["file-0", "..%2F..%2Fetc%2Fpasswd", "%00", "x" * 3000, "file-" + "0" * 24, "%ff"])
        rest = rng.choice(["", "/content", "/events", "/pages/1", "/pages/-1", "/pages/x", "/pages/" + "9" * 400])
        return api.request(rng.choice(["GET", "DELETE"]), f"files/{name}{rest}")
    if kind == "method":
        return api.request(rng.choice(["PUT", "PATCH", "DELETE", "BREW"]), rng.choice(["files", "models", "responses"]))
    path, body = {"junk": json_with_junk, "broken": broken_json, "deep": deep_json}[kind](rng)
    headers = rng.choice([JSON, JSON, JSON, {}, {"Content-Type": "text/plain"}])
    return api.post(path, content=body, headers=headers)


@pytest.mark.slow
def test_each_is_refused_in_a_sentence(serve: Serve, tmp_path: Path) -> None:
    rng, refused = random.Random(7), 0
    with httpx.Client(base_url=serve(folder=tmp_path / "files"), timeout=30) as api:
        for number in range(1000):
            answer = send_one(rng, api)
            assert answer.status_code < 500, (number, answer.request.url, answer.request.content[:300], answer.text)
            if answer.status_code >= 400:
                refused += 1
                if answer.text == NO_HTTP:
                    continue
                message = answer.json()["error"]["message"]
                assert message, number
                assert "Traceback" not in message, message
                assert str(tmp_path) not in message, message
                assert "/focusdoc/" not in message, message
        assert refused >= 900
        for file in api.get("files").json()["data"]:
            api.delete(f"files/{file['id']}")
        assert api.get("models").status_code == 200
    assert list((tmp_path / "files").iterdir()) == []


@pytest.mark.slow
def test_what_is_no_http_is_refused_and_half_an_upload_leaves_nothing(serve: Serve, tmp_path: Path) -> None:
    url, rng = serve(folder=tmp_path / "files"), random.Random(7)
    where = urlsplit(url)
    head = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
    for number in range(100):
        sent = rng.choice(
            [
                rng.randbytes(200),
                b"GET / HTTP/9.9\r\n\r\n",
                b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
                head + b"Content-Length: 100000\r\n\r\n" + part + b"x" * 500,
                head + b"Transfer-Encoding: chunked\r\n\r\nfff\r\n" + part,
                head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + part,
            ]
        )
        with socket.create_connection((where.hostname, where.port), timeout=10) as line:
            line.sendall(sent)
            if number % 2:
                line.shutdown(socket.SHUT_WR)
                line.recv(1000)
    assert httpx.get(f"{url}/models").status_code == 200
    assert list((tmp_path / "files").iterdir()) == []
