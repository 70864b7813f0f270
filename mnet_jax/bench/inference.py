"""Evaluation: this project with its folded norms against what else there is, and the times of any network."""

from collections.abc import Mapping
from typing import Any

from mnet_jax import config
from mnet_jax.bench import contest, step
from mnet_jax.bench.contest import Entrant, Result, Settings, Table
from mnet_jax.bench.step import BFLOAT16, SMALL_IMAGES, V2, Regime

REGIMES = {
    "224, batch 1": Regime(V2, 224, 1),
    "224, batch 8": Regime(V2, 224, 8),
    "32, batch 128": Regime(V2 | SMALL_IMAGES, 32, 128),
}


GPU = {f"224, bfloat16, batch {batch}": Regime(V2 | BFLOAT16, 224, batch) for batch in (1, 32, 256)}


def measure(settings: Settings, regimes: Mapping[str, Regime] = REGIMES) -> Result:
    """All contenders; each call is waited for. Weights are constants of the JAX programs, but where a row says so."""

    def entrants(regime: Regime) -> dict[str, Entrant]:
        arguments = {f"{step.OURS}, weights as arguments": Entrant("infer mnet_jax arguments", regime.task, "infer")}
        return step.entrants(("keras", "torch", "torch.compile"), work="infer")(regime) | arguments

    return _measure(settings, regimes, entrants)


def measure_gpu(settings: Settings, regimes: Mapping[str, Regime] = GPU) -> Result:
    """The formulations, and PyTorch and timm with CUDA graphs, which leave little of the time between kernels."""
    peers = ("torch", "torch.compile", "torch.graphs", "timm.graphs")
    return _measure(settings, regimes, step.gpu_entrants("infer", peers))


def _measure(settings: Settings, regimes: Mapping[str, Regime], entrants: step.Entrants) -> Result:
    tables, raw, bars = [], {}, {}
    for name, regime in regimes.items():
        times = contest.contest(entrants(regime), settings, f"inference, {name}")
        table, bars[name] = contest.compare(f"Inference at {name}", times, regime.batch)
        tables.append(table)
        raw[name] = contest.raw(times)
    return Result(tables, raw, bars, "ms a call")


def network(name: str, settings: Settings, resolution: int | None, batch: int, fields: Mapping[str, Any]) -> Result:
    """Latency at batch 1 and throughput at `batch` of one network, beside its multiply-adds.

    `resolution` None is the published one; `fields` are overrides of `cfg.model`. A ValueError where they do not fit.
    """
    from mnet_jax import cost
    from mnet_jax.cost import conventions

    cfg = config.default()
    config.override(cfg, {"model.name": name, **{f"model.{key}": value for key, value in fields.items()}}, "bench")
    resolution = conventions.RESOLUTIONS.get(name, 224) if resolution is None else resolution
    counted = cost.count(cfg.model, resolution)
    regimes = {f"batch {size}": Regime({"name": name, **fields}, resolution, size) for size in sorted({1, batch})}
    entrants = {size: Entrant("infer mnet_jax arguments", regime.task, "infer") for size, regime in regimes.items()}
    times = contest.contest(entrants, settings, name)
    rows = []
    for (size, entry), regime in zip(times.items(), regimes.values(), strict=True):
        if entry.failed:
            rows.append((size, entry.failed, *[""] * 4))
            continue
        ms = contest.spread([1e3 * seconds for seconds in entry.seconds])
        rate = 1e3 * regime.batch / ms.median
        cells = (
            f"{ms.median:.4g}",
            f"{ms.low:.4g} - {ms.high:.4g}",
            f"{rate:,.0f}",
            f"{rate * counted.madds / 1e9:.1f}",
        )
        rows.append((size, *cells, contest.start(entry.first)))
    header = ("", "ms", "min - max", "images/s", "GMAdds/s", "first call (s)")
    title = f"{name} on {resolution} x {resolution}: {counted.madds:,} MAdds, {counted.params_trainable:,} parameters"
    return Result([Table(title, header, rows)], contest.raw(times))
