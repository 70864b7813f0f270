"""The compiled depthwise convolution equals lax wherever it is called, and its absence is no failure."""

import logging
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax

from mnet_jax.ops import native
from mnet_jax.ops.depthwise import depthwise, resolved

needs_compiler = pytest.mark.skipif(bool(native.unavailable()), reason=native.unavailable())
ONES = ((1, 1), (1, 1))
sides = st.tuples(st.integers(0, 4), st.integers(0, 4))


def normal(seed, *shape, dtype="float32"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def gradients(x, k, stride, padding, way):
    """y and the gradients to x and k of a loss whose own gradient varies from place to place."""

    def loss(x, k):
        y = depthwise(x, k, stride, padding, way)
        return jnp.sum(jnp.sin(y)), y

    (_, y), (dx, dk) = jax.value_and_grad(loss, (0, 1), has_aux=True)(x, k)
    return y, dx, dk


def assert_close(got, expected, tolerance):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
        assert np.linalg.norm(a - b) <= tolerance * max(np.linalg.norm(b), 1)


@needs_compiler
@settings(max_examples=15, derandomize=True, deadline=None)
@given(
    size=st.tuples(st.integers(1, 3), st.integers(1, 19), st.integers(1, 19), st.integers(1, 70)),
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    stride=st.integers(1, 3),
    padding=st.tuples(sides, sides),
)
def test_native_equals_lax(size, kernel, stride, padding):
    assume(min(n + sum(p) - k for n, p, k in zip(size[1:3], padding, kernel, strict=True)) >= 0)
    with jax.enable_x64(True):
        x, k = normal(0, *size, dtype="float64"), normal(1, *kernel, size[-1], dtype="float64")
        expected = gradients(x, k, stride, padding, "lax")
        assert_close(gradients(x, k, stride, padding, "native"), expected, 1e-12)
        single = gradients(x.astype("float32"), k.astype("float32"), stride, padding, "native")
        assert {leaf.dtype for leaf in single} == {jnp.dtype("float32")}
        assert_close(single, expected, 1e-5)


@needs_compiler
@pytest.mark.parametrize("channels", [255, 256, 257, 700])
def test_channels_are_cut_into_chunks(channels):
    x, k = normal(0, 2, 5, 6, channels), normal(1, 3, 3, channels)
    assert_close(gradients(x, k, 2, ONES, "native"), gradients(x, k, 2, ONES, "shift"), 1e-5)


@needs_compiler
def test_gradients_of_gradients_equal_lax():
    """Every pair of operands, in both orders: the kernel's three operations are each other's gradients."""

    def twice(way):
        def first(x, k):
            _, dx, dk = gradients(x, k, 2, ((0, 1), (1, 1)), way)
            return jnp.sum(jnp.sin(dx)) + jnp.sum(jnp.cos(dk))

        return jax.grad(first, (0, 1))(normal(0, 2, 6, 7, 5, dtype="float64"), normal(1, 3, 3, 5, dtype="float64"))

    with jax.enable_x64(True):
        assert_close(twice("native"), twice("lax"), 1e-12)


@needs_compiler
@pytest.mark.parametrize("stride", [1, 2])
def test_a_loop_over_steps_for_several_seeds_equals_single_runs(stride):
    """vmap over seeds (and over arms outside it), a loop and donated buffers around values and gradients."""

    def step(x, k, way):
        _, dx, dk = gradients(x, k, stride, ONES, way)
        return x - 0.1 * dx, k - 0.1 * dk

    def train(x, k):
        return lax.fori_loop(0, 3, lambda _, xk: step(xk[0], xk[1], "native"), (x, k))

    with jax.enable_x64(True):
        x, k = normal(0, 2, 3, 2, 7, 6, 5, dtype="float64"), normal(1, 2, 3, 3, 3, 5, dtype="float64")
        expected = x, k
        reference = jax.vmap(jax.vmap(lambda x, k: step(x, k, "shift")))
        for _ in range(3):
            expected = reference(*expected)
        got = jax.jit(jax.vmap(jax.vmap(train)), donate_argnums=(0, 1))(x, k)
        assert_close(got, expected, 1e-12)


@needs_compiler
def test_seeds_may_share_the_images():
    x, k = normal(0, 2, 5, 6, 7), normal(1, 3, 3, 3, 7)
    got = jax.vmap(lambda k: gradients(x, k, 1, ONES, "native"))(k)
    for seed in range(3):
        assert_close(
            jax.tree.map(lambda leaf, seed=seed: leaf[seed], got), gradients(x, k[seed], 1, ONES, "shift"), 1e-5
        )


THREADS = """
import os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
import hashlib, jax, numpy as np
from mnet_jax.ops.depthwise import depthwise
x, k = (np.random.default_rng(0).normal(size=size).astype("float32") for size in ((16, 28, 28, 40), (3, 3, 40)))
y, vjp = jax.vjp(lambda x, k: depthwise(x, k, 1, ((1, 1), (1, 1)), "native"), x, k)
for _ in range(20):
    print(hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in (y, *jax.jit(vjp)(y)))).hexdigest())
"""


@needs_compiler
@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or os.cpu_count() == 1, reason="needs two cores to choose from"
)
def test_bits_do_not_depend_on_the_threads():
    """The pool has a thread a core: one and all give the same bits, every time."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    lines = [
        subprocess.run(
            [sys.executable, "-c", THREADS, str(cores)], env=environment, capture_output=True, text=True, check=True
        ).stdout.split()
        for cores in (1, os.cpu_count())
    ]
    assert [len(found) for found in lines] == [20, 20]
    assert len(set(lines[0] + lines[1])) == 1


@needs_compiler
def test_processes_that_start_at_once_share_one_build(tmp_path):
    code = "from mnet_jax.ops import native; print(native.unavailable() or native._build())"
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    workers = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = {worker.communicate()[0].strip() for worker in workers}
    (library,) = (tmp_path / "mnet_jax").glob("*.so")
    assert said == {str(library)}
    assert not list(library.parent.glob("*.part"))


@pytest.fixture
def without_compiler(monkeypatch, tmp_path):
    """A machine that has none, and no earlier build."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.unavailable.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    native.unavailable.cache_clear()


