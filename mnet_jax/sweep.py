"""Experiment file -> arms and seeds -> runs -> jobs; and which of them is done, claimed or left."""

import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mnet_jax import config, results, stats
from mnet_jax.models import specs
from mnet_jax.results import Arm, Job, Run, Sweep

if TYPE_CHECKING:
    from mnet_jax.data.dataset import Dataset


class Experiment(NamedTuple):
    """An experiment file, loaded: its name and docstring, and what it defines."""

    name: str
    doc: str
    get_config: Callable[[str], Any]
    sweep: Callable[[Any], Iterator[dict[str, Any]]]
    claim: Mapping[str, Any] | Callable[[Any], Mapping[str, Any]]


def load(path: Path) -> Experiment:
    """Imports an experiment file; ValueError where it is missing, broken or without `get_config`."""
    if not path.is_file():
        near = sorted(other.name for other in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise ValueError(f"no experiment file {path}; in {path.parent}: {', '.join(near) or 'none'}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, "get_config"):
        raise ValueError(f"{path} defines no get_config(scale); see any file in experiments/")
    return Experiment(
        name=path.stem,
        doc=(module.__doc__ or path.stem).strip(),
        get_config=module.get_config,
        sweep=getattr(module, "sweep", lambda _: iter([{}])),
        claim=getattr(module, "claim", {}),
    )


def plan(
    experiment: Experiment,
    scale: str,
    overrides: Mapping[str, str],
    mode: str,
    command: str,
    fits: Callable[[Any], int] = lambda cfg: 1,
) -> Sweep:
    """Makes the sweep: every arm resolved and checked, twins added, runs named and put into jobs. Nothing is written.

    `fits(cfg)` says how many runs of an arm's config one job takes, where `runs_per_job` does not. Raises ValueError
    for whatever is wrong in the experiment file, a sweep row or an override of the command line.
    """
    where = f"{experiment.name}:{scale}"
    try:
        base = experiment.get_config(scale)
    except (AttributeError, KeyError, TypeError) as error:
        raise config.experiment_error(error, where) from error
    config.override(base, overrides, "command line")
    config.check(base, where)

    arms = _arms(experiment, base, overrides, where)
    claim = _jsonable(experiment.claim(base) if callable(experiment.claim) else dict(experiment.claim))
    for contrast in claim.get("contrasts", ()):
        if unknown := [name for name in contrast["arms"] if name not in arms]:
            raise ValueError(f"{where}: the claim names arm {unknown[0]!r}; the sweep's are {', '.join(arms)}")
    if mode == "tune":
        arms, claim["tune_arms"] = _tuning_grid(arms, base)
    elif base.task == "classification":
        arms = _with_twins(arms)

    seeds = range(base.seeds)
    if mode == "tune":
        seeds = range(config.TUNING_SEED, config.TUNING_SEED + base.tune.seeds)
        if base.data.holdout == 0:
            base.data.holdout = base.tune.holdout
    programs = {name: program(arm_config(config.flatten(base), arm)) for name, arm in arms.items()}
    if base.task == "classification":
        arms = _with_costs(arms, programs, base, where)
    if not base.runs_per_job:
        one_each = {digest: name for name, digest in programs.items()}.values()
        base.runs_per_job = min(fits(arm_config(config.flatten(base), arms[name])) for name in one_each)
    return Sweep(
        experiment=experiment.name,
        scale=scale,
        mode=mode,
        title=experiment.doc.split("\n")[0],
        command=command,
        config=_jsonable(config.flatten(base)),
        claim=claim,
        arms=tuple(arms.values()),
        jobs=_jobs(programs, seeds, base.runs_per_job),
    )


def _jobs(programs: Mapping[str, str], seeds: Iterable[int], size: int) -> tuple[Job, ...]:
    """Arm -> program becomes jobs of up to `size` runs of one program."""
    queues: dict[str, list[Run]] = {}
    for seed in seeds:
        for name, digest in programs.items():
            queues.setdefault(digest, []).append(Run(f"{name}-s{seed}", name, seed))
    batches = [
        (digest, tuple(runs[first : first + size]))
        for digest, runs in queues.items()
        for first in range(0, len(runs), size)
    ]
    batches.sort(key=lambda batch: batch[1][0].seed)  # all arms advance together, so a partial report compares
    return tuple(Job(_job_name(runs), digest, runs) for digest, runs in batches)


def widened(workdir: Path, sweep: Sweep) -> Sweep:
    """The plan with the seeds that `seeds_until` asks for, once the first `seeds` of every arm are done.

    Their spread alone decides how many there are (`stats.seeds_for_width`), so the same rows give the same plan.
    """
    first, width = sweep.config["seeds"], sweep.config["seeds_until"]
    jobs = tuple(job for job in sweep.jobs if all(run.seed < first for run in job.runs))
    pilot = replace(sweep, jobs=jobs)
    if not width or sweep.mode == "tune" or not sweep.claim.get("contrasts") or left(workdir, pilot):
        return sweep
    claim = {"metric": "accuracy", **sweep.claim}
    values: dict[str, dict[int, float]] = {arm.name: {} for arm in sweep.arms}
    for row in results.read_rows(workdir, pilot.runs):
        values[row["arm"]][row["seed"]] = results.counted(row)[claim["metric"]]
    seeds = min(stats.seeds_for_width(claim, values, width), sweep.config["seeds_max"])
    of_arm = {run.arm: job.program for job in jobs for run in job.runs}
    programs = {arm.name: of_arm[arm.name] for arm in sweep.arms}
    return replace(pilot, jobs=jobs + _jobs(programs, range(first, seeds), sweep.config["runs_per_job"]))


def arm_config(base: Mapping[str, Any], arm: Arm) -> Any:
    """The config of an arm's runs: the base with the arm's overrides."""
    return config.unflatten({**base, **arm.overrides})


def program(cfg: Any) -> str:
    """8 hex digits that name the compiled program: runs with equal ones can share it, and be compared arm by arm."""
    return hashlib.sha256(json.dumps(config.static(cfg), sort_keys=True).encode()).hexdigest()[:8]


def _job_name(runs: tuple[Run, ...]) -> str:
    """Says which runs, so that a checkpoint found under it is of these."""
    return runs[0].name if len(runs) == 1 else f"{runs[0].name}+{len(runs) - 1}-{runs[-1].name}"


def _arms(experiment: Experiment, base: Any, overrides: Mapping[str, str], where: str) -> dict[str, Arm]:
    rows = [dict(row) for row in experiment.sweep(base.copy_and_resolve_references())]
    if not rows:
        raise ValueError(f"{where}: sweep(config) yields no row; the first is the baseline")
    names = [row.pop("name", "") for row in rows]
    varied = {key for row in rows for key in row}
    if both := sorted(varied & set(overrides)):
        raise ValueError(f"command line: {both[0]} is what {where} sweeps over; change the file, or drop the override")
    arms: dict[str, Arm] = {}
    resolved: dict[Any, str] = {}
    for row, given in zip(rows, names, strict=True):
        cfg = base.copy_and_resolve_references()
        config.override(cfg, row, where)
        name = given or _name(row)
        config.check(cfg, f"{where}, arm {name}")
        if not re.fullmatch(r"[\w.=+@,-]+", name):
            raise ValueError(f"{where}: arm name {name!r}; allowed: letters, digits and _ . = + @ , -")
        same = _identity(cfg)
        if same in resolved or name in arms:
            raise ValueError(
                f"{where}: arms {resolved.get(same, name)!r} and {name!r} are the same network and settings"
            )
        resolved[same] = name
        arms[name] = Arm(name, _jsonable({key: config.flatten(cfg)[key] for key in row}), cfg.optim.lr)
    return arms


def _identity(cfg: Any) -> tuple[Any, ...]:
    flat = config.flatten(cfg)
    if flat["task"] != "classification":
        return tuple(flat.items())
    rest = tuple((key, value) for key, value in flat.items() if not key.startswith("model."))
    return (specs.resolve(cfg.model), *rest)


def _name(row: Mapping[str, Any]) -> str:
    """The values that make an arm: words stand alone, numbers with their key; the learning rate is no name."""
    parts = []
    for key, value in row.items():
        if key == "optim.lr" and len(row) > 1:
            continue
        leaf = key.split(".")[-1]
        if isinstance(value, str):
            parts.append(value)
        elif isinstance(value, tuple | list):
            digest = hashlib.sha256(repr(value).encode()).hexdigest()[:4]
            parts.append(f"{leaf}={digest}")
        else:
            parts.append(f"{leaf}={value}")
    return ",".join(parts) or "baseline"


def _with_twins(arms: dict[str, Arm]) -> dict[str, Arm]:
    """Adds to every arm with another learning rate than the baseline's a copy at the baseline's."""
    lr = next(iter(arms.values())).lr
    twins = {}
    for name, arm in arms.items():
        if arm.lr != lr:
            twin = f"{name}@lr{lr:g}"
            twins[twin] = Arm(twin, {**arm.overrides, "optim.lr": lr}, lr, twin_of=name)
    return {**arms, **twins}


def _tuning_grid(arms: dict[str, Arm], base: Any) -> tuple[dict[str, Arm], dict[str, str]]:
    grid = {
        f"{name}@lr{lr:g}": Arm(f"{name}@lr{lr:g}", {**arm.overrides, "optim.lr": float(lr)}, float(lr))
        for name, arm in arms.items()
        for lr in base.tune.lrs
    }
    return grid, {name: name.rsplit("@lr", 1)[0] for name in grid}


def _with_costs(arms: dict[str, Arm], programs: dict[str, str], base: Any, where: str) -> dict[str, Arm]:
    """Adds what an arm costs, and checks the network against the data.

    {"resolution", "madds", "params"} are of one image, {"images"} those that a run trains on.
    """
    from mnet_jax import cost
    from mnet_jax.data import load

    counted: dict[str, dict[str, float]] = {}
    for name, arm in arms.items():
        if programs[name] not in counted:
            cfg = arm_config(config.flatten(base), arm)
            source = load.metadata(cfg.data)
            height, _, channels = source.shape
            for field, came, needed in (
                ("model.num_classes", cfg.model.num_classes, source.classes),
                ("model.in_channels", cfg.model.in_channels, channels),
            ):
                if came != needed:
                    raise ValueError(f"{where}, arm {name}: {field}={came}; {source.name} needs {needed}")
            steps = _steps_per_epoch(source, cfg.data.train_size, cfg.data.holdout, cfg.train.batch_size)
            resolution = cfg.data.size or cfg.data.resolution or height
            count = cost.count(cfg.model, resolution)
            counted[programs[name]] = {
                "resolution": resolution,
                "madds": count.madds,
                "params": count.params_trainable,
                "images": cfg.train.epochs * steps * cfg.train.batch_size,
            }
    return {name: replace(arm, cost=counted[programs[name]]) for name, arm in arms.items()}


@functools.cache
def _steps_per_epoch(source: "Dataset", train_size: int, holdout: int, batch_size: int) -> int:
    from mnet_jax.data import dataset

    split = dataset.split(source, 0, train_size, holdout)
    return len(dataset.epoch_order(0, 0, split.train, batch_size))


def _jsonable(value: Any) -> Any:
    """As JSON reads it back, so that a plan in memory equals the one on disk."""
    return json.loads(json.dumps(value))


def write(workdir: Path, sweep: Sweep) -> None:
    """Puts the plan into the workdir, where the same plan may stand already, or one with fewer seeds.

    Raises ValueError with the differences where the workdir belongs to another plan, and where files cannot be locked.
    """
    check_locks(workdir)
    if (workdir / "sweep.json").exists():
        old = results.read_sweep(workdir)
        free = {"seeds", "seeds_max", "tune.seeds", *config.HOW}
        if sweep.config["seeds_until"]:  # the spread of the first seeds decides, so which they are cannot change
            free.remove("seeds")
        differences = [
            f"{key}: {old.config.get(key)!r} there, {value!r} now"
            for key, value in sweep.config.items()
            if old.config.get(key) != value and key not in free
        ]
        differences += [
            f"{key}: {there!r} there, {now!r} now"
            for key in ("experiment", "scale", "mode")
            if (there := getattr(old, key)) != (now := getattr(sweep, key))
        ]
        there, now = ({arm.name: arm.overrides for arm in plan.arms} for plan in (old, sweep))
        if there != now:
            differences.append(f"arms: {there} there, {now} now")
        if missing := [run.name for run in old.runs if run not in sweep.runs]:
            differences.append(f"runs: {', '.join(missing[:3])} .. there, not now; seeds can be added, not taken away")
        if differences:
            raise ValueError(
                f"{workdir} holds another plan ({'; '.join(differences)}); choose another --workdir, or remove it"
            )
    results.write_sweep(workdir, sweep)


def check_locks(workdir: Path) -> None:
    """ValueError where the workdir's file system cannot lock files, or its mount hides locks from other hosts."""
    import fcntl

    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / f".locks.{os.getpid()}"
    refused = "jobs are claimed by file locks, so that several processes and hosts can share a workdir; choose another"
    try:
        with open(path, "w") as one, open(path, "w") as two:
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                raise ValueError(f"{workdir}: its file system grants one lock twice; {refused}")
    except OSError as error:
        raise ValueError(f"{workdir}: no file can be locked there ({error}); {refused}") from error
    finally:
        with contextlib.suppress(OSError):  # where it could not be made either
            path.unlink()
    if options := _mount_options(workdir.resolve()) & {"nolock", "local_lock=all", "local_lock=flock"}:
        raise ValueError(f"{workdir}: NFS mounted with {options.pop()}, which hides locks from other hosts; {refused}")


def _mount_options(path: Path, mounts: Path = Path("/proc/self/mounts")) -> set[str]:
    """Options of the NFS mount that `path` lies on; none for other file systems, or where there is no such list."""
    best, options = Path("/"), set()
    with contextlib.suppress(OSError):
        for line in mounts.read_text().splitlines():
            _, where, kind, words = line.split()[:4]
            point = Path(where.encode().decode("unicode_escape"))
            if path.is_relative_to(point) and len(point.parts) >= len(best.parts):
                best, options = point, set(words.split(",")) if kind.startswith("nfs") else set()
    return options


def left(workdir: Path, sweep: Sweep) -> list[Job]:
    """Jobs with a run that has no row yet."""
    return [job for job in sweep.jobs if not all(results.is_done(workdir, run.name) for run in job.runs)]


@contextlib.contextmanager
def claim(workdir: Path, job: Job) -> Iterator[bool]:
    """Tries to become the one process that works on a job; yields whether that is so.

    An exclusive lock of the kernel on `jobs/NAME/lock`: it is freed at any death of its holder, so there is no
    heartbeat and no stale claim.
    """
    import fcntl

    path = results.job_dir(workdir, job.name) / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield not all(results.is_done(workdir, run.name) for run in job.runs)


def next_job(workdir: Path, sweep: Sweep, compiled: set[str], stack: contextlib.ExitStack) -> Job | None:
    """Claims a job that is left, rather one whose program is compiled already; None if all are done or taken.

    The claim is held until `stack` is closed.
    """
    jobs = sorted(left(workdir, sweep), key=lambda job: job.program not in compiled)
    for job in jobs:
        held = contextlib.ExitStack()
        if held.enter_context(claim(workdir, job)):
            stack.push(held)
            return job
        held.close()
    return None


def describe(sweep: Sweep) -> str:
    """What would be run: arms with their cost, runs, jobs, and the multiply-adds of it all."""
    lines = [f"{sweep.title}  [{sweep.experiment}:{sweep.scale}]", ""]
    width = max(len(arm.name) for arm in sweep.arms)
    total = 0.0
    for arm in sweep.arms:
        runs = sum(run.arm == arm.name for run in sweep.runs)
        facts = f"{runs} runs, lr {arm.lr:g}"
        if "madds" in arm.cost:
            work = 3 * arm.cost["madds"] * arm.cost["images"] * runs
            total += work
            facts += (
                f", {arm.cost['madds'] / 1e6:,.2f} M MAdds, {arm.cost['params']:,} params,"
                f" {arm.cost['images']:,} images a run"
            )
        changes = ", ".join(f"{key}={value}" for key, value in arm.overrides.items()) or "the base config"
        lines.append(f"  {arm.name:<{width}}  {facts}  ({changes})")
    if sweep.config["seeds_until"] and sweep.mode != "tune":
        width, most = sweep.config["seeds_until"], sweep.config["seeds_max"]
        lines.append(f"\nmore seeds, up to {most}, until every primary 95 % interval is at most {width:g} wide")
    lines.append(
        f"\n{len(sweep.runs)} runs in {len(sweep.jobs)} jobs of {len({j.program for j in sweep.jobs})} programs"
    )
    if total:
        lines.append(f"{total:.2e} multiply-adds in all (forward and backward; 3 times the forward pass)")
    return "\n".join(lines)
