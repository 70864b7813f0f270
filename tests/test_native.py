"""The compiled operations equal lax wherever they are called, and their absence is no failure."""

import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax

from mnet_jax import config, models
from mnet_jax.errors import UserError
from mnet_jax.ops import library, native
from mnet_jax.ops.depthwise import depthwise, resolved
from mnet_jax.ops.formulation import resolve
from mnet_jax.ops.norm import batch_norm_act
from mnet_jax.ops.norm_depthwise_norm import Affine, norm_depthwise_norm

needs_compiler = pytest.mark.skipif(bool(native.unavailable()), reason=native.unavailable())
ONES = ((1, 1), (1, 1))
sides = st.tuples(st.integers(0, 4), st.integers(0, 4))
rates = st.sampled_from([1, 2, 4])


def fits(size, kernel, padding, dilation):
    """Whether the dilated kernel is no larger than the padded images."""
    return all(n + sum(p) > (k - 1) * dilation for n, p, k in zip(size[1:3], padding, kernel, strict=True))


def normal(seed, *shape, dtype="float32"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def gradients(x, k, stride, padding, way, dilation=1):
    """y and the gradients to x and k of a loss whose own gradient varies from place to place."""

    def loss(x, k):
        y = depthwise(x, k, stride, padding, way, dilation)
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
    dilation=rates,
)
def test_native_equals_lax(size, kernel, stride, padding, dilation):
    assume(fits(size, kernel, padding, dilation))
    with jax.enable_x64(True):
        x, k = normal(0, *size, dtype="float64"), normal(1, *kernel, size[-1], dtype="float64")
        expected = gradients(x, k, stride, padding, "lax", dilation)
        assert_close(gradients(x, k, stride, padding, "native", dilation), expected, 1e-12)
        single = gradients(x.astype("float32"), k.astype("float32"), stride, padding, "native", dilation)
        assert {leaf.dtype for leaf in single} == {jnp.dtype("float32")}
        assert_close(single, expected, 1e-5)


@needs_compiler
@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("hw", [(9, 11), (3, 2), (1, 1)])
def test_dilated_operations_equal_lax(hw, dilation):
    """Padding "same" at stride 1, as in DeepLab; also of images that are smaller than the dilated kernel."""
    x, parameters = normal(0, 2, *hw, 20), (affine(1, 20), normal(3, 3, 3, 20), affine(4, 20))
    padding = ((dilation, dilation),) * 2

    def plain(x, parameters, way):
        return depthwise(x, parameters[1], 1, padding, way, dilation), ()

    assert_native_equals_lax(plain, x, parameters)
    assert_native_equals_lax(
        lambda x, p, way: normed_twice(x, p, (-0.5, 0.7), 1, 1, padding, way, dilation), x, parameters
    )


@needs_compiler
@pytest.mark.parametrize("dilation", [2, 4])
def test_dilated_depthwise_is_compiled(dilation):
    """Every formulation takes the rate itself: none computes in the place of another."""
    x, k = normal(0, 1, 9, 9, 4), normal(1, 3, 3, 4)
    padding = ((dilation, dilation),) * 2
    traced = str(jax.make_jaxpr(lambda x, k: gradients(x, k, 1, padding, "native", dilation))(x, k))
    assert traced.count("mnet_jax_depthwise") == 3


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


INF = float("inf")
bounds = st.sampled_from([(-INF, INF), (0.0, INF), (0.0, 6.0), (-0.5, 0.7)])


def affine(seed, *size):
    return Affine(1 + 0.5 * normal(seed, *size), normal(seed + 1, *size))


def normed(x, parameters, clip, group, way):
    (scale, bias), (low, high) = parameters, clip
    return batch_norm_act(x, scale, bias, low, high, 1e-3, group, way)


