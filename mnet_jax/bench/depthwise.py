"""Formulations of the depthwise convolution, against the time that memory takes to move the same bytes."""

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from mnet_jax import runtime, workers
from mnet_jax.bench import contest, ops, roofline
from mnet_jax.bench.contest import Result, Settings, Table, Times
from mnet_jax.bench.ops import PASSES, Shape


class Regime(NamedTuple):
    """The layers of networks at 224, in a type, at a batch size.

    `working_set` bytes are read and written before any is again: several times what a cache holds.
    """

    networks: Sequence[str]
    dtype: str
    batch: int = 128
    working_set: int = 1 << 28


NETWORKS = ("mobilenet_v1", "mobilenet_v2")
GPU = {dtype: Regime(NETWORKS, dtype) for dtype in ("bfloat16", "float32")}
CPU = {"float32": Regime(NETWORKS, "float32", batch=8, working_set=0)}
TURN = 0.05
"""Seconds of a turn on an accelerator, at most: there are hundreds of contenders."""


def shapes(networks: Sequence[str]) -> list[Shape]:
    """The distinct depthwise layers of them all, the largest images first."""
    distinct = dict.fromkeys(shape for name in networks for shape in ops.shapes(name))
    return sorted(distinct, key=lambda shape: (-shape.size, shape.channels, shape.stride))


def ways(dtype: str) -> list[str]:
    """The formulations that can be had here."""
    import jax.numpy as jnp

    from mnet_jax.ops.depthwise import resolved
    from mnet_jax.ops.formulation import FORMULATIONS

    def had(way: str) -> bool:
        try:
            return resolved(way, jnp.dtype(dtype)) == way
        except ValueError:
            return False

    return [way for way in FORMULATIONS if way != "auto" and had(way)]


def measure(settings: Settings, regimes: Mapping[str, Regime] = CPU, of: Sequence[Shape] = ()) -> Result:
    """Every pass of every shape by every formulation, in alternation; `of` () are the networks' shapes."""
    tables, raw = [], {}
    settings = settings if runtime.on_cpu() else settings._replace(turn=min(settings.turn, TURN))
    for name, regime in regimes.items():
        there = of or shapes(regime.networks)
        sizes = roofline.sizes(regime.dtype, runtime.on_cpu())
        copy = {"copy": roofline.probes(sizes)["copy"]}
        before = contest.alternate(copy, settings, "copy")["copy"].seconds
        times = {shape: _times(shape, regime, settings) for shape in there}
        after = contest.alternate(copy, settings, "copy")["copy"].seconds
        speed = 2 * sizes["bytes"] / min(before + after)
        floors = {shape: _bytes(shape, regime) / speed for shape in there}
        title = f"{name}, batch {regime.batch}, a copy at {speed / 1e9:,.0f} GB/s"
        tables += [_table(title, which, times, floors) for which in PASSES]
        tables.append(_winners(title, times, floors))
        raw[name] = {str(shape): contest.raw(times[shape]) for shape in there} | {"copy": [*before, *after]}
    return Result(tables, raw)


