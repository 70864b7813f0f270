"""The door: `python -m mnet_jax.main --config experiments/NAME.py[:SCALE]`; flags in, no logic."""

import argparse
import glob
import logging
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mnet_jax import config, runtime, workers

if TYPE_CHECKING:
    from mnet_jax.results import Sweep

STARTED = time.time()

VIRTUAL_DEVICES = 32
"""That a plan compiles for, at most."""

EXAMPLES = """\
examples:
  python -m mnet_jax.main --config experiments/v2_linear_bottleneck.py
  python -m mnet_jax.main --config experiments/v2_linear_bottleneck.py:cifar10_quick --config.seeds=8
  python -m mnet_jax.main --config experiments/v2_linear_bottleneck.py --mode plan
  python -m mnet_jax.main --config 'experiments/v2_*.py:cifar10_quick'        one after the other, and an index of all
  python -m mnet_jax.main --mode report --workdir 'runs/*'

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
    door.add_argument(
        "--config",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE[:SCALE]",
        help=f"experiment files or globs; of several, those that do not take the SCALE are skipped. SCALE: "
        f"{', '.join(config.SCALES)}",
    )
    door.add_argument(
        "--mode",
        choices=("train", "plan", "tune", "report"),
        default="train",
        help="train: run what is missing, then report (default). plan: show arms, runs, cost and time, of which "
        "some steps are run for up to half a minute. tune: find each arm's "
        "learning rate on other seeds. report: only from what is there",
    )
    door.add_argument("--workdir", nargs="+", action="extend", default=[], metavar="DIR", help="default OUT/NAME-SCALE")
    door.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the workdirs, of index.html and of report.html, which are of several sweeps; default runs, of "
        "a report the folder of the first workdir",
    )
    door.add_argument(
        "--readme", type=Path, metavar="FILE", help="rewrite the table of results in this Markdown file, of a report"
    )
    door.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes; default one a core on a CPU, else one; 1 works in this one",
    )
    door.add_argument(
        "--distributed",
        nargs="*",
        metavar="ARG",
        help="join the processes of one job: without arguments as the cluster says (SLURM and Open MPI need no flag), "
        "or HOST:PORT PROCESSES PROCESS",
    )
    door.add_argument(
        "--devices",
        type=int,
        metavar="N",
        help="of a plan: what a step needs on N devices, compiled for up to 32 virtual ones, modelled beyond",
    )
    door.add_argument("--bandwidth", type=float, default=0.0, metavar="GB/S", help="of a device, for --devices")
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
    for noisy in ("jax", "fontTools"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for noisy in ("absl", "orbax"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # what Orbax reports as an error it also raises
    if workers.PARENT in os.environ:
        runtime.start()
        if flags.mode == "plan":
            from mnet_jax import budget

            budget.calibrate([Path(workdir) for workdir in flags.workdir])
            return 0
        return work([Path(workdir) for workdir in flags.workdir])
    if flags.workers is not None and flags.workers < 1:
        raise ValueError(f"--workers {flags.workers}; allowed: 1 or more")
    files = [(path, scale) for pattern in flags.config for path, scale in experiment_files(pattern)]
    folders = [Path(match) for pattern in flags.workdir for match in sorted(glob.glob(pattern)) or [pattern]]
    if flags.mode != "report" and not files:
        raise ValueError("--config experiments/NAME.py[:SCALE] is missing; --help shows examples")
    if files and len(folders) not in (0, len(files)):
        raise ValueError(f"one --workdir for each --config: got {len(folders)} and {len(files)}")
    if files and not folders:
        suffix = "-tune" if flags.mode == "tune" else ""
        folders = [(flags.out or Path("runs")) / f"{path.stem}-{scale}{suffix}" for path, scale in files]
    if flags.mode == "report":
        if not folders:
            raise ValueError("--mode report needs --workdir (one or several, or a glob)")
        return report(folders, flags.out, flags.readme)

    if flags.devices is not None:
        if flags.mode != "plan" or flags.devices < 1:
            raise ValueError(f"--devices {flags.devices} --mode {flags.mode}; allowed: 1 or more, of --mode plan")
        os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(min(flags.devices, VIRTUAL_DEVICES))}
    runtime.start()
    if flags.mode != "plan":
        from mnet_jax import sharding

        sharding.start(flags.distributed)
    plans = make_plans(files, folders, overrides, "tune" if flags.mode == "tune" else "train", arguments)
    if flags.devices is not None:
        from mnet_jax import scaling

        print("\n\n".join(scaling.of_plan(plan, flags.devices, flags.bandwidth) for plan in plans.values()))
        return 0
    if flags.mode == "plan":
        return show(plans, flags.workers)
    return train(plans, flags.workers, flags.out)


def show(plans: Mapping[Path, "Sweep"], number: int | None) -> int:
    """Prints the plans, and then how long they will take."""
    import tempfile

    from mnet_jax import budget, results, sweep

    print("\n\n".join(map(sweep.describe, plans.values())), flush=True)
    trained = list(filter(budget.trains, plans.values()))
    if not trained:
        return 0
    sampled = budget.samples(trained)
    with tempfile.TemporaryDirectory() as folder:
        workdirs = [Path(folder) / str(number) for number in range(len(sampled))]
        for workdir, sample in zip(workdirs, sampled, strict=True):
            results.write_sweep(workdir, sample)
        pins = worker_pins(number, sum(len(plan.jobs) for plan in trained))
        if len(pins) > 1:
            workers.run(workdirs, pins, mode="plan")
        else:
            budget.calibrate(workdirs)
        print(budget.describe(trained, sampled, budget.read(workdirs), max(1, len(pins))))
    return 0


def experiment_files(pattern: str) -> list[tuple[Path, str]]:
    """FILE[:SCALE], where FILE may be a glob -> the files and the scale."""
    file, _, scale = pattern.partition(":")
    return [(Path(match), scale or "digits") for match in sorted(glob.glob(file)) or [file]]


def make_plans(
    files: Sequence[tuple[Path, str]],
    folders: Sequence[Path],
    overrides: Mapping[str, str],
    mode: str,
    arguments: Sequence[str],
) -> dict[Path, "Sweep"]:
    """Workdir -> plan. Of several files those that refuse the scale are left out, with a line that says why."""
    from mnet_jax import scaling, sweep

    command = shlex.join(["python", "-m", "mnet_jax.main", *arguments])
    plans = {}
    for (path, scale), workdir in zip(files, folders, strict=True):
        experiment = sweep.load(path)
        try:
            experiment.get_config(scale)
        except ValueError as reason:
            if len(files) == 1:
                raise
            logging.info("skipped %s:%s: %s", path.stem, scale, reason)
            continue
        plans[workdir] = sweep.plan(experiment, scale, overrides, mode, command, scaling.runs_that_fit)
    return plans


def work(workdirs: Sequence[Path]) -> int:
    """Trains in this process until nothing is left to claim, one workdir after the other."""
    from mnet_jax import results
    from mnet_jax import train as loop

    started = STARTED
    with workers.stop_signal() as stop:
        try:
            for workdir in workdirs:
                loop.work(workdir, results.read_sweep(workdir), stop, started)
                started = 0.0
        except loop.Preempted as reason:
            logging.info("%s; the same command goes on", reason)
            return 75
    return 0


def train(plans: Mapping[Path, "Sweep"], number: int | None, out: Path | None) -> int:
    """Trains what is missing, and the seeds that `seeds_until` then asks for; reports."""
    from mnet_jax import sharding, sweep

    while True:
        if sharding.is_first():
            plans = {workdir: sweep.widened(workdir, plan) for workdir, plan in plans.items()}
            for workdir, plan in plans.items():
                sweep.write(workdir, plan)
        sharding.agree(0)  # the others wait for what they are about to read
        status, failures = train_missing(plans, number)
        more = not (status or failures) and any(sweep.widened(*item) != item[1] for item in plans.items())
        if not sharding.agree(more):
            break
    if sharding.is_first():
        reported = report(list(plans), out)
        for line in failures:
            logging.error(line)
        rest = sum(len(sweep.left(workdir, plan)) for workdir, plan in plans.items())
        if rest:
            jobs = sum(len(plan.jobs) for plan in plans.values())
            logging.info("%d of %d jobs are left; the same command goes on", rest, jobs)
        status = 1 if rest and failures else status if rest else reported
    return sharding.agree(status)  # the others wait for the report: to end early would be to fail


def train_missing(plans: Mapping[Path, "Sweep"], number: int | None) -> tuple[int, list[str]]:
    """In this process or in one a core; returns the exit status and a line for each worker that failed."""
    import jax

    from mnet_jax import sharding, sweep

    if not sharding.is_first():
        return work(list(plans)), []
    left = {workdir: len(jobs) for workdir, plan in plans.items() if (jobs := sweep.left(workdir, plan))}
    several = jax.process_count() > 1
    pins = worker_pins(number, sum(left.values()))
    if not left and not several:
        return 0, []
    with workers.progress(plans):
        if len(pins) > 1:
            return workers.run(list(left), pins, _hang_seconds(plans))
        return work(list(plans if several else left)), []


def worker_pins(number: int | None, jobs: int) -> list[int]:
    """The core of each worker process; none where this process is to do the work itself, on an accelerator."""
    import jax

    cores = workers.cores() if jax.default_backend() == "cpu" and jax.process_count() == 1 else []
    if number and number > 1 and not cores:
        raise ValueError(f"--workers {number}: only a CPU is shared by processes; allowed: 1, with runs_per_job")
    most = len(cores) if number is None else number
    return [cores[index % len(cores)] for index in range(most) if cores][:jobs]


def _hang_seconds(plans: Mapping[Path, "Sweep"]) -> float:
    return max(plan.config["train.hang_seconds"] for plan in plans.values())


def report(workdirs: Sequence[Path], out: Path | None, readme: Path | None = None) -> int:
    """Writes the report of every workdir and, of several, the index and the page of all. 1 where one is refused."""
    from mnet_jax import report as pages

    if len(workdirs) > 1:
        planned = [workdir for workdir in workdirs if (workdir / "sweep.json").exists()]
        for workdir in workdirs:
            if workdir not in planned and not workdir.is_file():
                logging.info("skipped %s: it holds no sweep.json", workdir)
        workdirs = planned or workdirs[:1]
    made, refused = {}, False
    for workdir in workdirs:
        try:
            made[workdir] = pages.write(workdir)
        except ValueError as error:
            if len(workdirs) == 1:
                raise
            refused = True
            logging.error("error: %s: %s", workdir, error)
            continue
        print(pages.to_text(made[workdir][0], color=sys.stdout.isatty()))
        print(f"{workdir / 'report.html'}\n{workdir / 'report.md'}")
    summaries = [summary for summary, _ in made.values()]
    if readme:
        pages.write_readme(readme, summaries)
    if len(workdirs) > 1:
        out = out or workdirs[0].parent
        pages.write_index(out, made)
        print(pages.index_text(summaries))
        print(f"{out / 'index.html'}\n{out / 'report.html'}")
    return int(refused)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ValueError, OSError) as error:  # a user's mistake; a full disk
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