def test_without_a_compiler_auto_is_shift(without_compiler, caplog):
    x, k = normal(0, 1, 4, 4, 2), normal(1, 3, 3, 2)
    with caplog.at_level(logging.WARNING):
        y = depthwise(x, k, 1, ONES, "auto")
        assert resolved("auto", x.dtype) == "shift"
    np.testing.assert_array_equal(y, depthwise(x, k, 1, ONES, "shift"))
    (record,) = [record for record in caplog.records if "compile" in record.message]
    assert "looked for c++, g++, clang++" in record.message
    with pytest.raises(ValueError, match=r"'native' cannot be had: no C\+\+ compiler.* allowed are auto, lax, shift"):
        depthwise(x, k, 1, ONES, "native")


def test_a_compiler_that_fails_is_quoted(without_compiler, monkeypatch):
    broken = without_compiler / "broken"
    broken.write_text("#!/bin/sh\necho no such option >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", f"{broken} -m64")
    assert native.unavailable().endswith("broken failed on native.cc: no such option")
    assert resolved("auto", jnp.dtype("float32")) == "shift"


@needs_compiler
def test_auto_is_native_on_one_cpu_device_only(monkeypatch):
    single = jnp.dtype("float32")
    assert resolved("auto", single) == resolved("native", single) == "native"
    assert (resolved("lax", single), resolved("shift", single)) == ("lax", "shift")
    assert resolved("auto", jnp.dtype("bfloat16")) == resolved("native", jnp.dtype("bfloat16")) == "shift"
    with jax.set_mesh(jax.make_mesh((8,), ("data",))):
        assert resolved("auto", single) == "shift"
        with pytest.raises(ValueError, match="mesh has 8 devices"):
            resolved("native", single)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert resolved("auto", single) == "lax"
    with pytest.raises(ValueError, match="platform is gpu, not cpu"):
        resolved("native", single)
