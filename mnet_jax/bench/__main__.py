"""`python -m mnet_jax.bench`: how fast it is, side by side with what else there is, on the machine at hand."""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mnet_jax import runtime, workers
from mnet_jax.bench import command, correct, data, depthwise, determinism, inference, ops, profile, seeds, step
from mnet_jax.bench.contest import Result, Settings


class Part(NamedTuple):
    """`measure` takes the settings and, where the part has them, those of its `regimes` that are wanted."""

    measure: Callable[..., Result]
    regimes: Mapping[str, Any] = {}


ANYWHERE = {
    "correct": Part(correct.measure, correct.REGIMES),
    "determinism": Part(determinism.measure),
}
CPU = ANYWHERE | {
    "step": Part(step.measure, step.REGIMES),
    "small": Part(step.measure_one_core, step.ONE_CORE),
    "inference": Part(inference.measure, inference.REGIMES),
    "ops": Part(ops.measure),
    "depthwise": Part(depthwise.measure, depthwise.CPU),
    "seeds": Part(seeds.measure, seeds.REGIMES),
    "profile": Part(profile.measure, step.REGIMES),
    "main": Part(command.measure),
}
GPU = ANYWHERE | {
    "depthwise": Part(depthwise.measure, depthwise.GPU),
    "step": Part(step.measure_gpu, step.GPU),
    "profile": Part(profile.measure, step.GPU),
    "inference": Part(inference.measure_gpu, inference.GPU),
    "seeds": Part(seeds.measure_gpu, seeds.GPU),
}
PARTS = CPU if runtime.on_cpu() else GPU
PACKAGES = ("jax", "jaxlib", "flax", "keras", "torch", "timm", "jax-cuda13-plugin", "jax-cuda12-plugin")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures a network, or one part after the other; prints the tables."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if "--data" in words:
        data.main([word for word in words if word != "--data"])
        return
    args = _parser().parse_args(words)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU is shared with the contenders' processes
    if runtime.wanted(runtime.KEEP_MEMORY) and runtime.on_cpu():
        runtime.keep_memory()
    settings = Settings(rounds=args.rounds, peers_python=args.peers_python)
    if args.workdir and not args.config:
        raise ValueError(f"--workdir {args.workdir} is of --config FILE[:SCALE], which is missing")
    if args.name:
        fields = {} if args.width is None else {"width": args.width}
        _show("network", inference.network(args.name, settings, args.resolution, args.batch, fields), args)
        return
    if args.config:
        _latencies(args, settings)
        return
    for name in args.part or PARTS:
        part = PARTS[name]
        wanted = {key: regime for key, regime in part.regimes.items() if key.startswith(tuple(args.regime or [""]))}
        if part.regimes and not wanted:
            raise ValueError(f"--regime {' '.join(args.regime)}; of {name} there are: {'; '.join(part.regimes)}")
        _show(name, part.measure(settings, wanted) if part.regimes else part.measure(settings), args)


def _latencies(args: argparse.Namespace, settings: Settings) -> None:
    """Of every arm; into the workdir too, where a report finds them."""
    from mnet_jax import results, sweep

    file, _, scale = args.config.partition(":")
    plan = sweep.plan(sweep.load(Path(file)), scale or "digits", {}, "train", "")
    if args.workdir:
        there = results.read_sweep(args.workdir)
        if (there.experiment, there.scale) != (plan.experiment, plan.scale):
            raise ValueError(
                f"{args.workdir} holds {there.experiment}:{there.scale}, not {plan.experiment}:{plan.scale}"
            )
    result = inference.latencies(plan, settings)
    if args.workdir:
        results.write_latencies(args.workdir, {arm: times["seconds"] for arm, times in result.raw.items()})
    _show("latency", result, args)


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
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for PART-REGIME.md, .json (every round), .svg")
    parser.add_argument("--data", action="store_true", help="the input pipeline; --data --help shows its flags")
    return parser


def _show(name: str, result: Result, args: argparse.Namespace) -> None:
    text = "\n".join(table.markdown() for table in result.tables)
    print(text, end="", flush=True)
    if args.out is None:
        return
    name = re.sub(r"[^\w.]+", "-", "-".join((name, *(args.regime or ()))))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{name}.md").write_text(text)
    facts = {"machine": _machine(), "versions": _versions(args.peers_python), "rounds": args.rounds}
    facts["date"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    (args.out / f"{name}.json").write_text(json.dumps(facts | {"times": result.raw}, indent=1))
    if result.bars:
        from mnet_jax import figures

        figures.benchmark(result.bars, result.unit).savefig(args.out / f"{name}.svg")


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
    """Of the packages under the peers' interpreter."""
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
