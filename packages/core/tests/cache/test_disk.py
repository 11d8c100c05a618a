from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetile import cache, environment
from dovetile.cache import DiskCache
from dovetile.cache.disk import _decode, _encode
from dovetile.errors import ArgumentError, DovetileWarning


@pytest.fixture
def disk(tmp_path) -> DiskCache:
    return DiskCache(str(tmp_path / "cache"), 2**20)


def files(disk: DiskCache) -> list[Path]:
    return [path for path in Path(disk.directory).rglob("*") if path.is_file()]


def test_what_is_put_is_got(disk):
    assert disk.get("kernel", "key") is None
    disk.put("kernel", "key", {"name": "x", "sizes": [1, 2]}, b"\x00\xffcode")
    assert disk.get("kernel", "key") == ({"name": "x", "sizes": [1, 2]}, b"\x00\xffcode")
    assert disk.get("beam", "key") is None
    assert disk.get("kernel", "other") is None
    disk.put("kernel", "key", {}, b"")
    assert disk.get("kernel", "key") == ({}, b"")
    assert len(files(disk)) == 1


def test_the_users_random_numbers_stay_as_they_are(tmp_path):
    random.seed(1)
    expected = random.getstate()
    DiskCache(str(tmp_path), 2**20).put("kernel", "key", {}, b"code")
    assert random.getstate() == expected


@given(st.text(), st.dictionaries(st.text(), st.integers() | st.text()), st.binary())
def test_encoding_round_trips(key, header, payload):
    if any(0xD800 <= ord(character) < 0xE000 for character in key):
        return  # lone surrogates have no bytes
    assert _decode(_encode(key, header, payload)) == (key, header, payload)


@settings(max_examples=300)
@given(st.data())
def test_any_damage_is_noticed(data):
    entry = bytearray(_encode("key", {"a": 1}, b"payload"))
    position = data.draw(st.integers(0, len(entry) - 1))
    entry[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError):
        _decode(bytes(entry))
    with pytest.raises(ValueError):
        _decode(bytes(entry[:position]))


@pytest.mark.parametrize("damage", [b"", b"garbage", b"\x00" * 100])
def test_a_damaged_entry_is_a_miss_and_is_removed(disk, damage, capsys):
    disk.put("kernel", "key", {}, b"code")
    files(disk)[0].write_bytes(damage)
    with environment.context(DEBUG=1):
        assert disk.get("kernel", "key") is None
    assert "removed a damaged entry" in capsys.readouterr().err
    assert files(disk) == []
    disk.put("kernel", "key", {}, b"code")
    assert disk.get("kernel", "key") == ({}, b"code")


def test_an_entry_under_a_foreign_key_is_a_miss(disk):
    disk.put("kernel", "key", {}, b"code")
    (path,) = files(disk)
    other = Path(disk._path("kernel", "other"))
    other.parent.mkdir(exist_ok=True)
    path.rename(other)
    assert disk.get("kernel", "other") is None


def test_the_least_recently_used_go_first(disk):
    for i in range(10):
        disk.put("kernel", str(i), {}, bytes(1000))
    for age, entry in enumerate(sorted(disk.entries(), key=lambda e: e.path)):
        os.utime(entry.path, (time.time() - 7200 - age,) * 2)
    oldest_first = sorted(disk.entries(), key=lambda e: e.used)
    # A hit makes the oldest the newest.
    key = next(k for k in map(str, range(10)) if disk._path("kernel", k) == oldest_first[0].path)
    assert disk.get("kernel", key) is not None
    DiskCache(disk.directory, 6000).sweep()
    kept = {entry.path for entry in disk.entries()}
    assert oldest_first[0].path in kept
    assert sum(entry.nbytes for entry in disk.entries()) <= 6000
    assert all(entry.path not in kept for entry in oldest_first[1:4])


def test_the_size_stays_bounded_while_writing(tmp_path):
    disk = DiskCache(str(tmp_path), 100_000)
    for i in range(400):
        disk.put("kernel", str(i), {}, bytes(1000))
    total = sum(entry.nbytes for entry in disk.entries())
    assert 50_000 < total < 110_000
    assert disk.get("kernel", "399") is not None


