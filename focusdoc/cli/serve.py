"""``focusdoc serve``: an OpenAI-compatible server over documents that are read only once."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from focusdoc.cli.dataclass_options import dataclass_options, option
from focusdoc.cli.display import note
from focusdoc.cli.loading import EngineOptions
from focusdoc.errors import ConfigError
from focusdoc.storage import cache_dir

_SERVER = "The server"
#: Seconds for running answers to finish after SIGTERM.
_GRACE = 30


@dataclass_options(without=("paper", "no_store", "quote_tokens"))
def serve(
    host: Annotated[
        str, option("The address to bind; any other than loopback needs --api-key-file.", _SERVER, "ADDRESS")
    ] = "127.0.0.1",
    port: Annotated[int, option("The port; 0 for a free one.", _SERVER, "N", min=0, max=65535)] = 8000,
    api_key_file: Annotated[
        Path | None,
        option("API keys, one per line; each sees only its own files. Without it, no key is needed.", _SERVER, "FILE"),
    ] = None,
    max_file_bytes: Annotated[int, option("Maximum bytes per upload.", _SERVER, "N", min=1)] = 200 << 20,
    max_concurrent: Annotated[int, option("Maximum concurrent answers.", _SERVER, "N", min=1)] = 4,
    cors: Annotated[
        list[str] | None,
        option(
            "A website whose pages may use the API from a browser, such as https://chat.example.org; repeatable.",
            _SERVER,
            "ORIGIN",
        ),
    ] = None,
    folder: Annotated[Path | None, option("The folder for uploads; by default in the cache.", _SERVER, "DIR")] = None,
    *,
    loading: EngineOptions,
) -> None:
    """Serve documents to clients of OpenAI's API: upload once, ask often, get answers with page numbers."""
    keys = _keys(api_key_file)
    if not keys and not _is_loopback(host):
        raise ConfigError(f"{host} is not loopback, which needs API keys; give --api-key-file.")
    try:
        import uvicorn

        from focusdoc.server.answers import ServerSettings
        from focusdoc.server.app import create_app
    except ImportError as error:
        raise ConfigError(f"A server needs the package {error.name}; run: pip install 'focusdoc[server]'") from error
    from focusdoc.chat.conversation import Chat
    from focusdoc.server.files import FileStore
    from focusdoc.server.library import Library

    library = Library(FileStore(folder or cache_dir() / "server", max_file_bytes), lambda: Chat(loading.load()))
    settings = ServerSettings(keys=keys, max_concurrent=max_concurrent, origins=_origins(cors or ()))
    app = create_app(library, settings, Path(loading.model).name if loading.model else "focusdoc")
    note(f"http://{host}:{port}/v1 is the base URL for clients; /docs documents the API.")
    uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=_GRACE)


def _keys(file: Path | None) -> tuple[str, ...]:
    """The API keys in a file; ConfigError if it cannot be read, or has no key or one of less than 16 characters."""
    if file is None:
        return ()
    try:
        keys = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The key file {file} cannot be read ({error}).") from error
    if not keys or any(len(key) < 16 for key in keys):
        raise ConfigError(f"{file} needs a key of at least 16 characters on each line.")
    return keys


def _origins(given: Sequence[str]) -> tuple[str, ...]:
    """The given origins; ConfigError if one is not as browsers send it: a scheme, a host and an optional port."""
    for origin in given:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.hostname or f"{parts.scheme}://{parts.netloc}" != origin:
            raise ConfigError(f"--cors {origin} is no origin; name each website, such as https://chat.example.org.")
    return tuple(given)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
