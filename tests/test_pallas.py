"""The Triton kernels, interpreted: equal to lax in values and gradients; and lowered for a GPU that is not there."""

import contextlib

import jax
import jax.numpy as jnp
import pytest
from test_native import ONES, assert_close, normal

from mnet_jax.errors import UserError
from mnet_jax.ops import pallas
from mnet_jax.ops.bilinear import Geometry
from mnet_jax.ops.depthwise import GPU, depthwise, layer_kernel, output_size, resolved, shape_class
from mnet_jax.ops.formulation import resolve

QUICK = {"xla_llvm_disable_expensive_passes": True, "xla_backend_optimization_level": 0}  # to compile


def kernels(x, k, stride, padding, dilation=1):
    size = output_size(x.shape[1:3], k.shape[:2], stride, padding, dilation)
    shapes = x.shape, k.shape, (x.shape[0], *size, x.shape[3])
    return pallas.depthwise(x, k, Geometry(shapes, padding[0][0], padding[1][0], stride, dilation))


def gradients(layer, x, k):
    """y and the gradients to x and k of a loss whose own gradient varies from place to place."""

    def loss(x, k):
        y = layer(x, k)
        return jnp.sum(jnp.sin(y)), y

    (_, y), (dx, dk) = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True), compiler_options=QUICK)(x, k)
    return y, dx, dk


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation"),
    [
        ((2, 11, 10, 5), (3, 3), 1, ONES, 1),  # tiles that reach over the edge, idle channels
        ((1, 9, 18, 33), (3, 3), 2, ((0, 1), (1, 1)), 1),  # two blocks of channels
        ((1, 6, 7, 8), (5, 2), 3, ((2, 2), (0, 3)), 1),  # more phases than taps, padding beyond the reach
        ((1, 9, 7, 5), (3, 3), 1, ((4, 4), (4, 4)), 4),  # a kernel as large as the image
        ((1, 7, 6, 4), (3, 2), 2, ((2, 1), (2, 0)), 2),  # a stride whose odd phases have no taps
    ],
)
def test_kernels_equal_lax(monkeypatch, size, kernel, stride, padding, dilation):
    monkeypatch.setattr(pallas, "PROGRAMS", 2)
    monkeypatch.setattr(pallas, "SUMS", 16 * 8 * 9)  # so that a program makes several turns
    x, k = normal(0, *size), normal(1, *kernel, size[-1])
    expected = gradients(lambda x, k: depthwise(x, k, stride, padding, "lax", dilation), x, k)
    assert_close(gradients(lambda x, k: kernels(x, k, stride, padding, dilation), x, k), expected, 1e-6)


def test_in_float64_and_bfloat16():
    x, k = normal(0, 1, 4, 5, 3, dtype="float32"), normal(1, 3, 3, 3, dtype="float32")

    def run(layer, dtype):
        return gradients(lambda x, k: layer(x, k, 2, ONES), x.astype(dtype), k.astype(dtype))

    def lax(x, k, stride, padding):
        return depthwise(x, k, stride, padding, "lax")

    with jax.enable_x64(True):
        exact = run(lax, "float64")
        assert_close(run(kernels, "float64"), exact, 1e-14)
    rounded = run(kernels, "bfloat16")
    assert {leaf.dtype for leaf in rounded} == {jnp.dtype("bfloat16")}
    assert_close(rounded, exact, 0.02)


def test_seeds_and_second_derivatives():
    x, k = normal(0, 2, 1, 3, 4, 2), normal(1, 2, 3, 3, 2)

    def penalty(layer, x, k):
        dx, dk = jax.grad(lambda x, k: jnp.sum(jnp.sin(layer(x, k))), (0, 1))(x, k)
        return jnp.sum(dx * dx) + jnp.sum(dk**3)

    def twice(layer):
        grad = jax.grad(lambda x, k: penalty(layer, x, k), (0, 1))
        return jax.jit(jax.vmap(grad), compiler_options=QUICK)(x, k)

    expected = twice(lambda x, k: depthwise(x, k, 1, ONES, "lax"))
    assert_close(twice(lambda x, k: kernels(x, k, 1, ONES)), expected, 1e-5)


@pytest.fixture
def on_gpu(monkeypatch):
    """What traces as on a GPU, and how to lower it for one."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    device = contextlib.nullcontext()
    with contextlib.suppress(ImportError):  # jax 0.11 asks for the GPU's name
        from jax.experimental.pallas.triton import GpuVersion  # pyrefly: ignore[missing-module-attribute]
        from jax.sharding import AbstractDevice, AbstractMesh

        mesh = AbstractMesh((), (), abstract_device=AbstractDevice(GpuVersion.H200.value, None, "gpu"))
        device = jax.sharding.use_abstract_mesh(mesh)
    with device:
        yield


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("stride", "seeds"), [(1, 1), (2, 4)])
def test_the_kernels_lower_for_a_gpu(on_gpu, dtype, stride, seeds):
    """Triton refuses shapes that are no powers of two and operations that it does not have."""
    x, k = (jax.ShapeDtypeStruct((seeds, *shape), jnp.dtype(dtype)) for shape in ((8, 28, 28, 144), (3, 3, 144)))

    def run(x, k):
        y, vjp = jax.vjp(lambda x, k: depthwise(x, k, stride, ONES, "pallas"), x, k)
        return y, vjp(y)

    lowered = jax.jit(jax.vmap(run)).trace(x, k).lower(lowering_platforms=("cuda",)).as_text()
    assert lowered.count("@__gpu$xla.gpu.triton") == 3
    assert "convolution" not in lowered


def test_pallas_is_for_one_gpu(monkeypatch):
    x, k = normal(0, 1, 4, 4, 2), normal(1, 3, 3, 2)
    with pytest.raises(ValueError, match="'pallas' cannot be had: the platform is cpu, not gpu; allowed are auto, lax"):
        depthwise(x, k, 1, ONES, "pallas")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert resolved("pallas", x.dtype) == "pallas"
    with pytest.raises(UserError, match="mesh has 8 devices"):
        resolve("pallas", x.dtype, data_shards=8)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="has no Pallas for Triton"):
        resolved("pallas", x.dtype)


def test_auto_is_what_the_table_of_the_gpu_says(monkeypatch):
    monkeypatch.setitem(GPU, "small, stride 2", "pallas")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    dtype = jnp.dtype("bfloat16")
    assert [layer_kernel("auto", dtype, shape_class(*of)) for of in ((28, 2), (27, 2), (27, 1))] == [
        "lax",
        "pallas",
        "lax",
    ]
    assert resolved("auto", dtype) == "lax, pallas"
    assert resolved(resolve("auto", dtype, data_shards=8), dtype) == "lax"
    assert resolved("shift", dtype) == "shift"
