"""The real `datasets` and `huggingface_hub`, pointed at a hub on the loopback, or at none."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fakehub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[3]
A, B, C = ("a" * 40, "b" * 40, "c" * 40)
TOKEN = "hf_neverToBeShown"
READ = """
import json, sys
from collections import Counter
from fedmem.config.sources import HubSource
from fedmem.data.adapters import read_records
from fedmem.errors import DataError
for text in sys.argv[1:]:
    source = HubSource(kind="hub", adapter="mmlu", **json.loads(text))
    try:
        print(json.dumps([r.id for r in read_records(source, None, "error", Counter())]))
    except DataError as error:
        print(error)
"""
MMLU = {"path": "cais/mmlu", "name": "anatomy", "split": "test", "revision": A}
README = b"""---
configs:
- config_name: anatomy
  data_files: [{split: test, path: anatomy/test-*}]
- config_name: virology
  data_files: [{split: test, path: virology/test-*}]
---
"""


def table(rows: int) -> bytes:
    row = {"question": "Which?", "subject": "anatomy", "choices": list("wxyz"), "answer": 2}
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row] * rows), file)
    return file.getvalue()


def read(home: Path, *sources: dict[str, Any], **environment: str) -> tuple[list[str], str]:
    """What a fresh process says about each source, and all that it wrote."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [sys.executable, "-c", READ, *map(json.dumps, sources)],
        env=kept | {"HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"} | environment,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stdout + done.stderr


@pytest.fixture(scope="module")
def hub() -> fakehub.Hub:
    files = {"anatomy/test-0.parquet": table(3), "virology/test-0.parquet": table(1)}
    return fakehub.Hub(
        {
            "cais/mmlu": {
                A: {"README.md": README, **files},
                B: {"anatomy/test/0000.parquet": table(2), "virology/test/0000.parquet": table(1)},
            },
            "old/script": {
                A: {"README.md": b"# made by a script", "script.py": b"raise SystemExit"}
            },
        }
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, hub: fakehub.Hub) -> Path:
    """A cache into which one commit of one configuration was loaded."""
    home = tmp_path_factory.mktemp("huggingface")
    with fakehub.serve(hub) as url:
        said, everything = read(home, MMLU, HF_ENDPOINT=url, HF_TOKEN=TOKEN)
    assert said == ['["row-1", "row-2", "row-3"]']
    assert everything.strip() == said[0]  # no progress bars, no warnings
    return home


def test_a_commit_is_loaded_with_the_token_and_what_it_needs(home, hub):
    assert any(token == f"Bearer {TOKEN}" for *_, token in hub.seen)
    assert not [path for _, path, _ in hub.seen if "virology" in path]


def test_the_cache_a_parquet_twin_and_what_cannot_be_had(home, hub):
    twin = {"path": "cais/mmlu", "data_dir": "anatomy", "split": "test", "revision": B}
    wrong = [
        ({"path": "no/such", "revision": A}, "doesn't exist on the Hub or cannot be accessed"),
        (MMLU | {"name": "x"}, "'x' not found. Available: ['anatomy', 'virology']; check `name`"),
        (MMLU | {"split": "train"}, "\"train\". Should be one of ['test']"),
        (MMLU | {"name": None}, "Config name is missing"),
        (MMLU | {"revision": C}, f"Revision '{C}' doesn't exist"),
        ({"path": fakehub.GATED, "revision": A}, "for a gated set give HF_TOKEN"),
        ({"path": "old/script", "revision": A}, "refs/convert/parquet: data_dir: default, no `na"),
    ]
    before = len(hub.seen)
    with fakehub.serve(hub) as url:
        asked = [MMLU, *[source for source, _ in wrong], twin]
        said, everything = read(home, *asked, HF_ENDPOINT=url, HF_TOKEN=TOKEN)
    assert said[0] == '["row-1", "row-2", "row-3"]'
    assert "no/such" in hub.seen[before][1]  # for the set in the cache nothing was asked
    for line, (source, text) in zip(said[1:-1], wrong, strict=True):
        assert line.startswith(f"hub:{source['path']}@")
        assert text in line
    assert said[-1] == '["row-1", "row-2"]'
    assert TOKEN not in everything
    assert "SystemExit" not in everything


def test_offline_only_the_commit_in_the_cache_is_read(home):
    others = [MMLU | {"revision": C}, MMLU | {"name": "virology"}, MMLU | {"path": "no/such"}]
    said, everything = read(home, MMLU, *others, HF_HUB_OFFLINE="1", HF_TOKEN=TOKEN)
    assert said[0] == '["row-1", "row-2", "row-3"]'
    assert len(said) == 4
    for line in said[1:]:  # never another commit's records in their place
        assert "HF_HUB_OFFLINE=1 is set" in line
        assert "copy the cache (HF_HOME)" in line
        assert "kind: parquet or jsonl" in line
    assert TOKEN not in everything
