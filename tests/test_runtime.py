"""What is set before JAX starts, each in a process of its own: it acts, and its variable turns it off."""

import json
import os
import platform
import subprocess
import sys

import pytest
from tiny import write

from mnet_jax import experiment, jobs, results, runtime, sweep

FAULTS = """
import resource
from mnet_jax import runtime
runtime.start()
def touch(): bytearray(b"x") * (64 << 20)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5): touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
"""Page faults of memory that the process had before."""

COUNTS = """
import collections, json, pathlib, sys
import jax
from mnet_jax import runtime, worker
events = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event.rsplit("/")[-1]]))
runtime.start()
status = worker.work([pathlib.Path(sys.argv[1])])
print()
print(json.dumps([status, events["compile_requests_use_cache"], events["cache_hits"]]))
"""
"""Exit status, programs that JAX asked the cache for, and those that it got."""


def run(code, *arguments, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "MNET_JAX"))}
    process = [sys.executable, "-c", code, *arguments]
    environment = kept | {"JAX_PLATFORMS": "cpu"} | environment
    out = subprocess.run(process, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator only")
def test_freed_memory_stays_with_the_process_unless_told_not_to():
    off = run(FAULTS, MNET_JAX_KEEP_MEMORY="0")
    assert off > 100
    assert run(FAULTS) < off / 10


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(runtime.ctypes, "CDLL", None)
    assert runtime.keep_memory() is False


@pytest.mark.parametrize(
    ("platforms", "installed", "cpu"),
    [("cpu", True, True), ("cuda", False, False), ("", True, False), ("", False, True)],
)
def test_memory_is_kept_on_a_cpu_only(monkeypatch, platforms, installed, cpu):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr(runtime.importlib.util, "find_spec", lambda _: object() if installed else None)
    assert runtime.on_cpu() == cpu


def test_the_second_worker_compiles_nothing_and_trains_the_same_bits(tmp_path):
    file, cache, rows = write(tmp_path), str(tmp_path / "cache"), []
    plan = sweep.plan(experiment.load(file), "digits", {"seeds": "1", "train.epochs": "1"}, "train", "")
    for workdir in (tmp_path / "first", tmp_path / "second"):
        jobs.write(workdir, plan)
        status, asked, hits = run(COUNTS, str(workdir), XDG_CACHE_HOME=cache)
        assert (status, hits) == (0, asked if rows else 0)
        assert asked > 3
        rows.append([results.comparable(row) for row in results.read_rows(workdir, plan)])
    assert rows[0] == rows[1]


def test_programs_of_other_cpus_and_thread_counts_have_their_own_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("NPROC", raising=False)
    folders = {runtime.programs_folder()}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(1000)), raising=False)
    folders.add(runtime.programs_folder())
    monkeypatch.setattr(runtime.platform, "machine", lambda: "another")
    folders.add(runtime.programs_folder())
    assert len(folders) == 3
    assert {folder.parent for folder in folders} == {tmp_path / "mnet_jax" / "jax"}


def test_a_damaged_program_is_compiled_again(tmp_path):
    code = """
import warnings, pathlib, sys
from mnet_jax import runtime
runtime.start()
import jax
with warnings.catch_warnings(record=True) as caught:
    print(float(jax.jit(lambda x: x * 2)(21.0)))
for entry in runtime.programs_folder().iterdir(): entry.write_bytes(entry.read_bytes()[:100])
"""
    assert [run(code, XDG_CACHE_HOME=str(tmp_path)) for _ in range(2)] == [42.0, 42.0]
    assert any(tmp_path.rglob("*-cache"))


def test_the_variable_stores_nothing(tmp_path):
    code = "from mnet_jax import runtime; runtime.start(); import jax; print(float(jax.jit(lambda x: x * 2)(21.0)))"
    assert run(code, XDG_CACHE_HOME=str(tmp_path), MNET_JAX_COMPILATION_CACHE="0") == 42.0
    assert not any(tmp_path.iterdir())
