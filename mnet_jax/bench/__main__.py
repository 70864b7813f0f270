"""`python -m mnet_jax.bench`: how fast it is, side by side with what else there is, on the machine at hand."""

import argparse
import functools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from mnet_jax import flags, runtime, workers
from mnet_jax.bench import data, depthwise, inference, profile, quickstart, seeds, step
from mnet_jax.bench.harness import Result, Settings
from mnet_jax.errors import UserError


class Part(NamedTuple):
    """`measure` takes the settings and, where the part has any, those of its `regimes` that are wanted."""

    measure: Callable[..., Iterator[Result]]
    regimes: Mapping[str, Any] = {}


def _networks(lineup: step.Lineup, which: step.Pass = "train", **options: bool) -> Callable[..., Iterator[Result]]:
    return functools.partial(step.measure, lineup=lineup, which=which, **options)


CPU = {
    "step": Part(_networks(step.LINEUP, limits=True), step.REGIMES),
    "small": Part(_networks(step.ONE_CORE_LINEUP, one_core=True), step.ONE_CORE),
    "inference": Part(_networks(step.LINEUP, "infer"), inference.REGIMES),
    "depthwise": Part(depthwise.measure, depthwise.CPU),
    "seeds": Part(seeds.measure, seeds.REGIMES),
    "profile": Part(profile.measure, step.REGIMES),
    "quickstart": Part(quickstart.measure),
}
GPU = {
    "depthwise": Part(depthwise.measure, depthwise.GPU),
    "step": Part(_networks(step.GPU_LINEUP, limits=True), step.GPU),
    "profile": Part(profile.measure, step.GPU),
    "inference": Part(_networks(inference.GPU_LINEUP, "infer"), inference.GPU),
    "seeds": Part(functools.partial(seeds.measure, runs=seeds.GPU_RUNS), seeds.GPU),
}
PARTS = CPU if runtime.on_cpu() else GPU
PACKAGES = ("jax", "jaxlib", "flax", "keras", "torch", "timm", "jax-cuda13-plugin", "jax-cuda12-plugin")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures a network, an experiment's arms, or one part after the other; prints the tables."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if "--data" in words:
        data.main([word for word in words if word != "--data"])
        return
    args = _parser().parse_args(words)
    parts = _check(args)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU is shared with the contenders' processes
    if runtime.wanted(runtime.KEEP_MEMORY) and runtime.on_cpu():
        runtime.keep_memory()
    settings = Settings(rounds=args.rounds, peers_python=args.peers_python)
    if args.name:
        fields = {} if args.width is None else {"width": args.width}
        _show("network", inference.network(args.name, settings, args.resolution, args.batch, fields), args)
    elif args.config:
        _show("latency", [_latencies(args, settings)], args)
    else:
        for name, (measure, regimes) in parts.items():
            _show(name, measure(settings, regimes) if regimes else measure(settings), args)


def _check(args: argparse.Namespace) -> dict[str, Part]:
    """The parts to be measured, with the regimes that are wanted; raises UserError before anything is measured."""
    flags.check_number("--rounds", args.rounds, 1, 1000)
    flags.check_number("--batch", args.batch, 1, 2**20)
    flags.check_number("--resolution", args.resolution, 1, flags.MAX_RESOLUTION)
    flags.check_number("--width", args.width, 0)
    if args.workdir and not args.config:
        raise UserError(f"--workdir {args.workdir} is of --config FILE[:SCALE], which is missing")
    parts = {}
    for name in args.part or PARTS:
        measure, regimes = PARTS[name]
        wanted = {key: regime for key, regime in regimes.items() if key.startswith(tuple(args.regime or [""]))}
        if regimes and not wanted:
            raise UserError(f"--regime {' '.join(args.regime)}; the regimes of {name} are: {'; '.join(regimes)}")
        parts[name] = Part(measure, wanted)
    if not shutil.which(args.peers_python):
        raise UserError(f"--peers-python {args.peers_python}; allowed: an interpreter that can be run")
    if args.out:
        flags.check_folder("--out", args.out)
    return parts


