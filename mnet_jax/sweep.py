"""Experiment -> arms and seeds -> runs -> jobs; and which of them is finished, claimed or left."""

import collections
import contextlib
import functools
import hashlib
import itertools
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnet_jax import config, locks, results, stats
from mnet_jax import experiment as experiments
from mnet_jax.config import claims
from mnet_jax.errors import UserError
from mnet_jax.experiment import Experiment
from mnet_jax.fields import LARGEST, nearest
from mnet_jax.models import specs
from mnet_jax.results import Arm, Job, Need, Run, Sweep
from mnet_jax.tasks import TASKS, Metric

if TYPE_CHECKING:
    from mnet_jax.data.dataset import Dataset

MOST_ARMS = 20_000
"""An endless `sweep(config)` ends here."""

MOST_RUNS = 1_000_000
"""Of a sweep: each is an entry of sweep.json and a folder."""

LONGEST_NAME = 100
"""Bytes of an arm's name: two of them make the name of a job's folder, which has up to 255."""


def plan(
    experiment: Experiment,
    scale: str,
    overrides: Mapping[str, str],
    mode: str,
    command: str,
    runs_per_job: Callable[[Any, Any], int] = lambda cfg, code: 1,
) -> Sweep:
    """Makes the sweep: every arm resolved and checked, runs named and put into jobs. Nothing is written.

    `runs_per_job(cfg, code)` says how many runs of an arm's config one job takes, where the field of that name does
    not. Raises UserError for whatever is wrong in the experiment file, a sweep row or an override of the command line.
    """
    where = f"{experiment.name}:{scale}"
    base = base_config(experiment, scale)
    if "scale" in overrides:
        raise UserError(f"command line: the scale is part of --config: {experiment.path}:{overrides['scale']}")
    config.override(base, overrides, "command line")
    config.check(base, where)

    arms = _arms(experiment, base, overrides, where)
    task = experiment.code.task_of(base)
    metrics = _metrics(task, base)
    claim = _claim(experiment, base, arms, metrics, where)
    arms = _with_needs(arms, config.flatten(base), where)
    if mode == "tune":
        arms = _tuning_grid(arms, base)
    elif task.trains:
        arms = _with_same_lr(arms, where)

    seeds = range(base.seeds)
    if mode == "tune":
        seeds = range(config.TUNING_SEED, config.TUNING_SEED + base.tune.seeds)
        if base.data.holdout == 0:
            base.data.holdout = base.tune.holdout
    if len(arms) * len(seeds) > MOST_RUNS:
        raise UserError(f"{where}: {len(arms):,} arms of {len(seeds):,} seeds; allowed: {MOST_RUNS:,} runs")
    flat = config.flatten(base)
    programs = {name: program(flat, arm, arms, experiment.fingerprint) for name, arm in arms.items()}
    if task.trains:
        arms = _with_costs(arms, flat, experiment, where)
    if not base.runs_per_job:
        first_arms = {digest: name for name, digest in programs.items()}.values()
        configs = [arm_config(flat, arms[name]) for name in first_arms]
        base.runs_per_job = min(runs_per_job(cfg, experiment.code) for cfg in configs)
    return Sweep(
        experiment=experiment.name,
        scale=scale,
        mode=mode,
        title=experiment.doc.split("\n")[0],
        command=command,
        config=_jsonable(config.flatten(base)),
        claim=claim,
        metrics=metrics,
        arms=tuple(arms.values()),
        jobs=_jobs(arms, programs, seeds, base.runs_per_job),
        code=experiment.fingerprint,
    )


def base_config(experiment: Experiment, scale: str) -> Any:
    """What `get_config(scale)` returns; UserError where it raises one or returns no config."""
    where = f"{experiment.name}:{scale}"
    try:
        base = experiment.get_config(scale)
    except UserError:
        raise
    except ValueError as error:  # what the file itself says, such as that it does not take the scale
        raise UserError(str(error)) from error
    except (AttributeError, KeyError, TypeError) as error:
        raise config.field_error(error, where) from error
    except (Exception, SystemExit) as error:
        raise UserError(f"{where}: get_config raises {type(error).__name__}: {error}") from error
    try:
        config.flatten(base)
    except (AttributeError, KeyError, TypeError):
        raise UserError(f"{where}: get_config returns {base!r}; allowed: a config, as config.at_scale makes") from None
    return base