def normed_twice(x, parameters, clip, group, stride, padding, way, dilation=1):
    """The three layers, compiled as one or one after the other: y, and the moments of both norms."""
    inner, kernel, outer = parameters
    if way == "native":
        return norm_depthwise_norm(x, inner, kernel, outer, clip[0], clip[1], 1e-3, group, stride, padding, dilation)
    h, *moments = normed(x, inner, clip, group, way)
    y, *others = normed(depthwise(h, kernel, stride, padding, way, dilation), outer, clip, group, way)
    return y, tuple(moments), tuple(others)


def values_and_gradients(layer, x, parameters):
    """What layer(x, parameters) returns, whose first is differentiated, and the gradients to both."""

    def loss(x, parameters):
        y, *moments = layer(x, parameters)
        return jnp.sum(jnp.sin(y)), (y, moments)

    (_, results), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(x, parameters)
    return results, gradients


def assert_native_equals_lax(layer, x, parameters):
    """`layer(x, parameters, way)`: in float64, then in float32 against float64.

    Of few positions the variance may vanish, and each norm magnifies rounding by eps ** -0.5.
    """

    def run(way, dtype):
        cast = jax.tree.map(lambda leaf: leaf.astype(dtype), (x, parameters))
        results = jax.jit(lambda x, p: values_and_gradients(lambda x, p: layer(x, p, way), x, p))(*cast)
        assert {leaf.dtype for leaf in jax.tree.leaves(results)} == {jnp.dtype(dtype)}
        return results

    with jax.enable_x64(True):
        expected = run("lax", "float64")
        assert_close(run("native", "float64"), expected, 1e-12)
        assert_close(run("native", "float32"), expected, 1e-3)


def group_of(images, wanted):
    return wanted if wanted and images % wanted == 0 else 0


@needs_compiler
@settings(max_examples=12, derandomize=True, deadline=None)
@given(
    size=st.tuples(st.integers(1, 4), st.integers(1, 19), st.integers(1, 19), st.integers(1, 70)),
    clip=bounds,
    wanted=st.integers(0, 4),
)
def test_native_norm_equals_lax(size, clip, wanted):
    group = group_of(size[0], wanted)
    assert_native_equals_lax(lambda x, p, way: normed(x, p, clip, group, way), normal(0, *size), affine(1, size[-1]))


@needs_compiler
@settings(max_examples=12, derandomize=True, deadline=None)
@given(
    size=st.tuples(st.integers(1, 4), st.integers(1, 13), st.integers(1, 13), st.integers(1, 70)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.integers(1, 3),
    padding=st.tuples(sides, sides),
    clip=bounds,
    wanted=st.integers(0, 4),
    dilation=rates,
)
def test_native_norm_depthwise_norm_equals_lax(size, kernel, stride, padding, clip, wanted, dilation):
    assume(fits(size, kernel, padding, dilation))
    group, C = group_of(size[0], wanted), size[-1]
    parameters = affine(1, C), normal(3, *kernel, C), affine(4, C)
    assert_native_equals_lax(
        lambda x, p, way: normed_twice(x, p, clip, group, stride, padding, way, dilation), normal(0, *size), parameters
    )


@needs_compiler
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 4)])
@pytest.mark.parametrize("size", [(5, 33, 40, 20), (2, 64, 65, 72)])
def test_native_norm_depthwise_norm_in_parts_equals_lax(size, stride, dilation):
    """Sums in several parts: of whole images, and of some rows each where images are large."""
    C, padding = size[-1], ((dilation, dilation),) * 2
    parameters = affine(1, C), normal(3, 3, 3, C), affine(4, C)
    assert_native_equals_lax(
        lambda x, p, way: normed_twice(x, p, (-0.5, 0.7), 0, stride, padding, way, dilation),
        normal(0, *size),
        parameters,
    )