def _latencies(args: argparse.Namespace, settings: Settings) -> Result:
    """The latency of every arm; it is written into the workdir, too, where a report finds it."""
    from mnet_jax import laboratory, results

    planned_here = laboratory.plan([args.config])[0]
    plan = planned_here.sweep
    if args.workdir:
        planned = results.read_sweep(args.workdir)
        if (planned.experiment, planned.scale) != (plan.experiment, plan.scale):
            raise UserError(
                f"{args.workdir} holds {planned.experiment}:{planned.scale}, not {plan.experiment}:{plan.scale}"
            )
    result = inference.latencies(plan, planned_here.experiment.code, settings)
    if args.workdir:
        results.write_latencies(args.workdir, {arm: times.seconds for arm, times in result.times.items()})
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m mnet_jax.bench", description=__doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help="time one network; without it, the parts")
    parser.add_argument("--resolution", type=int, help="of NAME: height and width (default: the published one)")
    parser.add_argument("--batch", type=int, default=32, help="of NAME: images a call, for throughput (default: 32)")
    parser.add_argument("--width", type=float, help="of NAME: width multiplier")
    parser.add_argument("--config", metavar="FILE[:SCALE]", help="latency of an experiment's arms, side by side")
    parser.add_argument("--workdir", type=Path, metavar="DIR", help="of that experiment: its report shows the latency")
    parser.add_argument(
        "--part",
        nargs="+",
        choices=tuple(PARTS),
        help="default: all, which takes most of an hour (launch/README.md: on a GPU)",
    )
    parser.add_argument("--regime", nargs="+", metavar="START", help="only the regimes whose names start so")
    parser.add_argument("--rounds", type=int, default=5, help="A B C A B C .. (default: 5; seeds: at least 9)")
    parser.add_argument("--peers-python", default=sys.executable, metavar="PATH", help="interpreter with torch, keras")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for PART-REGIME.md, .jsonl (every round), .svg")
    parser.add_argument("--data", action="store_true", help="the input pipeline; --data --help shows its flags")
    return parser


def _show(name: str, results: Iterable[Result], args: argparse.Namespace) -> None:
    """Prints the tables of each result as it comes, and adds it to the files in `--out`.

    The first line of the .jsonl file says where and when, each other line is {"case", "times"}.
    """
    file = None if args.out is None else args.out / re.sub(r"[^\w.]+", "-", "-".join((name, *(args.regime or ()))))
    lines: list[dict[str, Any]] = []
    bars = {}
    for number, result in enumerate(results):
        text = "".join(f"{table.section()}\n" for table in result.tables)
        print(text, end="", flush=True)
        if file is None:
            continue
        lines = [{"case": result.case, "times": result.times}]
        if number == 0:
            lines.insert(0, _facts(args))
        mode = "a" if number else "w"
        with file.with_name(f"{file.name}.md").open(mode) as tables:
            tables.write(text)
        with file.with_name(f"{file.name}.jsonl").open(mode) as rounds:
            rounds.writelines(json.dumps(line, default=asdict) + "\n" for line in lines)
        if result.bars:
            from mnet_jax import figures

            bars[result.case] = result.bars
            figures.benchmark(bars, result.unit).savefig(file.with_name(f"{file.name}.svg"))


def _facts(args: argparse.Namespace) -> dict[str, Any]:
    date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"machine": _machine(), "versions": _versions(args.peers_python), "rounds": args.rounds, "date": date}


def _machine() -> dict[str, Any]:
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": (names or [platform.processor()])[0],
        "cores": len(workers.cores()),
        "python": platform.python_version(),
        "gpu": _gpu(),
    }


def _gpu() -> str:
    """Name, driver and memory of NVIDIA's cards, or ""."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _versions(python: str) -> dict[str, str]:
    """{package: its version under the peers' interpreter}."""
    code = (
        "import importlib.metadata as m, json, sys\n"
        "print(json.dumps({d.name: d.version for d in m.distributions() if d.name in sys.argv[1:]}))"
    )
    done = subprocess.run([python, "-c", code, *PACKAGES], capture_output=True, text=True, check=False)
    return json.loads(done.stdout or "{}")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