def _metrics(task: Any, base: Any) -> tuple[Metric, ...]:
    """Those of the task and, where trained networks are looked into, of that."""
    if base.analysis and task.trains:
        from mnet_jax import analysis

        return (*task.metrics(base), *analysis.METRICS)
    return tuple(task.metrics(base))


def _claim(
    experiment: Experiment, base: Any, arms: Mapping[str, Arm], metrics: tuple[Metric, ...], where: str
) -> claims.Claim:
    value = experiment.claim
    if callable(value):
        try:
            value = value(base.copy_and_resolve_references())
        except (Exception, SystemExit) as error:
            raise UserError(f"{where}: claim(config) raises {type(error).__name__}: {error}") from error
    claim = claims.parse(value, where)
    claim = replace(claim, metric=claim.metric or metrics[0].name)
    claims.check(claim, arms, [metric.name for metric in metrics], where)
    return claim


def _jobs(arms: Mapping[str, Arm], programs: Mapping[str, str], seeds: Iterable[int], size: int) -> tuple[Job, ...]:
    """Jobs of up to `size` runs of one program, so ordered that what others need comes first."""
    depths = {name: _depth(arm, arms) for name, arm in arms.items()}
    queues: dict[tuple[int, str], list[Run]] = {}
    for seed in seeds:
        for name, digest in programs.items():
            queues.setdefault((depths[name], digest), []).append(Run(f"{name}-s{seed}", name, seed))
    batches = [
        (depth, digest, tuple(runs[first : first + size]))
        for (depth, digest), runs in queues.items()
        for first in range(0, len(runs), size)
    ]
    batches.sort(
        key=lambda batch: (batch[2][0].seed, batch[0])
    )  # all arms advance together, so partial reports compare
    return tuple(_job(digest, runs) for _, digest, runs in batches)


def _job(digest: str, runs: tuple[Run, ...]) -> Job:
    """The name says which runs, so that a checkpoint under it is of these."""
    name = runs[0].name if len(runs) == 1 else f"{runs[0].name}+{len(runs) - 1}-{runs[-1].name}"
    return Job(name, digest, runs)


def _depth(arm: Arm, arms: Mapping[str, Arm]) -> int:
    """How many arms must be finished one after the other before this one can start."""
    return max((1 + _depth(arms[need.arm], arms) for need in arm.needs if need.arm), default=0)


def with_more_seeds(workdir: Path, sweep: Sweep) -> Sweep:
    """The plan with the seeds that `seeds_until` asks for, once the first `seeds` of every arm are finished.

    Their spread alone decides how many there are (`stats.seeds_for_width`), so the same rows give the same plan.
    """
    first, width = sweep.config["seeds"], sweep.config["seeds_until"]
    jobs = tuple(job for job in sweep.jobs if all(run.seed < first for run in job.runs))
    pilot = replace(sweep, jobs=jobs)
    if not width or sweep.mode == "tune" or not sweep.claim.contrasts or left(workdir, pilot):
        return sweep
    metric = sweep.metric(sweep.claim.metric)
    values: dict[str, dict[int, float]] = {arm.name: {} for arm in sweep.arms}
    for row in results.read_rows(workdir, pilot):
        values[row["arm"]][row["seed"]] = results.scored_metrics(row, sweep.metrics)[metric.name]
    wanted = stats.seeds_for_width(sweep.claim.contrasts, values, width, metric.print_factor)
    programs = {run.arm: job.program for job in jobs for run in job.runs}
    arms = {arm.name: arm for arm in sweep.arms}
    seeds = range(first, min(wanted, sweep.config["seeds_max"]))
    return replace(pilot, jobs=jobs + _jobs(arms, programs, seeds, sweep.config["runs_per_job"]))


def arm_config(base: Mapping[str, Any], arm: Arm) -> Any:
    """The config of an arm's runs: the base with the arm's overrides."""
    return config.unflatten({**base, **arm.overrides})