@needs_compiler
@pytest.mark.parametrize("layer", ["norm", "norm_depthwise_norm"])
def test_norms_have_second_derivatives(layer):
    """Through the statistics, too."""
    x, inner, outer = normal(0, 4, 6, 5, 3), affine(1, 3), affine(4, 3)
    parameters = inner if layer == "norm" else (inner, normal(3, 3, 3, 3), outer)

    def penalty(x, parameters, way):
        def run(x, p):
            return (
                normed(x, p, (-0.5, 0.7), 2, way)
                if layer == "norm"
                else normed_twice(x, p, (-0.5, 0.7), 2, 2, ONES, way)
            )

        _, gradients = values_and_gradients(run, x, parameters)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradients))

    with jax.enable_x64(True):
        cast = jax.tree.map(lambda leaf: leaf.astype("float64"), (x, parameters))
        got, exact = (
            jax.jit(jax.grad(lambda x, p, way=way: penalty(x, p, way), (0, 1)))(*cast) for way in ("native", "lax")
        )
        assert_close(got, exact, 1e-12)


def stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@needs_compiler
def test_a_loop_over_norms_for_several_seeds_equals_single_runs():
    """Seeds (and arms outside them) with bounds of their own, a loop and donated buffers; the images may be shared."""
    x, parameters = normal(0, 3, 4, 7, 6, 5), (affine(1, 2, 3, 5), normal(3, 2, 3, 3, 3, 5), affine(4, 2, 3, 5))
    high = jnp.asarray([[0.5, 1.0, 2.0], [3.0, 4.0, INF]])
    with jax.enable_x64(True):
        x, parameters, high = jax.tree.map(lambda leaf: leaf.astype("float64"), (x, parameters, high))

        def train(x, parameters, high, way):
            def step(_, parameters):
                run = lambda x, p: normed_twice(x, p, (-0.5, high), 2, 2, ONES, way)  # noqa: E731
                _, (_, gradients) = values_and_gradients(run, x, parameters)
                return jax.tree.map(lambda p, g: p - 0.1 * g, parameters, gradients)

            return lax.fori_loop(0, 3, step, parameters)

        expected = [
            [train(x[s], jax.tree.map(lambda p, a=a, s=s: p[a, s], parameters), high[a, s], "lax") for s in range(3)]
            for a in range(2)
        ]
        expected = stack([stack(arm) for arm in expected])
        seeds = jax.vmap(lambda x, p, high: train(x, p, high, "native"))
        got = jax.jit(jax.vmap(seeds, (None, 0, 0)), donate_argnums=1)(x, parameters, high)
        assert_close(got, expected, 1e-12)


@needs_compiler
@pytest.mark.parametrize(("mean", "outlier", "tolerance"), [(1e2, 0, 1e-5), (-1e4, 0, 1e-5), (1e4, 30, 1e-4)])
def test_the_variance_survives_a_large_mean(mean, outlier, tolerance):
    """Variance 1 about a large mean, with a first row 30 deviations off; as in float64 of the same numbers."""
    x = (mean + normal(0, 16, 8, 8, 4)).at[0, 0, 0].add(outlier)
    exact = np.asarray(x, "float64")
    _, got_mean, got_var = normed(x, (jnp.ones(4), jnp.zeros(4)), (-INF, INF), 0, "native")
    np.testing.assert_allclose(got_mean, exact.mean((0, 1, 2)), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got_var, exact.var((0, 1, 2)), rtol=tolerance)


