"""Training steps: this project against what else there is, in the same rounds, with the machine's own limits."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mnet_jax import config, runtime
from mnet_jax.bench import contest, roofline
from mnet_jax.bench.contest import Entrant, Result, Settings, Table


class Regime(NamedTuple):
    """A network at a resolution and batch size; `model` are overrides of `cfg.model`."""

    model: Mapping[str, Any]
    resolution: int
    batch: int

    @property
    def dtype(self) -> str:
        return self.model.get("dtype", "float32")

    @property
    def task(self) -> dict[str, Any]:
        """As a contender's process takes it."""
        return {"model": dict(self.model), "resolution": self.resolution, "batch": self.batch}


V2 = {"name": "mobilenet_v2"}
SMALL_IMAGES = {"num_classes": 10, "stem": (32, 1)}
REGIMES = {
    "224, batch 8": Regime(V2, 224, 8),
    "96, batch 32": Regime(V2, 96, 32),
    "32, batch 128": Regime(V2 | SMALL_IMAGES, 32, 128),
    "32, width 0.35, batch 64": Regime(V2 | SMALL_IMAGES | {"width": 0.35}, 32, 64),
}
ONE_CORE = {
    "d17 at 16, batch 60": Regime({"name": "d17", "in_channels": 1, "num_classes": 10}, 16, 60),
    "c8 at 32, batch 128": Regime({"name": "c8", "num_classes": 10}, 32, 128),
    "c17 at 32, batch 128": Regime({"name": "c17", "num_classes": 10}, 32, 128),
}
"""What one worker of the first command, and of the CIFAR scales, trains."""

BFLOAT16 = {"dtype": "bfloat16"}
GPU = {
    "224, bfloat16, batch 256": Regime(V2 | BFLOAT16, 224, 256),
    "224, bfloat16, batch 1024": Regime(V2 | BFLOAT16, 224, 1024),
    "224, float32, batch 256": Regime(V2, 224, 256),
}

OURS, KEPT = "mnet_jax", ", allocator set"
GPU_WAYS = ("shift", "pallas")
"""Formulations that stand beside the chosen one on a GPU."""


def measure(settings: Settings, regimes: Mapping[str, Regime] = REGIMES) -> Result:
    """All contenders on every core."""
    return _measure(settings, regimes, entrants(("keras", "torch", "torch.compile")), limits=True)


def measure_gpu(settings: Settings, regimes: Mapping[str, Regime] = GPU) -> Result:
    """The formulations, PyTorch and timm, on one card."""
    return _measure(settings, regimes, gpu_entrants("train", ("torch", "torch.compile", "timm.compile")), limits=True)


def measure_one_core(settings: Settings, regimes: Mapping[str, Regime] = ONE_CORE) -> Result:
    """What the workers train, on one core, against PyTorch."""
    from mnet_jax import workers

    one = settings._replace(core=workers.cores()[0])
    return _measure(one, regimes, entrants(("torch",), nnx=False), limits=False)


Entrants = Callable[[Regime], dict[str, Entrant]]


def entrants(peers: Sequence[str], nnx: bool = True, work: str = "train") -> Entrants:
    """Ours, plain NNX, and each peer with the default allocator and with the one that is set here."""

    def of(regime: Regime) -> dict[str, Entrant]:
        field = {OURS: Entrant(f"{work} mnet_jax", regime.task, work)}
        if nnx:
            field["plain NNX"] = Entrant(f"{work} nnx", regime.task, work, keep_memory=False)
        for peer in peers:
            for kept in (False, True):
                field[peer + KEPT * kept] = Entrant(f"{work} {peer}", regime.task, work, keep_memory=kept, peer=True)
        return field

    return of


def gpu_entrants(work: str, peers: Sequence[str]) -> Entrants:
    """Ours with the chosen formulation and with others, and each peer."""

    def of(regime: Regime) -> dict[str, Entrant]:
        field = {OURS: Entrant(f"{work} mnet_jax", regime.task, work)}
        for way in GPU_WAYS:
            task = regime._replace(model={**regime.model, "formulation": way}).task
            field[f"{OURS}, {way}"] = Entrant(f"{work} mnet_jax", task, work)
        return field | {peer: Entrant(f"{work} {peer}", regime.task, work, peer=True) for peer in peers}

    return of


def _measure(settings: Settings, regimes: Mapping[str, Regime], entrants: Entrants, limits: bool) -> Result:
    tables, raw, bars = [], {}, {}
    limited: list[contest.Row] = []
    for name, regime in regimes.items():
        field, sizes = entrants(regime), roofline.sizes(regime.dtype, runtime.on_cpu())
        if limits:
            field |= {probe: Entrant("probes", sizes, probe) for probe in ("gemm", "copy")}
        times = contest.contest(field, settings, name, again=[OURS])
        raw[name] = contest.raw(times)
        probes = [times.pop(probe) for probe in ("gemm", "copy") if probe in times]
        table, bars[name] = contest.compare(f"Training step at {name}", times, regime.batch)
        tables.append(table)
        if all(probe.seconds for probe in probes) and probes and times[OURS].seconds:
            gemm, copy = (min(probe.seconds) for probe in probes)
            machine = roofline.machine(gemm, copy, sizes)
            limited.append((name, *reached(regime, machine, times[OURS].median)))
    if limited:
        tables.append(Table("Limits of the machine, measured in the same rounds", ("", *LIMITS), limited))
    return Result(tables, raw, bars, "ms a step")


LIMITS = ("GFLOP/s", "copy GiB/s", "floor of 12 passes (ms)", "reached", "of 6 passes (ms)", "reached")


def reached(regime: Regime, machine: roofline.Machine, seconds: float) -> list[str]:
    """The cells of `LIMITS`."""
    from mnet_jax import cost

    size = 2 if regime.dtype == "bfloat16" else 4
    counted = cost.count(settled(regime.task).model, regime.resolution, bytes_per_element=size)
    cells = [f"{2 * machine.madds / 1e9:.0f}", f"{machine.bytes / 2**30:.1f}"]
    for passes in roofline.PASSES:
        floor = roofline.floor(counted, regime.batch, passes, machine)
        cells += [f"{1e3 * floor:.1f}", f"{floor / seconds:.0%}"]
    return cells


def settled(task: Mapping[str, Any]) -> Any:
    """The config of a task: the network, SGD with momentum at a constant rate, and nothing that peers do not have."""
    cfg = config.default()
    config.override(
        cfg,
        {
            "model.padding": "symmetric",
            "model.dropout": 0.0,
            "model.norm.group": 0,
            "train.batch_size": task["batch"],
            "train.label_smoothing": 0.0,
            "train.ema": 0.0,
            "optim.name": "sgd",
            "optim.schedule": "constant",
            "optim.weight_decay": 0.0,
            **{f"model.{key}": value for key, value in task["model"].items()},
        },
        "bench",
    )
    config.check(cfg, "bench")
    return cfg