def _programs(shape: Shape, regime: Regime) -> tuple[int, dict[str, Callable[[], Callable[[int], None]]]]:
    """(batches, {"pass, formulation": makes its run}); a call is the pass on several batches, one after the other."""
    import jax
    import jax.numpy as jnp

    from mnet_jax.ops.depthwise import depthwise

    dtype = jnp.dtype(regime.dtype)
    x_shape = (regime.batch, shape.size, shape.size, shape.channels)

    def layer(way: str, x_BHWC: jax.Array, kernel_KKC: jax.Array) -> jax.Array:
        return depthwise(x_BHWC, kernel_KKC, shape.stride, ((1, 1), (1, 1)), way)

    kernel_KKC = jax.random.normal(jax.random.key(0), (3, 3, shape.channels), dtype)
    y_shape = jax.eval_shape(functools.partial(layer, "lax"), jax.ShapeDtypeStruct(x_shape, dtype), kernel_KKC).shape
    copies = max(1, -(-regime.working_set // _bytes(shape, regime)))
    keys = jax.random.split(jax.random.key(1), copies)
    x_R = [jax.random.normal(key, x_shape, dtype) for key in keys]
    dy_R = [jax.random.normal(key, y_shape, dtype) for key in keys]

    def forward(way: str, x: jax.Array, dy: jax.Array) -> jax.Array:
        return layer(way, x, kernel_KKC)

    def to_input(way: str, x: jax.Array, dy: jax.Array) -> jax.Array:
        return jax.vjp(lambda x: layer(way, x, kernel_KKC), x)[1](dy)[0]

    def to_kernel(way: str, x: jax.Array, dy: jax.Array) -> jax.Array:
        return jax.vjp(lambda k: layer(way, x, k), kernel_KKC)[1](dy)[0]

    def make(function: Callable[..., jax.Array], way: str) -> Callable[[int], None]:
        """A program of all batches, as one of a few microseconds would measure its start."""
        whole = jax.jit(lambda x_R, dy_R: [function(way, x, dy) for x, dy in zip(x_R, dy_R, strict=True)])
        return roofline.repeated(whole.lower(x_R, dy_R).compile(), x_R, dy_R)

    return copies, {
        f"{which}, {way}": functools.partial(make, function, way)
        for which, function in zip(PASSES, (forward, to_input, to_kernel), strict=True)
        for way in ways(regime.dtype)
    }


def _times(shape: Shape, regime: Regime, settings: Settings) -> dict[str, Times]:
    """Of one batch, for each pass and formulation."""
    contest.say(f"depthwise, {regime.dtype}: {shape}")
    copies, makers = _programs(shape, regime)
    with ThreadPoolExecutor(len(workers.cores())) as pool:
        made = {name: pool.submit(make) for name, make in makers.items()}
    times = {name: Times(failed=str(program.exception() or "")) for name, program in made.items()}
    runs = {name: program.result() for name, program in made.items() if not times[name].failed}
    times |= contest.alternate(runs, settings, str(shape))
    for entry in times.values():
        entry.seconds = [seconds / copies for seconds in entry.seconds]
    return times


def _bytes(shape: Shape, regime: Regime) -> int:
    """What a pass moves at least: an array of the input's size and one of the output's are read or written, once."""
    pixels = shape.size**2 + (-(-shape.size // shape.stride)) ** 2
    return regime.batch * shape.channels * pixels * (2 if regime.dtype == "bfloat16" else 4)


def _table(title: str, which: str, times: Mapping[Shape, Mapping[str, Times]], floors: Mapping[Shape, float]) -> Table:
    rows: list[contest.Row] = []
    ways = _ways(times)
    for shape, entries in times.items():
        ours = {way: entries[f"{which}, {way}"] for way in ways}
        cells = (cell for entry in ours.values() for cell in _cells(entry, floors[shape]))
        rows.append((str(shape), f"{1e6 * floors[shape]:.3g}", *cells, _fastest(ours)))
    header = ("", "floor (us)", *(cell for way in ways for cell in (f"{way} (us)", "of the floor")), "fastest")
    return Table(f"Depthwise {which}, {title}", header, rows)


def _winners(title: str, times: Mapping[Shape, Mapping[str, Times]], floors: Mapping[Shape, float]) -> Table:
    """For each class of shapes, geometric means of what times longer than its floor a formulation takes."""
    from mnet_jax.ops.depthwise import GPU as CHOSEN
    from mnet_jax.ops.depthwise import shape_class

    rows: list[contest.Row] = []
    for of in CHOSEN:
        members = [shape for shape in times if shape_class(shape.size, shape.stride) == of]
        for passes in (*((which,) for which in PASSES), PASSES):
            factors = {
                way: _factor([times[s] for s in members], [floors[s] for s in members], passes, way)
                for way in _ways(times)
            }
            known = {way: factor for way, factor in factors.items() if factor}
            best = min(known, key=known.__getitem__) if known else ""
            cells = (f"{factor:.2f}" if factor else "" for factor in factors.values())
            rows.append((of, "all three" if passes is PASSES else passes[0], *cells, best))
    return Table(f"Times longer than the floor, {title}", ("class", "pass", *_ways(times), "fastest"), rows)


def _factor(
    members: Sequence[Mapping[str, Times]], floors: Sequence[float], passes: Sequence[str], way: str
) -> float | None:
    """None where there is no shape, or not every one has a time."""
    entries = [[member[f"{which}, {way}"] for which in passes] for member in members]
    if not members or any(entry.failed for row in entries for entry in row):
        return None
    ratios = [sum(e.median for e in row) / (len(row) * low) for row, low in zip(entries, floors, strict=True)]
    return statistics.geometric_mean(ratios)


def _ways(times: Mapping[Shape, Mapping[str, Times]]) -> list[str]:
    return list(dict.fromkeys(name.rpartition(", ")[2] for entries in times.values() for name in entries))


def _cells(entry: Times, floor: float) -> tuple[str, str]:
    if entry.failed:
        return entry.failed[:60], ""
    us = contest.spread([1e6 * seconds for seconds in entry.seconds])
    return f"{us.median:.3g} [{us.low:.3g}, {us.high:.3g}]", f"{floor / entry.median:.0%}"


def _fastest(entries: Mapping[str, Times]) -> str:
    return min((way for way, entry in entries.items() if not entry.failed), key=lambda w: entries[w].median, default="")