@needs_compiler
@pytest.mark.parametrize("used", [False, True])
def test_a_network_equals_lax(used):
    """Loss, gradients and averages of a V2 in training; the endpoints that `used` adds to the loss exist, too."""

    def run(way):
        cfg = config.default().model
        small = {"name": "mobilenet_v2", "blocks": ((1, 4, 1, 1), (3, 6, 2, 2)), "stem": (4, 2), "divisor": 1}
        for key, value in (small | {"last": 8, "num_classes": 3, "dropout": 0.0, "formulation": way}).items():
            cfg[key] = value
        cfg.norm.group = 2
        graphdef, *states = nnx.split(models.build(cfg, nnx.Rngs(0)), nnx.Param, nnx.BatchStat)
        params, stats = jax.tree.map(lambda leaf: leaf.astype("float64"), [nnx.to_pure_dict(state) for state in states])

        def loss(params):
            model = nnx.merge(graphdef, params, stats)
            model.train()
            logits, endpoints = model(normal(0, 4, 16, 16, 3, dtype="float64"))
            extra = sum(jnp.sum(jnp.sin(endpoints[f"block{n}/expansion"])) for n in (2, 3)) if used else 0.0
            return jnp.sum(jnp.sin(logits)) + extra, (logits, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

        (_, results), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        return results, gradients

    with jax.enable_x64(True):
        assert_close(run("native"), run("lax"), 1e-12)


THREADS = """
import os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
import hashlib, jax, numpy as np
from mnet_jax.ops.depthwise import depthwise
from mnet_jax.ops.norm_depthwise_norm import norm_depthwise_norm
from mnet_jax.ops.formulation import resolve
from mnet_jax.ops.norm import batch_norm_act
x, k = (np.random.default_rng(0).normal(size=size).astype("float32") for size in ((16, 28, 28, 40), (3, 3, 40)))
def layers(x, k, a, b):
    y = batch_norm_act(depthwise(x, k, 1, ((1, 1), (1, 1)), "native"), a, b, 0.0, 6.0, 1e-3, 8, "native")[0]
    return norm_depthwise_norm(y, (a, b), k, (b, a), 0.0, 6.0, 1e-3, 0, 1, ((1, 1), (1, 1)))[0]
run = jax.jit(lambda *operands: jax.vjp(layers, *operands))
for _ in range(20):
    y, vjp = run(x, k, 1 + x[0, 0, 0] ** 2, x[0, 0, 1])
    print(hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in (y, *vjp(y)))).hexdigest())
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


LOAD = """
from mnet_jax.ops import library, native
print(library.load(native.TARGETS)._name)
"""


def start_loading(variables):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | variables
    return subprocess.Popen(
        [sys.executable, "-c", LOAD], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


class Cache:
    """An empty cache, and a compiler that copies an earlier build and writes a line each time that it compiles."""

    def __init__(self, root, build):
        self.root, self.folder, self.log = root, root / "mnet_jax" / "native", root / "log"
        self.compiler, self.build = root / "compiler", build
        self.log.touch()
        self.install("1.0")
        self.variables = {"XDG_CACHE_HOME": str(root), "CXX": str(self.compiler)}

    def install(self, version):
        self.compiler.write_text(
            "#!/bin/sh\n"
            f'if [ "$1" = --version ]; then echo {version}; exit; fi\n'
            f'for output; do :; done; echo compiled >> {self.log}; sleep 0.2; cp {self.build} "$output"\n'
        )
        self.compiler.chmod(0o755)

    def compilations(self):
        return len(self.log.read_text().splitlines())

    def library(self):
        (path,) = self.folder.glob("*.so")
        return path


@pytest.fixture
def cache(monkeypatch, tmp_path):
    if native.unavailable():
        pytest.skip(native.unavailable())
    cache = Cache(tmp_path, library.load(native.TARGETS)._name)
    for name, value in cache.variables.items():
        monkeypatch.setenv(name, value)
    return cache


def test_processes_that_start_at_once_share_one_build(cache):
    loading = [start_loading(cache.variables) for _ in range(2)]
    printed = [process.communicate()[0].strip() for process in loading]
    assert printed == [str(cache.library())] * 2
    assert cache.compilations() == 1
    assert {path.suffix for path in cache.folder.iterdir()} == {".so", ".sha256", ".lock"}


def damage(path, how):
    contents = path.read_bytes()
    if how == "no symbols":
        source = path.with_name("empty.cc")
        source.touch()
        compiler = next(filter(None, map(shutil.which, library.COMPILERS)))
        subprocess.run([compiler, "-shared", "-fPIC", str(source), "-o", str(path)], check=True)
        path.with_suffix(".sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())
    elif how == "no checksum":
        path.with_suffix(".sha256").unlink()
    else:
        path.write_bytes({"page": contents[:4096], "half": contents[: len(contents) // 2], "empty": b""}.get(how, b"?"))


@pytest.mark.parametrize("how", ["page", "half", "empty", "garbage", "no symbols", "no checksum"])
def test_a_damaged_library_is_compiled_once_more(cache, how):
    """In a process of its own, since a library that is cut off kills the one that runs it."""
    library.load(native.TARGETS)
    whole = cache.library().read_bytes()
    damage(cache.library(), how)
    for _ in range(2):
        process = start_loading(cache.variables)
        stdout, stderr = process.communicate()
        assert (process.returncode, stdout.strip()) == (0, str(cache.library())), stderr
        assert cache.library().read_bytes() == whole
        assert cache.compilations() == 2


def test_a_crash_between_library_and_checksum_is_mended(cache, monkeypatch):
    replace = os.replace

    def crash(source, target):
        if str(target).endswith(".sha256"):
            raise OSError("power cut")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(OSError, match="power cut"):
            library.load(native.TARGETS)
    library.load(native.TARGETS)
    library.load(native.TARGETS)
    assert cache.compilations() == 2


def test_files_are_on_the_disk_before_they_have_their_names(cache, monkeypatch):
    fsync, replace, synced = os.fsync, os.replace, set()

    def record(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def check(source, target):
        assert os.stat(source).st_ino in synced, target
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(os, "replace", check)
    library.load(native.TARGETS)
    assert cache.folder.stat().st_ino in synced


def test_a_library_that_others_can_write_is_compiled_again(cache, caplog):
    library.load(native.TARGETS)
    cache.library().chmod(0o777)
    library.load(native.TARGETS)
    assert cache.compilations() == 2
    assert cache.library().stat().st_mode & 0o077 == 0
    assert "writable by others" in caplog.text


@pytest.fixture
def temporary(monkeypatch, tmp_path):
    """The folder of this user's among the temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    return tmp_path / "tmp" / f"mnet_jax-{os.geteuid()}"


def assert_kept_in(folder, caplog):
    assert Path(library.load(native.TARGETS)._name).parent == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    (record,) = caplog.records
    assert str(folder) in record.message


def test_a_cache_that_others_can_write_is_not_used(cache, temporary, caplog):
    library.load(native.TARGETS)
    cache.folder.chmod(0o777)
    assert_kept_in(temporary, caplog)
    assert cache.compilations() == 2


def test_a_user_without_a_home_compiles_among_temporary_files(cache, temporary, monkeypatch, caplog):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", home)
    assert_kept_in(temporary, caplog)


def test_folders_of_another_user_are_not_used(cache, temporary, monkeypatch):
    library.load(native.TARGETS)
    monkeypatch.setattr(os, "geteuid", lambda: cache.folder.stat().st_uid + 1)
    with pytest.raises(PermissionError, match=r"tmp/mnet_jax-\d+ belongs to user \d+, not to user \d+"):
        library.load(native.TARGETS)


@pytest.mark.parametrize("what", ["compiler", "C library"])
def test_another_compiler_or_c_library_has_a_build_of_its_own(cache, monkeypatch, what):
    library.load(native.TARGETS)
    if what == "compiler":
        cache.install("2.0")
    else:
        monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "1.0"))
    library.load(native.TARGETS)
    assert len(list(cache.folder.glob("*.so"))) == 2


@pytest.fixture
def without_compiler(monkeypatch, tmp_path):
    """A machine that has none, and no earlier build."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native._register.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    native._register.cache_clear()


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
    for shards in ({"data_shards": 8}, {"seed_shards": 8}):
        assert resolved(resolve("auto", single, **shards), single) == "shift"
        with pytest.raises(UserError, match="mesh has 8 devices"):
            resolve("native", single, **shards)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert resolved("auto", single) == "lax"
    with pytest.raises(ValueError, match="platform is gpu, not cpu"):
        resolved("native", single)
