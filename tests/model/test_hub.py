"""Bases by name: from the local cache, from a hub (a small server here), refused, out of reach."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tiny import config

from fedmem.config import model as cfg
from fedmem.errors import ConfigError, DataError
from fedmem.model.hub import is_hub_name
from fedmem.model.state import get_arrays
from fedmem.versions import environment

NAME, REVISION = "org/tiny", "0123456789abcdef0123456789abcdef01234567"
SECRET = "hf_neverShowThis"
FETCH = """
import sys
from pathlib import Path
from fedmem.config.model import Model
from fedmem.errors import FedmemError
from fedmem.model.hub import fetch
try:
    print(fetch(Model(base=sys.argv[1], revision=sys.argv[2]), lambda text: print(text)))
except FedmemError as error:
    print(f"{type(error).__name__}: {error}")
"""


def fetched(cache: Path, **environment: str) -> str:
    """What another process says that fetches the base: huggingface_hub reads its variables once."""
    env = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("HF_") and "proxy" not in key.lower()
    }
    env |= {"HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": SECRET}
    done = subprocess.run(
        [sys.executable, "-c", FETCH, NAME, REVISION],
        env=env | environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert SECRET not in done.stdout + done.stderr
    return done.stdout.strip()


def snapshot(cache: Path) -> Path:
    return cache / "models--org--tiny" / "snapshots" / REVISION


def fill(cache: Path, base: Path) -> None:
    shutil.copytree(base, snapshot(cache))


@contextmanager
def hub(base: Path, refuse: int | None = None) -> Iterator[tuple[str, list[str]]]:
    """A hub that holds the base (and a pickle) under NAME, or answers every request `refuse`."""
    files = {file.name: file.read_bytes() for file in base.iterdir()}
    files["pytorch_model.bin"] = b"never to be asked for"
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            name = self.path.split("?")[0].rsplit("/", 1)[-1]
            if refuse:
                self.answer(refuse, b"{}", {"X-Error-Code": "GatedRepo"} if refuse == 403 else {})
            elif "/revision/" in self.path:
                about = {"id": NAME, "sha": REVISION, "siblings": []}
                self.answer(200, json.dumps(about).encode(), {})
            elif "/tree/" in self.path:
                tree = [
                    {"type": "file", "path": n, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
                    for n, b in files.items()
                ]
                self.answer(200, json.dumps(tree).encode(), {})
            elif name in files:
                tag = hashlib.sha1(files[name]).hexdigest()
                self.answer(200, files[name], {"ETag": f'"{tag}"', "X-Repo-Commit": REVISION})
            else:
                self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})

        do_HEAD = do_GET

        def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_cached_base_needs_no_network(base_folder: Path, tmp_path: Path) -> None:
    fill(tmp_path, base_folder)
    assert fetched(tmp_path, HF_HUB_OFFLINE="1") == str(snapshot(tmp_path))
    # online too: nothing is asked, or this closed port would be noticed
    assert fetched(tmp_path, HF_ENDPOINT="http://127.0.0.1:9") == str(snapshot(tmp_path))


def test_a_cached_base_loads_as_the_folder_does(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    from fedmem.model.base import load

    fill(tmp_path, base_folder)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    named, tokenizer = load(cfg.Model(base=NAME, revision=REVISION, method="full"), 0)
    plain, _ = load(config(base_folder, model={"method": "full"}).model, 0)
    one, other = get_arrays(named), get_arrays(plain)
    assert all(one[name].tobytes() == other[name].tobytes() for name in other)
    assert tokenizer.is_fast


def test_what_is_not_cached_says_how_to_get_it(tmp_path: Path) -> None:
    for variables in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        said = fetched(tmp_path, **variables).splitlines()[-1]
        assert said.startswith("DataError: model.base: org/tiny ")
        assert f"`hf download {NAME} --revision {REVISION}`" in said and "local folder" in said


def test_a_torn_cache_is_no_base(base_folder: Path, tmp_path: Path) -> None:
    fill(tmp_path, base_folder)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (snapshot(tmp_path) / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "not in the local cache" in fetched(tmp_path, HF_HUB_OFFLINE="1")


def test_a_download_takes_safetensors_and_leaves_pickles(base_folder: Path, tmp_path: Path) -> None:
    with hub(base_folder) as (url, asked):
        said = fetched(tmp_path, HF_ENDPOINT=url).splitlines()
    assert said[0] == "downloading org/tiny" and said[-1] == str(snapshot(tmp_path))
    assert any("100 % of" in line for line in said)
    for file in base_folder.iterdir():
        assert (snapshot(tmp_path) / file.name).read_bytes() == file.read_bytes()
    assert not any(".bin" in path for path in asked)


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_hub_that_refuses_is_told_in_one_line(
    base_folder: Path, tmp_path: Path, status: int
) -> None:
    with hub(base_folder, refuse=status) as (url, _):
        said = fetched(tmp_path, HF_ENDPOINT=url).splitlines()[-1]
    assert said.startswith("DataError: model.base: ") and NAME in said
    if status in (401, 403):
        assert "HF_TOKEN" in said and "terms" in said


@pytest.mark.parametrize(
    ("base", "revision", "error", "says"),
    [
        ("tiny", None, ConfigError, "no hub name"),
        ("org/tiny", None, ConfigError, r"no folder org/tiny; if .* model\.revision"),
        ("./org/tiny", None, DataError, "no folder"),
        ("/models/tiny", REVISION, DataError, "no folder"),
        ("a/b/c", REVISION, DataError, "no folder"),
        ("bundled", REVISION, ConfigError, "leave the revision away"),
    ],
)
def test_a_wrong_name_is_told_from_a_wrong_folder(
    base: str, revision: str | None, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        is_hub_name(cfg.Model(base=base, revision=revision))
    assert is_hub_name(cfg.Model(base=NAME, revision=REVISION))


def test_a_manifest_holds_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert SECRET not in json.dumps(environment(1))


def test_a_folder_takes_no_revision(base_folder: Path) -> None:
    assert not is_hub_name(cfg.Model(base=str(base_folder)))
    with pytest.raises(ConfigError, match=r"model\.revision"):
        is_hub_name(cfg.Model(base=str(base_folder), revision=REVISION))
