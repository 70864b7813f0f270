"""Evaluation: this project with its folded norms against what else there is; latencies of any network, and of arms."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mnet_jax import config, stats, sweep, workers
from mnet_jax.bench import contest, step
from mnet_jax.bench.contest import Entrant, Result, Settings, Table
from mnet_jax.bench.step import BFLOAT16, V2, Regime

if TYPE_CHECKING:
    from mnet_jax.cost import Cost, Layer
    from mnet_jax.results import Sweep

REGIMES = {"224, batch 1": Regime(V2, 224, 1), **step.REGIMES}
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
    """Latency at batch 1 and throughput at `batch` of one network, beside its multiply-adds; its time by type of layer.

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
        rate = 0.0 if entry.failed else regime.batch / entry.median
        speed = (f"{rate:,.0f}", f"{rate * counted.madds / 1e9:.1f}") if rate else ("", "")
        rows.append((size, *contest.cells(entry, entry)[:2], *speed, contest.start(entry.first)))
    header = ("", "ms", "min - max", "images/s", "GMAdds/s", "first call (s)")
    title = f"{name} on {resolution} x {resolution}: {counted.madds:,} MAdds, {counted.params_trainable:,} parameters"
    shares, by_type = _by_type(counted, Regime({"name": name, **fields}, resolution, 1), settings, name)
    return Result([Table(title, header, rows), shares], contest.raw(times | by_type))


def _by_type(counted: "Cost", regime: Regime, settings: Settings, name: str) -> tuple[Table, dict[str, contest.Times]]:
    """Where the time goes at batch 1 on one core: all layers of a type alone, with bias and clip.

    "MobileNet spends 95 % of its computation time in 1x1 convolutions" (Howard et al. 2017, section 3.2).
    """
    from mnet_jax.cost.walk import WEIGHTED

    layers: dict[str, list[Layer]] = {}
    for layer in counted.layers:
        if layer.type in WEIGHTED:
            pointwise = layer.type == "conv" and layer.window == 1
            layers.setdefault("1x1 conv" if pointwise else layer.type, []).append(layer)
    entrants = {"whole network": Entrant("infer mnet_jax", regime.task, "infer")}
    shapes = {
        type_: [(layer.kernel, layer.stride, layer.groups, layer.input_shape, layer.output_shape) for layer in members]
        for type_, members in layers.items()
    }
    entrants |= {type_: Entrant("layers mnet_jax", shapes, type_) for type_ in layers}
    times = contest.contest(entrants, settings._replace(core=workers.cores()[0]), f"{name}, by type of layer")
    whole, total = times["whole network"], sum(entry.median for entry in times.values() if entry.seconds)
    total -= whole.median if whole.seconds else 0.0
    rows: list[contest.Row] = [("whole network", "", "", *contest.cells(whole, whole)[:2], "")]
    for type_, members in layers.items():
        entry, madds = times[type_], sum(layer.madds for layer in members)
        share = f"{entry.median / total:.1%}" if entry.seconds else ""
        rows.append((type_, str(len(members)), f"{madds / counted.madds:.1%}", *contest.cells(entry, entry)[:2], share))
    header = ("", "layers", "share of MAdds", "ms", "min - max", "share of the layers' ms")
    return Table(f"{name} by type of layer, batch 1 on one core", header, rows), times


def latencies(plan: "Sweep", settings: Settings) -> Result:
    """A row an arm: batch 1 on one core, as a multiple of the first arm's, beside the paper's where the claim has it.

    Raw are the {arm: {"seconds"}} that `results.write_latencies` takes.
    """
    if plan.config["task"] != "classification":
        raise ValueError(f"{plan.experiment}:{plan.scale} has no networks to time; allowed: experiments that classify")
    entrants = {}
    for arm in plan.arms:
        if not arm.twin_of:
            flat = config.flatten(sweep.arm_config(plan.config, arm))
            fields = {key: value for key, value in flat.items() if key.startswith("model.") and "norm." not in key}
            model = {key.removeprefix("model."): value for key, value in fields.items()}
            task = Regime(model, int(arm.cost["resolution"]), 1).task
            entrants[arm.name] = Entrant("infer mnet_jax", task, "infer")
    times = contest.contest(entrants, settings._replace(core=workers.cores()[0]), plan.experiment)
    printed = {name: row.get("latency_ms") for name, row in plan.claim.get("printed", {}).items()}
    ours, first = next(iter(times.items()))[1], next(iter(times))
    rows = []
    for name, entry in times.items():
        cost = plan.arm(name).cost
        cells = [name, stats.quantity(cost["madds"]), stats.quantity(cost["params"])]
        cells += contest.cells(entry, ours)
        if any(printed.values()):
            paper, base = printed.get(name), printed.get(first)
            cells += [f"{paper:g}" if paper else "–", f"{paper / base:.2f}" if paper and base else "–"]
        rows.append(cells)
    header = ["", "MAdds", "params", "ms", "min - max", f"/ {first}", "min - max"]
    header += ["the paper's ms", f"/ {first}"] if any(printed.values()) else []
    title = f"{plan.experiment}:{plan.scale}, an image at a time on one core"
    return Result([Table(title, header, rows)], contest.raw(times))