def test_many_short_processes_stay_bounded_too(tmp_path):
    for i in range(400):
        DiskCache(str(tmp_path), 100_000).put("kernel", str(i), {}, bytes(1000))
    assert sum(e.nbytes for e in DiskCache(str(tmp_path), 1).entries()) < 200_000


def test_an_entry_larger_than_the_bound_is_not_stored(tmp_path):
    disk = DiskCache(str(tmp_path), 100)
    disk.put("kernel", "key", {}, bytes(1000))
    assert disk.get("kernel", "key") is None
    assert list(disk.entries()) == []


def test_no_bytes_means_no_cache(tmp_path):
    disk = DiskCache(str(tmp_path / "cache"), 0)
    disk.put("kernel", "key", {}, b"")
    assert disk.get("kernel", "key") is None
    assert not (tmp_path / "cache").exists()


def test_a_full_disk_costs_the_cache_and_one_warning(disk, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    disk.put("kernel", "before", {}, b"")
    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(DovetileWarning, match="No space left.*DOVETILE_CACHE_DIR"):
        disk.put("kernel", "key", {}, b"code")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        disk.put("kernel", "key", {}, b"code")
        assert disk.get("kernel", "key") is None
    assert disk.get("kernel", "before") == ({}, b"")
    assert len(files(disk)) == 1  # no temporary is left behind


def test_a_folder_that_cannot_be_made_costs_the_cache_and_one_warning(tmp_path):
    (tmp_path / "file").write_text("in the way")
    disk = DiskCache(str(tmp_path / "file"), 2**20)
    with pytest.warns(DovetileWarning) as caught:
        disk.put("kernel", "key", {}, b"")
        assert disk.get("kernel", "key") is None
    assert len(caught) == 1


def test_the_folder_is_private(disk):
    disk.put("kernel", "key", {}, b"")
    assert os.stat(disk.directory).st_mode & 0o077 == 0


def test_abandoned_temporaries_are_swept(disk):
    disk.put("kernel", "key", {}, b"")
    (path,) = files(disk)
    old, new = path.with_name("old.tmp"), path.with_name("new.tmp")
    for temporary in (old, new):
        temporary.write_bytes(b"half")
    os.utime(old, (0, 0))
    disk.sweep()
    assert not old.exists() and new.exists()
    assert len(list(disk.entries())) == 1


def test_clear(disk):
    for namespace in ("kernel", "kernel", "beam"):
        disk.put(namespace, namespace, {}, b"")
        disk.put(namespace, "other", {}, b"")
    assert disk.clear("kernel") == 2
    assert {entry.namespace for entry in disk.entries()} == {"beam"}
    assert disk.clear() == 2
    assert disk.clear() == 0


@pytest.mark.parametrize("namespace", ["", "..", "a/b", "Kernel"])
def test_namespaces_cannot_leave_the_folder(disk, namespace):
    with pytest.raises(ArgumentError):
        disk.put(namespace, "key", {}, b"")
    with pytest.raises(ArgumentError):
        disk.get(namespace, "key")


def test_the_module_follows_the_environment(tmp_path):
    with environment.context(DOVETILE_CACHE_DIR=str(tmp_path)):
        cache.put("kernel", "key", {"a": 1}, b"code")
        assert cache.get("kernel", "key") == ({"a": 1}, b"code")
        with environment.context(DOVETILE_CACHE_BYTES=0):
            assert cache.get("kernel", "key") is None


def test_processes_share_a_folder(tmp_path):
    # All write and read the same few keys; each value tells its key, so a torn read would show.
    code = f"""
import random
from dovetile.cache import DiskCache
disk = DiskCache({str(tmp_path)!r}, 40_000)
for step in range(300):
    key = str(random.randrange(20))
    disk.put("kernel", key, {{"key": key}}, key.encode() * random.randrange(1000))
    found = disk.get("kernel", str(random.randrange(20)))
    if found is not None:
        header, payload = found
        assert payload == header["key"].encode() * (len(payload) // len(header["key"])), found
"""
    processes = [subprocess.Popen([sys.executable, "-W", "error", "-c", code]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert not list(tmp_path.rglob("*.tmp"))