def program(base: Mapping[str, Any], arm: Arm, arms: Mapping[str, Arm], code: Mapping[str, str]) -> str:
    """8 hex digits that name what an arm's runs compile: runs with equal ones can share it.

    Fields at their defaults do not count, so that a new field changes no name; the experiment's code does, and the
    teacher's network.
    """
    cfg = arm_config(base, arm)
    parts: dict[str, Any] = {
        name: value for name, value in config.static_fields(cfg).items() if value != config.FIELDS[name].default
    }
    if code:
        parts["code"] = code["sha256"]
    for need in arm.needs:
        if need.role == "teacher":
            parts["train.teacher"] = program(base, arms[need.arm], arms, code) if need.arm else need.sha256
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def _arms(experiment: Experiment, base: Any, overrides: Mapping[str, str], where: str) -> dict[str, Arm]:
    rows = _rows(experiment, base, where)
    names = [row.pop("name", "") for row in rows]
    varied = {key for row in rows for key in row}
    if both := sorted(varied & set(overrides)):
        raise UserError(f"command line: {both[0]} is what {where} sweeps over; change the file, or drop the override")
    if fixed := sorted(varied & (config.EXECUTION | config.PLANNING | {"task"})):
        raise UserError(f"{where}: arms cannot differ in {fixed[0]}, which is the whole sweep's")
    arms: dict[str, Arm] = {}
    names_by_identity: dict[Any, str] = {}
    for row, given in zip(rows, names, strict=True):
        cfg = base.copy_and_resolve_references()
        config.override(cfg, row, where)
        name = given or _name(row)
        if not isinstance(name, str) or not re.fullmatch(results.NAME, name) or len(name.encode()) > LONGEST_NAME:
            raise UserError(
                f"{where}: arm name {name!r}; allowed: up to {LONGEST_NAME} letters, digits and _ . = + @ , -; "
                "'name' in a row gives its arm another"
            )
        config.check(cfg, f"{where}, arm {name}")
        same = _identity(cfg, experiment)
        if same in names_by_identity or name in arms:
            raise UserError(
                f"{where}: arms {names_by_identity.get(same, name)!r} and {name!r} are the same network and settings"
            )
        names_by_identity[same] = name
        flat = config.flatten(cfg)
        arms[name] = Arm(name, _jsonable({key: flat[key] for key in row}), cfg.optim.lr)
    return arms


def _rows(experiment: Experiment, base: Any, where: str) -> list[dict[str, Any]]:
    try:
        rows = list(itertools.islice(experiment.sweep(base.copy_and_resolve_references()), MOST_ARMS + 1))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except (Exception, SystemExit) as error:
        raise UserError(f"{where}: sweep(config) raises {type(error).__name__}: {error}") from error
    if not rows:
        raise UserError(f"{where}: sweep(config) yields no row; the first is the baseline")
    if len(rows) > MOST_ARMS:
        raise UserError(f"{where}: sweep(config) yields more than {MOST_ARMS:,} rows")
    for row in rows:
        if not isinstance(row, Mapping):
            raise UserError(f"{where}: sweep(config) yields {row!r}; allowed: dicts of overrides")
    return [dict(row) for row in rows]


def _identity(cfg: Any, experiment: Experiment) -> tuple[Any, ...]:
    """What two arms must differ in: the network as it resolves, and all other settings."""
    flat = {name: value for name, value in config.flatten(cfg).items() if name not in config.EXECUTION}
    if not TASKS[cfg.task].trains or experiment.code.network:
        return tuple(flat.items())
    rest = tuple((name, value) for name, value in flat.items() if not name.startswith("model."))
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


NEEDS = {"train.init_from": "init_from", "train.teacher": "teacher"}
"""Field that names an arm or a weights file -> the role of its weights."""


def _with_needs(arms: dict[str, Arm], base: Mapping[str, Any], where: str) -> dict[str, Arm]:
    """Says of every arm whose weights its runs need, by its overrides and the base config."""
    needing = {}
    for name, arm in arms.items():
        values = {field: arm.overrides.get(field, base[field]) for field in NEEDS}
        needs = [_need(NEEDS[field], value, arms, f"{where}, arm {name}: {field}")
                 for field, value in values.items() if value]  # fmt: skip
        needing[name] = replace(arm, needs=tuple(needs))
    for name in needing:
        _refuse_circle(name, needing, (), where)
    return needing


