"""The server of `focusdoc serve` behind Ray Serve, which watches it, restarts it and gives it an address in a cluster.

    pip install 'focusdoc[server,cluster]'
    python examples/ray_serve.py                 # http://127.0.0.1:8000/v1
    python examples/ray_serve.py --api-key-file keys.txt --host 0.0.0.0

One replica: uploads are on its disk and memories in its RAM.
"""

import argparse
from pathlib import Path

from fastapi import FastAPI
from ray import serve

from focusdoc import Chat, FocusEngine
from focusdoc.server.answers import ServerSettings
from focusdoc.server.app import create_app
from focusdoc.server.files import FileStore
from focusdoc.server.library import Library
from focusdoc.storage import cache_dir

MAX_FILE_BYTES = 200 << 20


def application(model: str | None, reader: str, keys: tuple[str, ...], folder: Path) -> FastAPI:
    """The application over a model that loads in the background."""
    library = Library(
        FileStore(folder, MAX_FILE_BYTES),
        lambda: Chat(FocusEngine.from_pretrained(model, reader=None if reader == "none" else reader)),
    )
    return create_app(library, ServerSettings(keys=keys), Path(model).name if model else "focusdoc")


def main() -> None:
    """Serve until it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="as for focusdoc serve")
    parser.add_argument("--reader", default="auto", help="as for focusdoc serve")
    parser.add_argument("--folder", type=Path, default=cache_dir() / "server", help="for uploads")
    parser.add_argument("--api-key-file", type=Path, help="one key on each line; needed beyond loopback")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args()
    keys = tuple(args.api_key_file.read_text(encoding="utf-8").split()) if args.api_key_file else ()
    if args.host not in ("127.0.0.1", "localhost") and not keys:
        parser.error(f"{args.host} is not loopback, which needs API keys; give --api-key-file")
    serve.start(http_options={"host": args.host, "port": args.port, "location": "HeadOnly"})

    def build() -> FastAPI:  # called in the replica, so nothing large is sent to it
        return application(args.model, args.reader, keys, args.folder)

    replica = serve.deployment(num_replicas=1, max_ongoing_requests=100)(serve.ingress(build)())
    serve.run(replica.bind(), blocking=True)


if __name__ == "__main__":
    main()
