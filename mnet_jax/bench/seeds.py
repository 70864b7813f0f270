"""Many runs in one program (vmap) against one after the other: their speed, and the memory that they take."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from mnet_jax import workers
from mnet_jax.bench import contest
from mnet_jax.bench.contest import Result, Settings, Table
from mnet_jax.bench.step import GPU_WAYS, SMALL_IMAGES, V2, Regime

ROUNDS = 9
D17 = {"name": "d17", "in_channels": 1, "num_classes": 10}
REGIMES = {
    "V2 0.35 at 32, batch 64": Regime(V2 | SMALL_IMAGES | {"width": 0.35}, 32, 64),
    "V2 0.35 at 32, batch 8": Regime(V2 | SMALL_IMAGES | {"width": 0.35}, 32, 8),
    "d17 at 16, batch 60": Regime(D17, 16, 60),
    "d17 at 16, batch 8": Regime(D17, 16, 8),
}
GPU = {
    f"{way}: V2 {width} at 32, batch 128": Regime(V2 | SMALL_IMAGES | {"width": width, "formulation": way}, 32, 128)
    for way in ("auto", *GPU_WAYS)
    for width in (0.35, 1.0)
}
RUN_IMAGES = 30 * 50_000
"""Of a run, of which an hour has so many: 30 epochs of CIFAR-10."""


def measure(settings: Settings, regimes: Mapping[str, Regime] = REGIMES, runs: Sequence[int] = (1, 4, 8)) -> Result:
    """Steps of S seeds in one program, for each S of `runs`, which are in alternation."""
    from mnet_jax.bench import peers

    tables, raw = [], {}
    for name, regime in regimes.items():
        tasks = [{**regime.task, "runs": number} for number in runs]
        contest.say(f"seeds, {name}: {', '.join(map(str, runs))} at once are compiled")
        with ThreadPoolExecutor(len(workers.cores())) as pool:
            programs = [pool.submit(peers.trained, task) for task in tasks]
        failed = [program.exception() for program in programs]
        made = {n: program.result() for n, program, error in zip(runs, programs, failed, strict=True) if not error}
        entrants = {f"{number} at once": program.run for number, program in made.items()}
        times = contest.alternate(entrants, settings._replace(rounds=max(settings.rounds, ROUNDS)), f"seeds, {name}")
        raw[name] = contest.raw(times)
        rows: list[contest.Row] = []
        for number, error in zip(runs, failed, strict=True):
            entry = contest.Times(failed=str(error)) if error else times[f"{number} at once"]
            rows.append((str(number), *_cells(entry, times.get("1 at once"), number, regime.batch)))
            rows[-1] = (*rows[-1], "" if error else f"{made[number].memory / 2**20:,.0f}")
        header = ("runs", "ms a step of all", "times faster than alone", "min - max", "runs an hour", "MiB")
        tables.append(Table(f"Runs in one program: {name}", header, rows))
    return Result(tables, raw)


def measure_gpu(settings: Settings, regimes: Mapping[str, Regime] = GPU) -> Result:
    """As many as an accelerator takes."""
    return measure(settings, regimes, (1, 4, 16, 64))


def _cells(entry: contest.Times, single: contest.Times | None, number: int, batch: int) -> tuple[str, ...]:
    if entry.failed:
        return entry.failed, "", "", ""
    gain = ("", "")
    if single and not single.failed:
        pairs = zip(single.seconds, entry.seconds, strict=True)
        faster = contest.spread([number * alone / several for alone, several in pairs])
        gain = (f"{faster.median:.2f}", f"{faster.low:.2f} - {faster.high:.2f}")
    hourly = 3600 * number / (entry.median * RUN_IMAGES / batch)
    return f"{1e3 * entry.median:.4g}", *gain, f"{hourly:.3g}"
