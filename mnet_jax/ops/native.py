"""Depthwise convolution compiled from native.cc: the fastest formulation on a CPU, where a C++ compiler is at hand.

The kernel is built at first use, in seconds, into $XDG_CACHE_HOME/mnet_jax (~/.cache/mnet_jax), once for each
machine, compiler and jaxlib.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mnet_jax.ops.contraction import Geometry, Y, contract

TARGET = "mnet_jax_depthwise"
SOURCE = Path(__file__).with_name("native.cc")
COMPILERS = ("c++", "g++", "clang++")


def serves(formulation: str, dtype: jnp.dtype) -> bool:
    """Whether `depthwise` is the one to call: asked for or "auto", in float32 or float64, on one CPU device.

    "native" that cannot be had here is a ValueError.
    """
    if formulation not in ("auto", "native") or dtype not in (jnp.float32, jnp.float64):
        return False
    if jax.default_backend() != "cpu":
        reason = f"the platform is {jax.default_backend()}, not cpu"
    elif (devices := jax.sharding.get_abstract_mesh().size) > 1:
        reason = f"the mesh has {devices} devices, and XLA would gather what they hold"
    else:
        reason = unavailable()
    if reason and formulation == "native":
        raise ValueError(f"formulation='native' cannot be had: {reason}; allowed are auto, lax, shift")
    return not reason


def depthwise(x_BHWC: jax.Array, kernel_KKC: jax.Array, geometry: Geometry) -> jax.Array:
    """y_BHWC, where `serves` said so; differentiable any number of times."""
    return contract(_call, Y, geometry, x_BHWC, kernel_KKC)


def _call(role: int, geometry: Geometry, a: jax.Array, b: jax.Array) -> jax.Array:
    call = jax.ffi.ffi_call(TARGET, jax.ShapeDtypeStruct(geometry.shapes[role], a.dtype), vmap_method="broadcast_all")
    numbers = {"role": role, "top": geometry.top, "left": geometry.left, "stride": geometry.stride}
    return call(a, b, **{name: np.int64(value) for name, value in numbers.items()})


@functools.cache
def unavailable() -> str:
    """Why there is no compiled kernel, or "" where it is: then it has been built and registered."""
    try:
        library = ctypes.cdll.LoadLibrary(str(_build()))
    except (OSError, ValueError) as error:
        logging.warning("no compiled depthwise convolution, the one in plain JAX is slower: %s", error)
        return str(error)
    jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(library.depthwise), platform="cpu")
    return ""


def _build() -> Path:
    """Path of the shared library, compiled if this machine has none yet; ValueError where that cannot be done."""
    given = shlex.split(os.environ.get("CXX", ""))
    names = given[:1] or COMPILERS
    compiler = next(filter(None, map(shutil.which, names)), None)
    if compiler is None:
        raise ValueError(f"no C++ compiler: looked for {', '.join(names)}; $CXX names another")
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    flags = [*given[1:], "-std=c++17", "-O3", native, "-fPIC", "-shared", "-pthread"]
    flags += ["-isystem", jax.ffi.include_dir()]
    key = [SOURCE.read_text(), compiler, *flags, jax.lib.__version__, _processor()]
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(root, "mnet_jax", f"native-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.so")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _compile([compiler, *flags, str(SOURCE)], path)
    return path


def _compile(command: Sequence[str], path: Path) -> None:
    """Of several processes that come at once one compiles, the others wait; a reader never sees half a file."""
    import fcntl

    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        part = path.with_suffix(".part")
        logging.info("compiling %s, once for this machine", SOURCE.name)
        done = subprocess.run([*command, "-o", str(part)], capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"{command[0]} failed on {SOURCE.name}: {done.stderr.strip()[:500]}")
        os.replace(part, path)


def _processor() -> str:
    """What `-march=native` depends on, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
