"""A Hugging Face hub in miniature on the loopback: what `datasets` asks for, answered from memory.

The real `datasets` and `huggingface_hub` are pointed at it by HF_ENDPOINT.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

Files = dict[str, bytes]
GATED = "gated/notes"


class Hub:
    """`repos`: name -> commit -> path -> bytes. `seen`: each request's method, path and token."""

    def __init__(self, repos: dict[str, dict[str, Files]]) -> None:
        self.repos = repos
        self.seen: list[tuple[str, str, str]] = []

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body) for one request."""
        parts = unquote(path.split("?")[0]).strip("/").split("/")
        if parts[0] == "api":
            parts = parts[1:]
        if parts[0] != "datasets" or len(parts) < 3:
            return 404, {}, b""
        name = f"{parts[1]}/{parts[2]}"
        if name == GATED:
            return 401, {"X-Error-Code": "GatedRepo"}, b""
        if name not in self.repos:
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        what, commit, *rest = [*parts[3:], "", ""]
        files = self.repos[name].get(commit)
        if files is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        inside = "/".join(part for part in rest if part)
        if what == "resolve":
            return self._file(files, inside, commit)
        if what == "paths-info":
            asked = json.loads(body)["paths"]
            return self._json([_entry(p, files) for p in asked if p in files or _is_dir(p, files)])
        if what == "tree":
            if inside and not _is_dir(inside, files):
                return 404, {"X-Error-Code": "EntryNotFound"}, b""
            under = [p for p in files if p.startswith(f"{inside}/" if inside else "")]
            folders = {
                "/".join(p.split("/")[:n]) for p in under for n in range(1, p.count("/") + 1)
            }
            folders = {f for f in folders if len(f) > len(inside)}
            return self._json([_entry(p, files) for p in sorted({*under, *folders})])
        if what == "revision":
            siblings = [{"rfilename": p} for p in files]
            return self._json({"id": name, "sha": commit, "siblings": siblings})
        return 404, {}, b""

    def _file(self, files: Files, path: str, commit: str) -> tuple[int, dict[str, str], bytes]:
        headers = {"X-Repo-Commit": commit}
        if path not in files:
            return 404, headers | {"X-Error-Code": "EntryNotFound"}, b""
        return 200, headers | {"ETag": f'"{_oid(files[path])}"'}, files[path]

    def _json(self, value: object) -> tuple[int, dict[str, str], bytes]:
        return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def _is_dir(path: str, files: Files) -> bool:
    return any(p.startswith(f"{path}/") for p in files)


def _entry(path: str, files: Files) -> dict[str, object]:
    if path in files:
        data = files[path]
        return {"type": "file", "path": path, "size": len(data), "oid": _oid(data)}
    return {"type": "directory", "path": path, "size": 0, "oid": _oid(path.encode())}


@contextmanager
def serve(hub: Hub) -> Iterator[str]:
    """The endpoint's address while the hub answers."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.seen.append((self.command, self.path, self.headers.get("Authorization") or ""))
            status, headers, data = hub.answer(self.command, self.path, body)
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_POST = handle_any

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
