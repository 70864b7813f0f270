"""Latency and throughput of any network, and of an experiment's arms; the evaluations that `step.measure` times."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mnet_jax import config, formatting, workers
from mnet_jax.arms import arm_config
from mnet_jax.bench import harness, step
from mnet_jax.bench.harness import Contender, Result, Settings, Times
from mnet_jax.bench.regime import BFLOAT16, V2, Regime
from mnet_jax.errors import UserError
from mnet_jax.table import Row, Table

if TYPE_CHECKING:
    from mnet_jax.cost import Cost, Layer
    from mnet_jax.experiment import Code
    from mnet_jax.results import Sweep

REGIMES = {"224, batch 1": Regime(V2, 224, 1), **step.REGIMES}
GPU = {f"224, bfloat16, batch {batch}": Regime(V2 | BFLOAT16, 224, batch) for batch in (1, 32, 256)}
GPU_LINEUP = step.Lineup(("torch", "torch.compile", "torch.graphs", "timm.graphs"), step.GPU_FORMULATIONS)


def network(
    name: str, settings: Settings, resolution: int | None, batch: int, fields: Mapping[str, Any]
) -> Iterator[Result]:
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
    contenders = {
        size: Contender("contenders.ours.infer", {"regime": regime, "constant": False}, "infer")
        for size, regime in regimes.items()
    }
    times = harness.run_rounds(contenders, settings, name)
    rows = []
    for size, regime in regimes.items():
        entry = times[size]
        rate = 0.0 if entry.failed else regime.batch / entry.median
        speed = (f"{rate:,.0f}", f"{rate * counted.madds / 1e9:.1f}") if rate else ("", "")
        rows.append((size, *harness.format_row(entry, entry)[:2], *speed, harness.format_seconds(entry.first_call)))
    header = ("", "ms", "min - max", "images/s", "GMAdds/s", "first call (s)")
    title = f"{name} on {resolution} x {resolution}: {counted.madds:,} MAdds, {counted.params_trainable:,} parameters"
    yield Result(name, [Table(title, header, rows)], times)
    yield _by_type(counted, Regime({"name": name, **fields}, resolution, 1), settings, name)


def _by_type(counted: "Cost", regime: Regime, settings: Settings, name: str) -> Result:
    """Where the time goes at batch 1 on one core: all layers of a type alone, with bias and clip.

    "MobileNet spends 95 % of its computation time in 1x1 convolutions" (Howard et al. 2017, section 3.2).
    """
    from mnet_jax.cost.walk import WEIGHTED

    layers: dict[str, list[Layer]] = {}
    for layer in counted.layers:
        if layer.type in WEIGHTED:
            pointwise = layer.type == "conv" and layer.window == 1
            layers.setdefault("1x1 conv" if pointwise else layer.type, []).append(layer)
    shapes = {
        type_: [(layer.kernel, layer.stride, layer.groups, layer.input_shape, layer.output_shape) for layer in members]
        for type_, members in layers.items()
    }
    contenders = {"whole network": Contender("contenders.ours.infer", {"regime": regime}, "infer")}
    contenders |= {type_: Contender("contenders.ours.layers", {"layers": shapes}, type_) for type_ in layers}
    title = f"{name}, by type of layer"
    times = harness.run_rounds(contenders, settings._replace(core=workers.cores()[0]), title)
    whole, total = times["whole network"], sum(times[type_].median for type_ in layers if times[type_].seconds)
    rows: list[Row] = [("whole network", "", "", *harness.format_row(whole, whole)[:2], "")]
    for type_, members in layers.items():
        entry, madds = times[type_], sum(layer.madds for layer in members)
        share = f"{entry.median / total:.1%}" if entry.seconds else ""
        cells = harness.format_row(entry, entry)[:2]
        rows.append((type_, str(len(members)), f"{madds / counted.madds:.1%}", *cells, share))
    header = ("", "layers", "share of MAdds", "ms", "min - max", "share of the layers' ms")
    return Result(title, [Table(f"{name} by type of layer, batch 1 on one core", header, rows)], times)


def latencies(plan: "Sweep", code: "Code", settings: Settings) -> Result:
    """A row an arm: batch 1 on one core, as a multiple of the first arm's, beside the paper's where the claim has it.

    The result's `times` are {arm: Times}. UserError where the experiment has no networks, or brings its own.
    """
    if not code.task_of(arm_config(plan.config, plan.arms[0])).trains:
        raise UserError(f"{plan.experiment}:{plan.scale} has no networks to time; allowed: experiments that train")
    if code.network or code.blocks:
        raise UserError(f"{plan.experiment} brings a network of its own, which the benchmark's processes do not know")
    contenders = {}
    for arm in plan.arms:
        if not arm.same_lr_as:
            flat = config.flatten(arm_config(plan.config, arm))
            fields = {key: value for key, value in flat.items() if key.startswith("model.") and "norm." not in key}
            model = {key.removeprefix("model."): value for key, value in fields.items()}
            regime = Regime(model, int(arm.cost["resolution"]), 1)
            contenders[arm.name] = Contender("contenders.ours.infer", {"regime": regime}, "infer")
    times = harness.run_rounds(contenders, settings._replace(core=workers.cores()[0]), plan.experiment)
    return Result(f"{plan.experiment}:{plan.scale}", [_latency_table(plan, times)], times)


def _latency_table(plan: "Sweep", times: Mapping[str, Times]) -> Table:
    printed = {name: row.get("latency_ms") for name, row in (plan.claim.printed or {}).items()}
    first, ours = next(iter(times.items()))
    rows = []
    for name, entry in times.items():
        cost = plan.arm(name).cost
        cells = [name, formatting.quantity(cost["madds"]), formatting.quantity(cost["params"])]
        cells += harness.format_row(entry, ours)
        if any(printed.values()):
            paper, base = printed.get(name), printed.get(first)
            cells += [f"{paper:g}" if paper else "–", f"{paper / base:.2f}" if paper and base else "–"]
        rows.append(cells)
    header = ["", "MAdds", "params", "ms", "min - max", f"/ {first}", "min - max"]
    header += ["the paper's ms", f"/ {first}"] if any(printed.values()) else []
    return Table(f"{plan.experiment}:{plan.scale}, an image at a time on one core", header, rows)
