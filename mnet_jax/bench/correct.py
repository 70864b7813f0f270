"""Whether a device computes what it should: against float64 on the CPU, and what its fast types change."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mnet_jax.bench import contest, depthwise, peers
from mnet_jax.bench.contest import Result, Settings, Table
from mnet_jax.bench.ops import Shape
from mnet_jax.bench.step import SMALL_IMAGES, V2, Regime, settled

LIMIT = 1e-4
"""Of the relative error of a first step in float32 without TF32."""

REGIMES = {
    "V2 at 32, batch 64": Regime(V2 | SMALL_IMAGES, 32, 64),
    "V2 at 224, batch 8": Regime(V2, 224, 8),
}


class Arithmetic(NamedTuple):
    """The type of the images and kernels, and what XLA may do with products of float32."""

    dtype: str
    precision: str

    def __str__(self) -> str:
        return f"{self.dtype}, {self.precision} precision" if self.dtype == "float32" else self.dtype


ARITHMETIC = (Arithmetic("float32", "highest"), Arithmetic("float32", "default"), Arithmetic("bfloat16", "default"))
"""On NVIDIA's cards from Ampere on the default precision of float32 products is TF32."""


def measure(
    settings: Settings, regimes: Mapping[str, Regime] = REGIMES, batch: int = 4, of: Sequence[Shape] = ()
) -> Result:
    """Relative errors ||got - exact|| / ||exact|| of the depthwise formulations, and of a first training step."""
    del settings
    import jax

    device, there = jax.devices()[0], of or depthwise.shapes(depthwise.NETWORKS)
    layers = _layers(there, batch, device)
    rows = [(way, str(how), *(f"{error:.1e}" for error in errors.values())) for (way, how), errors in layers.items()]
    title = f"Depthwise on {device.device_kind}: largest error against float64 over {len(there)} shapes"
    tables = [Table(title, ("", "", *depthwise.PASSES), rows)]
    raw: dict[str, Any] = {"depthwise": {f"{way}, {how}": errors for (way, how), errors in layers.items()}}
    for name, regime in regimes.items():
        steps = _steps(regime, device)
        tables.append(_step_table(name, steps))
        raw[name] = {f"{where}, {way}, {how}": errors for (where, way, how), errors in steps.items()}
    return Result(tables, raw)


def _cpu() -> Any:
    """JAX has it beside an accelerator, unless JAX_PLATFORMS leaves it out: a ValueError."""
    import jax

    try:
        return jax.devices("cpu")[0]
    except RuntimeError as error:
        raise ValueError(f"{error}; allowed are JAX_PLATFORMS=cuda,cpu, or none: the CPU computes too") from error


def relative(got: Any, exact: Any) -> float:
    """Of two trees, as one vector each; NaN where anything is."""
    import jax

    squares = np.zeros(2)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(exact), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        squares += np.sum(np.square(a - b)), np.sum(np.square(b))
    return float(np.sqrt(squares[0] / squares[1]))


