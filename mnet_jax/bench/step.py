"""Training steps and evaluations of whole networks, beside other libraries and the limits of the machine."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from mnet_jax import runtime, workers
from mnet_jax.bench import harness, roofline
from mnet_jax.bench.harness import Contender, Result, Settings
from mnet_jax.bench.regime import BFLOAT16, D17, SMALL_IMAGES, V2, Regime
from mnet_jax.table import Table

OURS = "mnet_jax"
PEERS = {
    "keras": ("keras", {}),
    "torch": ("torch", {}),
    "torch.compile": ("torch", {"compile": "default"}),
    "torch.graphs": ("torch", {"compile": "reduce-overhead"}),
    "timm.compile": ("torch", {"compile": "default", "timm": True}),
    "timm.graphs": ("torch", {"compile": "reduce-overhead", "timm": True}),
}
"""{contender: (file of `contenders`, arguments of its functions)}; CUDA graphs leave no gaps between kernels."""

GPU_FORMULATIONS = ("shift", "pallas")
"""Formulations that are timed beside the chosen one on a GPU."""


class Lineup(NamedTuple):
    """Who is timed beside this project.

    `peers`         of `PEERS`.
    `formulations`  this project's, beside the chosen one.
    `plain_nnx`     whether plain NNX takes part.
    `allocators`    whether each peer is timed with the default allocator, and again with `runtime.keep_memory`.
    """

    peers: Sequence[str]
    formulations: Sequence[str] = ()
    plain_nnx: bool = False
    allocators: bool = False


REGIMES = {
    "224, batch 8": Regime(V2, 224, 8),
    "96, batch 32": Regime(V2, 96, 32),
    "32, batch 128": Regime(V2 | SMALL_IMAGES, 32, 128),
    "32, width 0.35, batch 64": Regime(V2 | SMALL_IMAGES | {"width": 0.35}, 32, 64),
}
LINEUP = Lineup(("keras", "torch", "torch.compile"), plain_nnx=True, allocators=True)

ONE_CORE = {
    "d17 at 16, batch 60": Regime(D17, 16, 60),
    "c8 at 32, batch 128": Regime({"name": "c8", "num_classes": 10}, 32, 128),
    "c17 at 32, batch 128": Regime({"name": "c17", "num_classes": 10}, 32, 128),
}
"""What one worker of the README's first command, and of the CIFAR scales, trains."""
ONE_CORE_LINEUP = Lineup(("torch",), allocators=True)

GPU = {
    "224, bfloat16, batch 256": Regime(V2 | BFLOAT16, 224, 256),
    "224, bfloat16, batch 1024": Regime(V2 | BFLOAT16, 224, 1024),
    "224, float32, batch 256": Regime(V2, 224, 256),
}
GPU_LINEUP = Lineup(("torch", "torch.compile", "timm.compile"), GPU_FORMULATIONS)

Pass = Literal["train", "infer"]
WORDS: Mapping[Pass, tuple[str, str]] = {
    "train": ("Training step", "ms a step"),
    "infer": ("Inference", "ms a call"),
}
"""{pass: (title of its tables, unit of its picture)}"""


def measure(
    settings: Settings,
    regimes: Mapping[str, Regime],
    lineup: Lineup,
    which: Pass = "train",
    limits: bool = False,
    one_core: bool = False,
) -> Iterator[Result]:
    """Times all contenders of the lineup; with `limits` also what the machine can do, in the same rounds."""
    settings = settings._replace(core=workers.cores()[0]) if one_core else settings
    title, unit = WORDS[which]
    for name, regime in regimes.items():
        field, sizes = contenders(regime, lineup, which), roofline.sizes(regime.dtype, runtime.on_cpu())
        if limits:
            field |= {probe: Contender("roofline.probes", sizes, probe) for probe in roofline.PROBES}
        times = harness.run_rounds(field, settings, f"{title}, {name}", restart=[OURS] if which == "train" else [])
        shown = {name: entry for name, entry in times.items() if name not in roofline.PROBES}
        table, bars = harness.compare(f"{title} at {name}", shown, regime.batch)
        tables = [table]
        if limits and all(times[entry].seconds for entry in (OURS, *roofline.PROBES)):
            machine = roofline.machine(min(times["gemm"].seconds), min(times["copy"].seconds), sizes)
            cells = roofline.reached(regime, machine, times[OURS].median)
            tables.append(Table("Limits of the machine, measured in the same rounds", roofline.HEADER, [cells], left=0))
        yield Result(name, tables, times, bars, unit)


def contenders(regime: Regime, lineup: Lineup, which: Pass) -> dict[str, Contender]:
    """{name: contender}, ours first; an evaluation also takes its weights as arguments."""

    def ours(regime: Regime, **arguments: bool) -> Contender:
        return Contender(f"contenders.ours.{which}", {"regime": regime, **arguments}, which)

    field = {OURS: ours(regime)}
    for way in lineup.formulations:
        field[f"{OURS}, {way}"] = ours(regime._replace(model={**regime.model, "formulation": way}))
    if lineup.plain_nnx:
        field["plain NNX"] = Contender(f"contenders.nnx.{which}", {"regime": regime}, which, keep_memory=False)
    for peer in lineup.peers:
        file, arguments = PEERS[peer]
        contender = Contender(f"contenders.{file}.{which}", {"regime": regime, **arguments}, which, False, peer=True)
        field[peer] = contender
        if lineup.allocators:
            field[f"{peer}, allocator set"] = contender._replace(keep_memory=True)
    if which == "infer":
        field[f"{OURS}, weights as arguments"] = ours(regime, constant=False)
    return field
