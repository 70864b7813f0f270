"""The door: `python -m mnet_jax.main --config experiments/NAME.py[:SCALE]`; flags in, no logic."""

import argparse
import glob
import logging
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mnet_jax import config, runtime, workers

if TYPE_CHECKING:
    from mnet_jax.results import Sweep

STARTED = time.time()

EXAMPLES = """\
examples:
  python -m mnet_jax.main --config experiments/v2_linear_bottleneck.py
  python -m mnet_jax.main --config experiments/v2_linear_bottleneck.py:cifar10_quick --config.seeds=8
  python -m mnet_jax.main --config experiments/v2_linear_bottleneck.py --mode plan
  python -m mnet_jax.main --mode report --workdir runs/v2_linear_bottleneck-digits

Ctrl-C or a kill loses nothing that is done: the same command goes on. Exit status: 0 done, 75 stopped with work left
(run it again), 1 failed.

"""


def parser() -> argparse.ArgumentParser:
    knobs = "\n".join(
        f"  {name:<26} {value!s:<14} {knob.meaning}" for name, knob in config.KNOBS.items() for value in [knob.default]
    )
    door = argparse.ArgumentParser(
        prog="python -m mnet_jax.main",
        description="Trains the arms of an ablation with many seeds and says what was found, and how sure that is.",
        epilog=f"{EXAMPLES}fields for --config.KEY=VALUE, with the papers' values (a scale sets its own):\n{knobs}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    door.add_argument("--config", metavar="FILE[:SCALE]", help=f"experiment file; SCALE: {', '.join(config.SCALES)}")
    door.add_argument(
        "--mode",
        choices=("train", "plan", "tune", "report"),
        default="train",
        help="train: run what is missing, then report (default). plan: show arms, runs and cost. tune: find each arm's "
        "learning rate on other seeds. report: only from what is there",
    )
    door.add_argument("--workdir", action="append", default=[], metavar="DIR", help="default runs/NAME-SCALE")
    door.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes; default one a core on a CPU, else one; 1 works in this one",
    )
    door.add_argument("--config.KEY", metavar="VALUE", dest="_", help="overrides a field, such as --config.seeds=3")
    return door


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Splits the command line into flags and overrides {"model.width": "0.75"}."""
    door = parser()
    flags, rest = door.parse_known_args(arguments)
    overrides: dict[str, str] = {}
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if not name.startswith("--config."):
            door.error(f"unknown argument {name!r}; allowed: the flags above and --config.KEY=VALUE")
        if not equals:
            if not rest:
                door.error(f"{name} needs a value: {name}=VALUE")
            value = rest.pop(0)
        overrides[name.removeprefix("--config.")] = value
    return flags, overrides


def main(arguments: Sequence[str]) -> int:
    flags, overrides = parse(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    for noisy in ("absl", "jax", "orbax"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if flags.mode == "report" and not flags.config:
        if not flags.workdir:
            raise ValueError("--mode report needs --workdir (one or several, or a glob)")
        return report([Path(match) for pattern in flags.workdir for match in sorted(glob.glob(pattern)) or [pattern]])
    if not flags.config:
        raise ValueError("--config experiments/NAME.py[:SCALE] is missing; --help shows examples")
    if len(flags.workdir) > 1:
        raise ValueError(f"--mode {flags.mode} takes one --workdir, got {len(flags.workdir)}")
    if flags.workers is not None and flags.workers < 1:
        raise ValueError(f"--workers {flags.workers}; allowed: 1 or more")
    file, _, scale = flags.config.partition(":")
    path, scale = Path(file), scale or "digits"
    folder = f"{path.stem}-{scale}" + ("-tune" if flags.mode == "tune" else "")
    workdir = Path(flags.workdir[0]) if flags.workdir else Path("runs") / folder
    if flags.mode == "report":
        return report([workdir])

    runtime.start()
    from mnet_jax import results, sweep

    if workers.PARENT in os.environ:
        return work(results.read_sweep(workdir), workdir)
    command = shlex.join(["python", "-m", "mnet_jax.main", *arguments])
    mode = "tune" if flags.mode == "tune" else "train"
    plan = sweep.plan(sweep.load(path), scale, overrides, mode, command)
    if flags.mode == "plan":
        print(sweep.describe(plan))
        return 0
    sweep.write(workdir, plan)
    return train(plan, workdir, arguments, flags.workers)


def work(plan: "Sweep", workdir: Path) -> int:
    """Trains in this process until nothing is left to claim."""
    from mnet_jax import train as loop

    with workers.stop_signal() as stop:
        try:
            loop.work(workdir, plan, stop, STARTED)
        except loop.Preempted as reason:
            logging.info("%s; the same command goes on", reason)
            return 75
    return 0


def train(plan: "Sweep", workdir: Path, arguments: Sequence[str], number: int | None) -> int:
    """Trains what is missing, in this process or in one a core, and reports."""
    import jax

    from mnet_jax import sweep

    todo = len(sweep.left(workdir, plan))
    cores = workers.cores() if jax.default_backend() == "cpu" and jax.process_count() == 1 else []
    if number and number > 1 and not cores:
        raise ValueError(f"--workers {number}: only a CPU is shared by processes; allowed: 1, with runs_per_job")
    pins = [cores[index % len(cores)] for index in range(len(cores) if number is None else number) if cores][:todo]
    status, failures = 0, []
    if todo:
        with workers.progress(workdir, plan):
            if len(pins) > 1:
                status, failures = workers.run(arguments, workdir, pins)
            else:
                status = work(plan, workdir)
    report([workdir])
    rest = len(sweep.left(workdir, plan))
    for line in failures:
        logging.error(line)
    if rest:
        logging.info("%d of %d jobs are left; the same command goes on", rest, len(plan.jobs))
    return 1 if rest and failures else status if rest else 0


def report(workdirs: Sequence[Path]) -> int:
    from mnet_jax import report as pages

    for workdir in workdirs:
        summary = pages.write(workdir)
        print(pages.to_text(summary, color=sys.stdout.isatty()))
        print(f"{workdir / 'report.html'}\n{workdir / 'report.md'}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ValueError, OSError) as error:  # a user's mistake; a full disk
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
