"""Many runs in one program (vmap) against one after the other: their speed, and the memory that they take."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from mnet_jax import workers
from mnet_jax.bench import harness
from mnet_jax.bench.harness import InProcess, Result, Settings, Times
from mnet_jax.bench.regime import D17, SMALL_IMAGES, V2, Regime
from mnet_jax.bench.step import GPU_FORMULATIONS
from mnet_jax.table import Row, Table

ROUNDS = 9
"""The fewest rounds, since the ratios are close to 1."""

REGIMES = {
    "V2 0.35 at 32, batch 64": Regime(V2 | SMALL_IMAGES | {"width": 0.35}, 32, 64),
    "V2 0.35 at 32, batch 8": Regime(V2 | SMALL_IMAGES | {"width": 0.35}, 32, 8),
    "d17 at 16, batch 60": Regime(D17, 16, 60),
    "d17 at 16, batch 8": Regime(D17, 16, 8),
}
RUNS = (1, 4, 8)
GPU = {
    f"{way}: V2 {width} at 32, batch 128": Regime(V2 | SMALL_IMAGES | {"width": width, "formulation": way}, 32, 128)
    for way in ("auto", *GPU_FORMULATIONS)
    for width in (0.35, 1.0)
}
GPU_RUNS = (1, 4, 16, 64)
RUN_IMAGES = 30 * 50_000
"""Images in one reference run, 30 epochs of CIFAR-10, by which runs per hour are counted."""


def measure(settings: Settings, regimes: Mapping[str, Regime], runs: Sequence[int] = RUNS) -> Iterator[Result]:
    """Times the steps of S runs in one program, for each S of `runs`, in alternation."""
    from mnet_jax.bench.contenders import ours

    for name, regime in regimes.items():
        title = f"seeds, {name}"
        harness.log(f"{title}: {', '.join(map(str, runs))} at once are compiled")
        with ThreadPoolExecutor(len(workers.cores())) as pool:
            futures = {number: pool.submit(ours.compiled, regime, number) for number in runs}
        errors = {number: error for number, future in futures.items() if (error := future.exception())}
        programs = {number: future.result() for number, future in futures.items() if number not in errors}
        contenders = {f"{number} at once": InProcess(program.run) for number, program in programs.items()}
        rounds = settings._replace(rounds=max(settings.rounds, ROUNDS))
        times = {f"{number} at once": Times(failed=str(error)) for number, error in errors.items()}
        times |= harness.run_rounds(contenders, rounds, title)
        rows: list[Row] = []
        for number in runs:
            memory = f"{programs[number].memory / 2**20:,.0f}" if number in programs else ""
            cells = _cells(times[f"{number} at once"], times.get("1 at once"), number, regime.batch)
            rows.append((str(number), *cells, memory))
        header = ("runs", "ms a step of all", "times faster than alone", "min - max", "runs an hour", "MiB")
        yield Result(name, [Table(f"Runs in one program: {name}", header, rows)], times)


def _cells(entry: Times, single: Times | None, number: int, batch: int) -> tuple[str, ...]:
    if entry.failed:
        return entry.failed, "", "", ""
    gain = ("", "")
    if single and not single.failed:
        pairs = zip(single.seconds, entry.seconds, strict=True)
        faster = harness.spread([number * alone / several for alone, several in pairs])
        gain = (f"{faster.median:.2f}", f"{faster.low:.2f} - {faster.high:.2f}")
    hourly = 3600 * number / (entry.median * RUN_IMAGES / batch)
    return f"{1e3 * entry.median:.4g}", *gain, f"{hourly:.3g}"
