"""Depthwise convolutions alone: the project's formulations and PyTorch's, for each layer shape and each pass.

The times stand beside the floor: the time that memory takes to move the same bytes.
"""

import functools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from mnet_jax import config, runtime, workers
from mnet_jax.bench import harness, roofline
from mnet_jax.bench.harness import Contender, InProcess, Result, Run, Settings, Times
from mnet_jax.table import Row, Table

PASSES = ("forward", "gradient to input", "gradient to kernel")
TORCH = "torch"


class Shape(NamedTuple):
    """Height and width of the input, channels, stride; kernels are 3x3, padded by 1."""

    size: int
    channels: int
    stride: int

    def __str__(self) -> str:
        return f"{self.size}x{self.size}x{self.channels}, stride {self.stride}"


class Regime(NamedTuple):
    """The layers of networks at 224, in a type, at a batch size.

    A call reads and writes `working_set` bytes before any is met again: several times what a cache holds.
    """

    networks: Sequence[str]
    dtype: str
    batch: int = 128
    working_set: int = 1 << 28


NETWORKS = ("mobilenet_v1", "mobilenet_v2")
GPU = {dtype: Regime(NETWORKS, dtype) for dtype in ("bfloat16", "float32")}
CPU = {"float32": Regime(NETWORKS, "float32", batch=8, working_set=0)}
TURN_SECONDS = 0.05
"""The longest turn on an accelerator, in seconds: there are hundreds of contenders."""

AllTimes = Mapping[Shape, Mapping[str, Times]]
"""{shape: {"PASS, CONTENDER": its times of one batch}}"""


def shapes(networks: Sequence[str], resolution: int = 224) -> list[Shape]:
    """The distinct depthwise layers of them all, counted from their traces, the largest images first."""
    from mnet_jax import cost

    distinct = set()
    for name in networks:
        cfg = config.default().model
        cfg.name = name
        for layer in cost.count(cfg, resolution).layers:
            if layer.type == "depthwise conv":
                distinct.add(Shape(layer.input_shape[0], layer.input_shape[2], layer.stride[0]))
    return sorted(distinct, key=lambda shape: (-shape.size, shape.channels, shape.stride))


def formulations(dtype: str) -> list[str]:
    """The formulations that work in this process."""
    import jax.numpy as jnp

    from mnet_jax.ops.depthwise import resolved
    from mnet_jax.ops.formulation import FORMULATIONS

    def works(way: str) -> bool:
        try:
            return resolved(way, jnp.dtype(dtype)) == way
        except ValueError:
            return False

    return [way for way in FORMULATIONS if way != "auto" and works(way)]


def measure(settings: Settings, regimes: Mapping[str, Regime], layers: Sequence[Shape] = ()) -> Iterator[Result]:
    """Times every pass of every shape by every contender, in alternation; `layers` () are the networks' shapes.

    Each shape is a result of its own; the tables come with the last result of a regime.
    """
    if not runtime.on_cpu():
        settings = settings._replace(turn_seconds=min(settings.turn_seconds, TURN_SECONDS))
    for name, regime in regimes.items():
        sizes = roofline.sizes(regime.dtype, runtime.on_cpu())
        copy = {"copy": InProcess(roofline.probes(**sizes)["copy"])}
        copies = {"copy before": harness.run_rounds(copy, settings, f"depthwise, {name}")["copy"]}
        times: dict[Shape, dict[str, Times]] = {}
        for shape in layers or shapes(regime.networks):
            times[shape] = _times(shape, regime, settings)
            yield Result(f"{name}: {shape}", [], times[shape])
        copies["copy after"] = harness.run_rounds(copy, settings, f"depthwise, {name}")["copy"]
        speed = 2 * sizes["bytes"] / min(second for entry in copies.values() for second in entry.seconds)
        floors = {shape: _bytes(shape, regime) / speed for shape in times}
        title = f"{name}, batch {regime.batch}, a copy at {speed / 1e9:,.0f} GB/s"
        ways = formulations(regime.dtype)
        tables = [_pass_table(title, which, ways, times, floors) for which in PASSES]
        yield Result(name, [*tables, _class_table(title, ways, times, floors)], copies)