def _need(role: str, value: str, arms: Mapping[str, Arm], where: str) -> Need:
    from mnet_jax.models import weights

    if value in arms:
        return Need(role, arm=value)
    path = Path(value)
    if not path.is_file():
        raise UserError(
            f"{where}={value!r}{nearest(value, arms)}; allowed: a weights file, or one of {', '.join(arms)}"
        )
    weights.read(path)
    return Need(role, file=str(path.resolve()), sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def _refuse_circle(name: str, arms: Mapping[str, Arm], before: tuple[str, ...], where: str) -> None:
    if name in before:
        raise UserError(f"{where}: arms that need one another: {' -> '.join((*before[before.index(name) :], name))}")
    for need in arms[name].needs:
        if need.arm:
            _refuse_circle(need.arm, arms, (*before, name), where)


def _with_same_lr(arms: dict[str, Arm], where: str) -> dict[str, Arm]:
    """Adds to every arm with another learning rate than the baseline's a copy at the baseline's."""
    lr = next(iter(arms.values())).lr
    copies = {}
    for name, arm in arms.items():
        if arm.lr != lr:
            copy = f"{name}@lr{lr:g}"
            if copy in arms:
                raise UserError(f"{where}: {copy!r} is the name of arm {name!r} at the baseline's rate; choose another")
            overrides = {**arm.overrides, "optim.lr": lr}
            copies[copy] = Arm(copy, overrides, lr, same_lr_as=name, needs=arm.needs)
    return {**arms, **copies}


def _tuning_grid(arms: dict[str, Arm], base: Any) -> dict[str, Arm]:
    """Every arm at every rate; arms that others need are there at their own rate, too."""
    grid = {}
    for name, arm in arms.items():
        for lr in map(float, base.tune.lrs):
            at_lr = f"{name}@lr{lr:g}"
            grid[at_lr] = Arm(at_lr, {**arm.overrides, "optim.lr": lr}, lr, variant=name, needs=arm.needs)
    needed = {need.arm for arm in arms.values() for need in arm.needs if need.arm}
    return {**grid, **{name: arms[name] for name in arms if name in needed}}


def _with_costs(arms: dict[str, Arm], base: Mapping[str, Any], experiment: Experiment, where: str) -> dict[str, Arm]:
    """Adds what an arm costs and the digest of its network, and checks the network against the data.

    A network is counted once for all arms that have it on images of one size.
    """
    counted: dict[Any, tuple[str, dict[str, float]]] = {}
    costed, shown = {}, time.monotonic()
    for number, (name, arm) in enumerate(arms.items()):
        cfg = arm_config(base, arm)
        try:
            key = _network_key(cfg, experiment)
            if key not in counted:
                counted[key] = _count(cfg, experiment.code)
            network, cost = counted[key]
            costed[name] = replace(arm, network=network, cost={**cost, "images": _images(cfg, experiment.code)})
        except UserError as error:
            raise UserError(f"{where}, arm {name}: {error}") from error
        if time.monotonic() - shown > PROGRESS_SECONDS:
            shown = time.monotonic()
            logging.info("%s: %d of %d arms are counted, %d networks", where, number + 1, len(arms), len(counted))
    return costed


PROGRESS_SECONDS = 10.0
"""Between two lines that say how far a long plan is."""


def _network_key(cfg: Any, experiment: Experiment) -> Any:
    """Equal for configs whose networks have the same weights and cost."""
    data, flat = cfg.data, config.flatten(cfg)
    images = (data.source, data.dir, data.size, data.resolution, data.train_split, data.test_split)
    if experiment.code:
        return tuple(value for name, value in flat.items() if name not in config.NOT_PROGRAM)
    return (specs.resolve(cfg.model), cfg.task, *images)


def _images(cfg: Any, code: experiments.Code) -> int:
    """How many images a run trains on; UserError where the images are too few, or the steps too many."""
    data, batch_size = cfg.data, cfg.train.batch_size
    steps = _steps_per_epoch(planned_dataset(cfg, code), data.train_size, data.holdout, batch_size)
    if cfg.train.epochs * steps > LARGEST:
        raise UserError(f"train.epochs={cfg.train.epochs} of {steps} steps each; allowed: {LARGEST:,} steps in all")
    return cfg.train.epochs * steps * batch_size


def _count(cfg: Any, code: experiments.Code) -> tuple[str, dict[str, float]]:
    """The digest of the network's weights, and what an image costs."""
    from flax import nnx

    from mnet_jax import cost
    from mnet_jax.models import weights

    task, dataset = code.task_of(cfg), planned_dataset(cfg, code)
    *_, channels = dataset.shape
    if cfg.model.in_channels != channels:
        raise UserError(f"model.in_channels={cfg.model.in_channels}; {dataset.name} needs {channels}")
    task.check_data(cfg, dataset)
    height, width = image_size(cfg, dataset)
    cfg.model.formulation, cfg.model.dtype, cfg.model.act_bits = "lax", "float32", 0  # what the counter knows
    network = nnx.eval_shape(lambda: task.build(cfg, nnx.Rngs(0)))
    count = cost.count(network, input_shape=(height, width, channels))
    fingerprint = weights.fingerprint(*weights.split(network)[1:])
    return fingerprint, {"resolution": height, "madds": count.madds, "params": count.params_trainable}


def planned_dataset(cfg: Any, code: experiments.Code) -> "Dataset":
    """The data set of a config, of which a plan needs no image."""
    from mnet_jax.data import load

    return code.load_dataset(cfg.data) if code.dataset else load.metadata(cfg.data)


def image_size(cfg: Any, dataset: Any) -> tuple[int, int]:
    """Height and width of the images that the network sees."""
    side = cfg.data.size or cfg.data.resolution
    return (side, side) if side else dataset.shape[:2]


@functools.cache
def _steps_per_epoch(dataset: "Dataset", train_size: int, holdout: int, batch_size: int) -> int:
    from mnet_jax.data import dataset as sets

    split = sets.split(dataset, 0, train_size, holdout)
    return len(sets.epoch_order(0, 0, split.train, batch_size))


def _jsonable(value: Any) -> Any:
    """As JSON reads it back, so that a plan in memory equals the one on disk."""
    return json.loads(json.dumps(value))


def write(workdir: Path, sweep: Sweep, experiment: Experiment | None = None) -> Sweep:
    """Puts the plan into the workdir, where the same plan may stand already, or one with fewer seeds; returns it.

    No job of it trains runs that are finished. Raises UserError with the differences where the workdir belongs to
    another plan, and where files cannot be locked.
    """
    locks.check(workdir)
    if (workdir / "sweep.json").exists():
        old = results.read_sweep(workdir)
        _refuse_other(workdir, old, sweep, experiment)
        sweep = replace(sweep, jobs=tuple(part for job in sweep.jobs for part in _finished_apart(workdir, job, old)))
    if experiment:
        experiments.write_copy(workdir, experiment)
    results.write_sweep(workdir, sweep)
    return sweep


def _refuse_other(workdir: Path, old: Sweep, sweep: Sweep, experiment: Experiment | None) -> None:
    free = {"seeds", "seeds_max", "tune.seeds", *config.EXECUTION}
    if sweep.config["seeds_until"]:  # the spread of the first seeds decides, so which they are cannot change
        free.remove("seeds")
    defaults = _jsonable(config.flatten(config.default()))
    differences = []
    for key, value in sweep.config.items():
        before = old.config.get(key, defaults[key])
        if before != value and key not in free:
            differences.append(f"{key}: {before!r} there, {value!r} now")
    differences += [
        f"{key}: {there!r} there, {now!r} now"
        for key in ("experiment", "scale", "mode")
        if (there := getattr(old, key)) != (now := getattr(sweep, key))
    ]
    planned = set(sweep.runs)
    there, now = ({arm.name: (arm.overrides, arm.needs) for arm in plan.arms} for plan in (old, sweep))
    if there != now:
        changed = [name for name in {**there, **now} if there.get(name) != now.get(name)]
        differences += [f"arm {name}: {there.get(name)} there, {now.get(name)} now" for name in changed[:3]]
    if missing := [run.name for run in old.runs if run not in planned]:
        differences.append(f"runs: {', '.join(missing[:3])} .. there, not now; seeds can be added, not taken away")
    if differences:
        raise UserError(
            f"{workdir} holds another plan ({'; '.join(differences)}); choose another --workdir, or remove it"
        )
    if experiment and old.code.get("sha256") != sweep.code.get("sha256"):
        raise UserError(experiments.changed(workdir, experiment))


def _finished_apart(workdir: Path, job: Job, old: Sweep) -> list[Job]:
    """The job as runs that have a row and runs that have none, unless a checkpoint of the old plan's may go on."""
    if job in old.jobs:
        return [job]
    done = [results.is_done(workdir, run.name) for run in job.runs]
    parts = [tuple(itertools.compress(job.runs, flags)) for flags in (done, [not flag for flag in done])]
    return [_job(job.program, runs) for runs in parts if runs]


def left(workdir: Path, sweep: Sweep) -> list[Job]:
    """Jobs with a run that has no row yet."""
    return [job for job in sweep.jobs if not all(results.is_done(workdir, run.name) for run in job.runs)]


def needed_runs(sweep: Sweep, run: Run) -> list[tuple[Need, Run]]:
    """The runs of other arms that a run needs, which have its seed."""
    return [(need, Run(f"{need.arm}-s{run.seed}", need.arm, run.seed)) for need in sweep.arm(run.arm).needs if need.arm]


def stopped(workdir: Path, sweep: Sweep) -> list[str]:
    """A line for every run that can never start, since one that it needs has diverged."""
    lines = []
    for run in (run for job in left(workdir, sweep) for run in job.runs):
        for need, needed in needed_runs(sweep, run):
            if results.is_done(workdir, needed.name):
                diverged_at = results.read_row(workdir, sweep, needed)["diverged_at"]
                if diverged_at is not None:
                    lines.append(
                        f"{run.name} cannot be trained: its {need.role}, {needed.name}, diverged at step {diverged_at}"
                    )
            elif any(line.startswith(f"{needed.name} cannot") for line in lines):
                lines.append(f"{run.name} cannot be trained: its {need.role}, {needed.name}, cannot be trained either")
    return lines


class Waiting(Exception):
    """Jobs are left that need runs which other processes are working on."""


def next_job(workdir: Path, sweep: Sweep, compiled: set[str], stack: contextlib.ExitStack) -> Job | None:
    """Claims a job that is left, rather one whose program is compiled already; None if all are finished or taken.

    The claim lasts until `stack` is closed. Raises Waiting where a job has to wait for another process.
    """
    waiting = False
    for job in sorted(left(workdir, sweep), key=lambda job: job.program not in compiled):
        ready = _ready(workdir, sweep, job)
        waiting = waiting or ready is None
        if not ready:
            continue
        with contextlib.ExitStack() as claimed:
            mine = claimed.enter_context(locks.claim(workdir, job.runs))
            if mine and not all(results.is_done(workdir, run.name) for run in job.runs):
                stack.push(claimed.pop_all())
                return job
    if waiting:
        raise Waiting
    return None


def _ready(workdir: Path, sweep: Sweep, job: Job) -> bool | None:
    """Whether a job can start: None where runs that it needs are not finished, False where it never can."""
    dead = {line.split(" ", 1)[0] for line in stopped(workdir, sweep)}
    if any(run.name in dead for run in job.runs):
        return False
    needed = [other for run in job.runs for _, other in needed_runs(sweep, run)]
    return None if any(not results.is_done(workdir, other.name) for other in needed) else True


def describe(sweep: Sweep) -> str:
    """What would be run: arms with their cost and needs, runs, jobs, and the multiply-adds of it all."""
    lines = [f"{sweep.title}  [{sweep.experiment}:{sweep.scale}]", ""]
    width = max(len(arm.name) for arm in sweep.arms)
    total, runs_by_arm = 0.0, collections.Counter(run.arm for run in sweep.runs)
    for arm in sweep.arms:
        runs = runs_by_arm[arm.name]
        facts = f"{runs} runs, lr {arm.lr:g}"
        if "madds" in arm.cost:
            work = 3 * arm.cost["madds"] * arm.cost["images"] * runs
            total += work
            facts += (
                f", {arm.cost['madds'] / 1e6:,.2f} M MAdds, {arm.cost['params']:,} params,"
                f" {arm.cost['images']:,} images a run"
            )
        changes = ", ".join(f"{key}={value}" for key, value in arm.overrides.items()) or "the base config"
        after = ", ".join(dict.fromkeys(need.arm for need in arm.needs if need.arm))
        lines.append(f"  {arm.name:<{width}}  {facts}  ({changes})" + (f", after {after}" if after else ""))
    if sweep.config["seeds_until"] and sweep.mode != "tune":
        width, most = sweep.config["seeds_until"], sweep.config["seeds_max"]
        lines.append(f"\nmore seeds, up to {most}, until every primary 95 % interval is at most {width:g} wide")
    lines.append(
        f"\n{len(sweep.runs)} runs in {len(sweep.jobs)} jobs of {len({j.program for j in sweep.jobs})} programs: "
        f"up to {len(sweep.jobs)} processes can work at once"
    )
    if total:
        lines.append(f"{total:.2e} multiply-adds in all (forward and backward; 3 times the forward pass)")
    return "\n".join(lines)