def _layers(shapes: Sequence[Shape], batch: int, device: Any) -> dict[tuple[str, Arithmetic], dict[str, float]]:
    """{(formulation, arithmetic): {pass: largest error}} of random numbers in bfloat16, which all types hold."""
    import jax
    import jax.numpy as jnp

    from mnet_jax.ops.depthwise import depthwise as layer

    errors: dict[tuple[str, Arithmetic], dict[str, float]] = {}
    for shape in shapes:

        def passes(way: str, x: jax.Array, k: jax.Array, dy: jax.Array, stride: int = shape.stride) -> Any:
            y, vjp = jax.vjp(lambda x, k: layer(x, k, stride, ((1, 1), (1, 1)), way), x, k)
            return (y, *vjp(dy))

        random, side = np.random.default_rng(0), -(-shape.size // shape.stride)
        sizes = (
            (batch, shape.size, shape.size, shape.channels),
            (3, 3, shape.channels),
            (batch, side, side, shape.channels),
        )
        given = [random.normal(size=size).astype(jnp.bfloat16) for size in sizes]
        with jax.enable_x64(True):
            exact = _on(_cpu(), lambda x, k, dy: passes("lax", x, k, dy), given, "float64")
        for how in ARITHMETIC:
            for way in depthwise.ways(how.dtype):
                with jax.default_matmul_precision(how.precision):
                    got = _on(device, lambda x, k, dy, way=way: passes(way, x, k, dy), given, how.dtype)
                worst = errors.setdefault((way, how), dict.fromkeys(depthwise.PASSES, 0.0))
                for which, a, b in zip(depthwise.PASSES, got, exact, strict=True):
                    worst[which] = float(np.maximum(worst[which], relative(a, b)))  # NaN stays
    return errors


def _on(device: Any, function: Callable[..., Any], given: Sequence[np.ndarray], dtype: str) -> Any:
    import jax

    return jax.jit(function)(*(jax.device_put(array.astype(dtype), device) for array in given))


def _steps(regime: Regime, device: Any) -> dict[tuple[str, str, Arithmetic], dict[str, float]]:
    """{(device, formulation, arithmetic): {"loss", "statistics", "gradients"}} of the first step."""
    import jax

    cpu = _cpu()
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        exact = first_step(regime, cpu, "lax", "float64")
    cases = [(cpu, "lax", ARITHMETIC[0])] if device != cpu else []
    cases += [(device, way, how) for how in ARITHMETIC for way in depthwise.ways(how.dtype)]
    found = {}
    for where, way, how in cases:
        contest.say(f"correct: {regime.resolution}, {where}, {way}, {how}")
        with jax.default_matmul_precision(how.precision):
            got = first_step(regime, where, way, how.dtype)
        found[where.platform, way, how] = {part: relative(got[part], exact[part]) for part in exact}
    return found


def first_step(regime: Regime, device: Any, way: str, dtype: str) -> dict[str, Any]:
    """{"loss", "statistics", "gradients"} of the project's own program, from weights that the CPU drew.

    The statistics are the batch's own, and the gradients what momentum holds after one step. "float64" needs x64.
    """
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from mnet_jax import config, models, sharding, step

    compute = "bfloat16" if dtype == "bfloat16" else "float32"
    cfg = settled(
        regime._replace(model={**regime.model, "formulation": way, "dtype": compute, "norm.momentum": 0.0}).task
    )
    mesh, gray = sharding.mesh(1, regime.batch, [device]), (0.5,) * cfg.model.in_channels
    program = step.build(cfg, 1, gray, gray, 1, mesh)
    x_BHWC, labels_B = peers.images(regime.task, regime.batch)
    numbers = "float64" if dtype == "float64" else "float32"

    def put(array: Any) -> Any:
        array = np.asarray(array)
        array = array.astype(numbers) if np.issubdtype(array.dtype, np.floating) else array
        return jax.device_put(array, jax.NamedSharding(mesh, sharding.RUNS))

    with jax.default_device(_cpu()):
        model = models.build(cfg.model, nnx.Rngs(0))
        parts = nnx.split(model, nnx.Param, nnx.BatchStat)[1:]
    params, statistics = (jax.tree.map(lambda leaf: put(leaf[None]), nnx.to_pure_dict(part)) for part in parts)
    state = program.init(sharding.put(mesh, sharding.RUNS, np.zeros(1, np.int32)))
    state["opt"] = jax.tree.map(
        lambda leaf: put(leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, state["opt"]
    )
    state |= {"params": params, "batch_stats": statistics}
    knobs = jax.tree.map(lambda value: put(np.full(1, value)), config.knobs(cfg))
    shared = [(127.5 * (x_BHWC + 1)).astype(np.uint8), labels_B]
    shared = tuple(sharding.put(mesh, sharding.EVERYWHERE, array) for array in shared)
    own = (sharding.put(mesh, sharding.BATCHES, np.arange(regime.batch, dtype=np.int32)[None, None]),)
    state, sums = program.train(state, knobs, shared, own, np.int32(0), np.int32(1))
    momentum = [part.trace for part in jax.tree.leaves(state["opt"], is_leaf=_has_trace) if _has_trace(part)]
    assert len(momentum) == 1, state["opt"]
    return jax.device_get({"loss": sums["loss"], "statistics": state["batch_stats"], "gradients": momentum[0]})


def _has_trace(part: Any) -> bool:
    return hasattr(part, "trace") and isinstance(part.trace, dict)


def _step_table(name: str, steps: Mapping[tuple[str, str, Arithmetic], Mapping[str, float]]) -> Table:
    rows = []
    for (where, way, how), errors in steps.items():
        verdict = "" if how != ARITHMETIC[0] else "yes" if max(errors.values()) <= LIMIT else "no"
        rows.append((where, way, str(how), *(f"{error:.1e}" for error in errors.values()), verdict))
    header = ("", "", "", "loss", "statistics", "gradients", f"within {LIMIT:g}")
    return Table(f"First step of {name}: relative error against float64", header, rows)