def _times(shape: Shape, regime: Regime, settings: Settings) -> dict[str, Times]:
    """{"PASS, CONTENDER": seconds of one batch}."""
    title = f"depthwise, {regime.dtype}, {shape}"
    harness.log(f"{title}: programs are compiled")
    copies = max(1, -(-regime.working_set // _bytes(shape, regime)))
    with ThreadPoolExecutor(len(workers.cores())) as pool:
        futures = {name: pool.submit(build) for name, build in _programs(shape, regime, copies).items()}
    errors = {name: error for name, future in futures.items() if (error := future.exception())}
    contenders: dict[str, Contender | InProcess] = {
        name: InProcess(future.result()) for name, future in futures.items() if name not in errors
    }
    task = {**shape._asdict(), "batch": regime.batch, "copies": copies, "dtype": regime.dtype}
    for which in PASSES:
        contenders[f"{which}, {TORCH}"] = Contender(
            "contenders.torch.depthwise", task, which, keep_memory=False, peer=True
        )
    times = {name: Times(failed=str(error)) for name, error in errors.items()}
    times |= harness.run_rounds(contenders, settings, title)
    for entry in times.values():
        entry.seconds = [seconds / copies for seconds in entry.seconds]
    return times


def _programs(shape: Shape, regime: Regime, copies: int) -> dict[str, Callable[[], Run]]:
    """{"PASS, FORMULATION": compiles a run}; a call is the pass on `copies` batches, one after the other."""
    import jax
    import jax.numpy as jnp

    from mnet_jax.ops.depthwise import depthwise

    dtype = jnp.dtype(regime.dtype)
    x_shape = (regime.batch, shape.size, shape.size, shape.channels)

    def layer(way: str, x_BHWC: jax.Array, kernel_KKC: jax.Array) -> jax.Array:
        return depthwise(x_BHWC, kernel_KKC, shape.stride, ((1, 1), (1, 1)), way)

    kernel_KKC = jax.random.normal(jax.random.key(0), (3, 3, shape.channels), dtype)
    y_shape = jax.eval_shape(functools.partial(layer, "lax"), jax.ShapeDtypeStruct(x_shape, dtype), kernel_KKC).shape
    keys = jax.random.split(jax.random.key(1), copies)
    x_R = [jax.random.normal(key, x_shape, dtype) for key in keys]
    dy_R = [jax.random.normal(key, y_shape, dtype) for key in keys]

    def forward(way: str, x: jax.Array, dy: jax.Array) -> jax.Array:
        return layer(way, x, kernel_KKC)

    def to_input(way: str, x: jax.Array, dy: jax.Array) -> jax.Array:
        return jax.vjp(lambda x: layer(way, x, kernel_KKC), x)[1](dy)[0]

    def to_kernel(way: str, x: jax.Array, dy: jax.Array) -> jax.Array:
        return jax.vjp(lambda k: layer(way, x, k), kernel_KKC)[1](dy)[0]

    def build(function: Callable[..., jax.Array], way: str) -> Run:
        """One program of all batches, since a call of a few microseconds would measure its start."""
        whole = jax.jit(lambda x_R, dy_R: [function(way, x, dy) for x, dy in zip(x_R, dy_R, strict=True)])
        return roofline.queued(whole.lower(x_R, dy_R).compile(), x_R, dy_R)

    return {
        f"{which}, {way}": functools.partial(build, function, way)
        for which, function in zip(PASSES, (forward, to_input, to_kernel), strict=True)
        for way in formulations(regime.dtype)
    }


def _bytes(shape: Shape, regime: Regime) -> int:
    """What a pass moves at least: an array of the input's size and one of the output's are read or written, once."""
    pixels = shape.size**2 + (-(-shape.size // shape.stride)) ** 2
    return regime.batch * shape.channels * pixels * (2 if regime.dtype == "bfloat16" else 4)


def _pass_table(title: str, which: str, ways: Sequence[str], times: AllTimes, floors: Mapping[Shape, float]) -> Table:
    """Microseconds of one pass; the fastest is one of the formulations."""
    columns = (*ways, TORCH)
    rows: list[Row] = []
    for shape, entries in times.items():
        cells = (cell for column in columns for cell in _cells(entries[f"{which}, {column}"], floors[shape]))
        medians = {way: entry.median for way in ways if not (entry := entries[f"{which}, {way}"]).failed}
        rows.append(
            (str(shape), f"{1e6 * floors[shape]:.3g}", *cells, min(medians, key=medians.__getitem__, default=""))
        )
    header = ("", "floor (us)", *(cell for name in columns for cell in (f"{name} (us)", "of the floor")), "fastest")
    return Table(f"Depthwise {which}, {title}", header, rows)


def _cells(entry: Times, floor: float) -> tuple[str, str]:
    if entry.failed:
        return entry.failed[:60], ""
    us = harness.spread([1e6 * seconds for seconds in entry.seconds])
    return f"{us.median:.3g} [{us.low:.3g}, {us.high:.3g}]", f"{floor / entry.median:.0%}"


def _class_table(title: str, ways: Sequence[str], times: AllTimes, floors: Mapping[Shape, float]) -> Table:
    """For each class of shapes, geometric means of how many times longer than its floor a pass takes."""
    from mnet_jax.ops.depthwise import GPU as CLASSES
    from mnet_jax.ops.depthwise import shape_class

    rows: list[Row] = []
    for name in CLASSES:
        members = [shape for shape in times if shape_class(shape.size, shape.stride) == name]
        for passes in (*((which,) for which in PASSES), PASSES):
            factors = {
                column: _factor([times[s] for s in members], [floors[s] for s in members], passes, column)
                for column in (*ways, TORCH)
            }
            known = {way: factor for way in ways if (factor := factors[way])}
            cells = (f"{factor:.2f}" if factor else "" for factor in factors.values())
            label = "all three" if passes is PASSES else passes[0]
            rows.append((name, label, *cells, min(known, key=known.__getitem__, default="")))
    header = ("class", "pass", *ways, TORCH, "fastest")
    return Table(f"Times longer than the floor, {title}", header, rows, left=2)


def _factor(
    members: Sequence[Mapping[str, Times]], floors: Sequence[float], passes: Sequence[str], column: str
) -> float | None:
    """None where there is no shape, or not every one has a time."""
    entries = [[member[f"{which}, {column}"] for which in passes] for member in members]
    if not members or any(entry.failed for row in entries for entry in row):
        return None
    ratios = [sum(e.median for e in row) / (len(row) * low) for row, low in zip(entries, floors, strict=True)]
    return statistics.geometric_mean(ratios)
