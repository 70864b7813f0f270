"""`python -m mnet_jax.main --config experiments/NAME.py[:SCALE]`: reads the command line and calls `laboratory`."""

import argparse
import glob
import sys
from collections.abc import Sequence
from pathlib import Path

import mnet_jax
from mnet_jax import config, laboratory, runtime, status
from mnet_jax.errors import UserError

EXAMPLES = """\
examples:
  python -m mnet_jax.main --config experiments/v2_linear_bottleneck.py
  python -m mnet_jax.main --config experiments/v2_linear_bottleneck.py:cifar10_quick --config.seeds=8
  python -m mnet_jax.main --config experiments/v2_linear_bottleneck.py --mode plan
  python -m mnet_jax.main --config 'experiments/v2_*.py:cifar10_quick'        one after the other, and an index of all
  python -m mnet_jax.main --mode report --workdir 'runs/*'

Ctrl-C or a kill loses nothing that is finished: the same command goes on. Exit status: 0 everything is finished, 75
work is left (run the same command again), 1 something failed.

"""


def parser() -> argparse.ArgumentParser:
    """The flags, with every config field in the help text."""
    fields = "\n".join(f"  {name:<26} {field.default!s:<14} {field.meaning}" for name, field in config.FIELDS.items())
    flags = argparse.ArgumentParser(
        prog="python -m mnet_jax.main",
        description="Trains the arms of an ablation with many seeds and says what the runs show, and how sure that is.",
        epilog=f"{EXAMPLES}fields for --config.KEY=VALUE, with the papers' values (a scale sets others):\n{fields}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    flags.add_argument(
        "--config",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE[:SCALE]",
        help="experiment files or globs; of several, those that do not take the SCALE are skipped. SCALE: "
        + "; ".join(f"for {task} {', '.join(scales)}" for task, scales in config.TASK_SCALES.items()),
    )
    flags.add_argument(
        "--mode",
        choices=("train", "plan", "status", "tune", "report"),
        default="train",
        help="train: run what is missing, then report (default). plan: show arms, runs and cost, and estimate the time "
        "by running some steps for up to half a minute. status: say what of a workdir is finished, in progress and "
        "left, while others work on it. tune: train every arm at several learning rates on other seeds "
        "and say which is best, and how sure that is. report: write the report from the runs that are finished",
    )
    flags.add_argument(
        "--workdir", nargs="+", action="extend", default=[], metavar="DIR", help="default OUT/NAME-SCALE"
    )
    flags.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the workdirs, and of index.html and report.html, which show several sweeps; default runs, for "
        "--mode report the folder of the first workdir",
    )
    flags.add_argument(
        "--bucket",
        default="",
        metavar="URL",
        help="keep OUT the same as this folder, gs://NAME/FOLDER: what is there is copied here first, then "
        "what changes here is copied there; one command at a time",
    )
    flags.add_argument(
        "--readme", type=Path, metavar="FILE", help="with --mode report: rewrite the table of results in this file"
    )
    flags.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="worker processes; default one for each core on a CPU, else one; 1 trains in this process",
    )
    flags.add_argument(
        "--distributed",
        nargs="*",
        metavar="ARG",
        help="join the processes of one job: without arguments as the cluster says (SLURM and Open MPI need no flag), "
        "or HOST:PORT PROCESSES PROCESS",
    )
    flags.add_argument(
        "--devices",
        type=int,
        metavar="N",
        help="with --mode plan: what a step needs on N devices, compiled for up to "
        f"{laboratory.VIRTUAL_DEVICES} virtual ones and extrapolated beyond",
    )
    flags.add_argument("--bandwidth", type=float, default=0.0, metavar="GB/S", help="of each device, for --devices")
    flags.add_argument(
        "--list",
        action="store_true",
        help="print the experiment files of --config, default experiments/*.py, with scales, runs and rough minutes",
    )
    flags.add_argument("--version", action="version", version=f"mnet_jax {mnet_jax.__version__}")
    flags.add_argument("--config.KEY", metavar="VALUE", dest="_", help="overrides a field, such as --config.seeds=3")
    return flags


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Splits the command line into flags and overrides {"model.width": "0.75"}."""
    known = parser()
    flags, rest = known.parse_known_args(arguments)
    overrides: dict[str, str] = {}
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if not name.startswith("--config."):
            known.error(f"unknown argument {name!r}; allowed: the flags above and --config.KEY=VALUE")
        if not equals:
            if not rest:
                known.error(f"{name} needs a value: {name}=VALUE")
            value = rest.pop(0)
        overrides[name.removeprefix("--config.")] = value
    _check(flags)
    return flags, overrides


def _check(flags: argparse.Namespace) -> None:
    """Refuses flags that do not go together, with a UserError."""
    if flags.workers is not None and flags.workers < 1:
        raise UserError(f"--workers {flags.workers}; allowed: 1 or more")
    reads_only = flags.mode in ("report", "status")
    if reads_only and not flags.workdir:
        raise UserError(f"--mode {flags.mode} needs --workdir (one or several, or a glob)")
    if not (reads_only or flags.config or flags.list):
        raise UserError("--config experiments/NAME.py[:SCALE] is missing; --help shows examples")
    if flags.readme and flags.mode != "report":
        raise UserError(f"--readme with --mode {flags.mode}; allowed: with --mode report")
    if flags.bucket and flags.mode not in ("train", "tune"):
        raise UserError(f"--bucket with --mode {flags.mode}; allowed: with --mode train or tune")
    if flags.devices is not None and (flags.mode != "plan" or flags.devices < 1):
        raise UserError(f"--devices {flags.devices} --mode {flags.mode}; allowed: 1 or more, with --mode plan")
    if not 0 <= flags.bandwidth < float("inf"):
        raise UserError(f"--bandwidth {flags.bandwidth}; allowed: a positive number of GB/s")


def _folders(name: str) -> list[Path]:
    """The folder of this name, or else those that it matches as a glob."""
    matches = [] if Path(name).exists() else sorted(glob.glob(name))
    return [Path(match) for match in matches or [name]]


def main(arguments: Sequence[str]) -> int:
    """Runs one command; returns its exit status."""
    flags, overrides = parse(arguments)
    runtime.start_logging()
    if flags.list:
        print(laboratory.listing(flags.config or ["experiments/*.py"]))
        return 0
    workdirs = list(dict.fromkeys(folder for name in flags.workdir for folder in _folders(name)))
    if flags.mode == "status":
        for workdir in workdirs:
            print(status.describe(workdir))
        return 0
    if flags.mode == "report":
        summaries = laboratory.report(workdirs, flags.out, flags.readme)
        return int(len(summaries) < sum((workdir / "sweep.json").exists() for workdir in workdirs))

    laboratory.check(flags.config, overrides)
    if flags.devices is not None:
        laboratory.virtual_devices(flags.devices)
    runtime.start()
    if flags.mode != "plan":
        from mnet_jax import sharding

        sharding.init_distributed(flags.distributed)
    plans = laboratory.plan(
        flags.config,
        workdirs,
        overrides=overrides,
        mode="tune" if flags.mode == "tune" else "train",
        out=flags.out or "runs",
        command=laboratory.shown_command(arguments),
    )
    if flags.devices is not None:
        print(laboratory.capacities(plans, flags.devices, flags.bandwidth))
    elif flags.mode == "plan":
        print("\n\n".join(map(str, plans)), flush=True)
        print(laboratory.minutes(plans, flags.workers))
    else:
        return laboratory.train(plans, flags.workers, flags.out, flags.bucket)
    return 0


def run() -> None:
    """Runs the command line of this process, and ends it: the console script `mnet-jax`."""
    with runtime.exit_status():
        sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
