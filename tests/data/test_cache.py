"""The cache: what is whole is read, what is not is made anew, and nobody else may look in."""

import json
import logging
import multiprocessing
import os
import stat
import time

import numpy as np
import pytest

from fedmem.data import cache as caches
from fedmem.data.cache import Cache, default_folder, in_memory
from fedmem.errors import DataError


def make(put):
    for start in (0, 5):
        put("ids", np.arange(start, start + 5, dtype=np.uint16))
    put("ends", np.array([4, 10], dtype=np.int64))
    put("none", np.empty(0, dtype=np.int32))
    return {"tasks": ["open"]}


def silent(text):
    pass


def check(entry):
    assert entry.arrays["ids"].tolist() == list(range(10))
    assert entry.arrays["ids"].dtype == np.uint16
    assert entry.arrays["ends"].tolist() == [4, 10]
    assert len(entry.arrays["none"]) == 0
    assert entry.extra == {"tasks": ["open"]}


def entries(folder):
    return [path for path in folder.iterdir() if path.is_dir()]


def test_an_entry_is_made_once(tmp_path):
    folder = tmp_path / "new" / "cache"
    first, again, other = (
        Cache(folder, silent).entry("tokens", {"file": name}, make) for name in "aab"
    )
    for entry in (first, again, other, in_memory(make)):
        check(entry)
    assert [first.made, again.made, other.made] == [True, False, True]
    assert len(entries(folder)) == 2
    with pytest.raises(ValueError, match="read-only"):
        again.arrays["ids"][0] = 1


def test_only_the_owner_may_look_in(tmp_path):
    folder = tmp_path / "cache"
    Cache(folder, silent).entry("tokens", {}, make)
    for path in [folder, *entries(folder)]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def cut(entry):
    file = entry / "ids.bin"
    file.write_bytes(file.read_bytes()[:-1])


def changed(entry):
    data = bytearray((entry / "ids.bin").read_bytes())
    data[3] ^= 1
    (entry / "ids.bin").write_bytes(data)


def without(entry):
    (entry / "entry.json").unlink()


def foreign(entry):
    told = json.loads((entry / "entry.json").read_text())
    (entry / "entry.json").write_text(json.dumps(told | {"key": "0" * 64}))


def torn(entry):
    (entry / "entry.json").write_bytes(b'{"key": "')


def another_thing(entry):
    (entry / "entry.json").write_text("[]")


@pytest.mark.parametrize("harm", [cut, changed, without, foreign, torn, another_thing])
def test_what_is_not_whole_is_made_anew(tmp_path, harm):
    Cache(tmp_path, silent).entry("tokens", {}, make)
    harm(*entries(tmp_path))
    mended, read = (Cache(tmp_path, silent).entry("tokens", {}, make) for _ in range(2))
    check(mended)
    check(read)
    assert (mended.made, read.made) == (True, False)


def test_a_make_that_fails_leaves_nothing(tmp_path):
    def broken(put):
        make(put)
        raise DataError("row 7")

    with pytest.raises(DataError, match="row 7"):
        Cache(tmp_path, silent).entry("tokens", {}, broken)
    assert entries(tmp_path) == []


def test_other_code_makes_another_entry(tmp_path, monkeypatch):
    Cache(tmp_path, silent).entry("tokens", {}, make)
    monkeypatch.setattr(caches, "_code", lambda: "changed")
    assert Cache(tmp_path, silent).entry("tokens", {}, make).made


def test_where_nothing_can_be_written_it_is_said_once(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "cache", silent)
    with caplog.at_level(logging.WARNING, "fedmem"):
        check(cache.entry("tokens", {}, make))
        check(cache.entry("tokens", {}, make))
    (line,) = caplog.messages
    assert "data.cache" in line
    assert "\n" not in line


def test_the_folder_is_by_default_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDMEM_CACHE", "/x")
    assert default_folder().as_posix() == "/x"
    monkeypatch.delenv("FEDMEM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/y")
    assert default_folder().as_posix() == "/y/fedmem"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder().as_posix().endswith("/.cache/fedmem")


def _slowly(folder, queue):
    def slow(put):
        queue.put(os.getpid())
        time.sleep(0.5)
        return make(put)

    check(Cache(folder, silent).entry("tokens", {}, slow))


def test_two_processes_make_it_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    both = [context.Process(target=_slowly, args=(tmp_path, queue)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert queue.get() in [process.pid for process in both]
    assert queue.empty()
