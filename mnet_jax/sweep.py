"""Experiment -> arms and seeds -> runs -> jobs: the plan of a sweep."""

import collections
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mnet_jax import config, jobs, results, stats, tuning
from mnet_jax.arm_cost import fit_to_data, with_costs
from mnet_jax.arms import arm_config, arms_of, at_rate, tuning_grid, with_needs, with_same_lr
from mnet_jax.config import claims
from mnet_jax.errors import UserError
from mnet_jax.experiment import Experiment
from mnet_jax.fields import nearest
from mnet_jax.results import Arm, Job, Run, Sweep
from mnet_jax.schema import jsonable
from mnet_jax.tasks import Metric

MOST_RUNS = 1_000_000
"""Of a sweep: each is an entry of sweep.json and a folder."""


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
    base = overridden_config(experiment, scale, overrides)
    fit_to_data(base, experiment.code)
    known = config.fields_of(str(experiment.path))
    arms = arms_of(experiment, base, overrides, where)
    task = experiment.code.task_of(base)
    metrics = _metrics(task, base)
    claim = _claim(experiment, base, arms, metrics, where)
    arms = with_needs(arms, config.flatten(base), where)
    if mode == "tune":
        arms = tuning_grid(arms, base)
    elif task.trains:
        arms = with_same_lr(arms, where)

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
        arms = with_costs(arms, flat, experiment, where)
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
        config=jsonable({name: value for name, value in config.flatten(base).items() if name in known}),
        claim=claim,
        metrics=metrics,
        arms=tuple(arms.values()),
        jobs=_jobs(arms, programs, seeds, base.runs_per_job),
        code=experiment.fingerprint,
    )


def overridden_config(experiment: Experiment, scale: str, overrides: Mapping[str, str]) -> Any:
    """The base config with the overrides of the command line, checked, without JAX; UserError for what is wrong."""
    base = base_config(experiment, scale)
    if "scale" in overrides:
        raise UserError(f"command line: the scale is part of --config: {experiment.path}:{overrides['scale']}")
    known = config.fields_of(str(experiment.path))
    if unknown := sorted(set(overrides) - set(known)):
        raise UserError(f"command line: no such field {unknown[0]!r}{nearest(unknown[0], known)}")
    config.override(base, overrides, "command line")
    config.check(base, f"{experiment.name}:{scale}")
    return base


def runs(experiment: Experiment, scale: str) -> int:
    """How many runs a sweep has; nothing is counted or compiled. Raises UserError as `plan` does."""
    where, base = f"{experiment.name}:{scale}", overridden_config(experiment, scale, {})
    arms = arms_of(experiment, base, {}, where)
    return base.seeds * len(with_same_lr(arms, where) if experiment.code.task_of(base).trains else arms)


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
    return tuple(Job.of(digest, runs) for _, digest, runs in batches)


def _depth(arm: Arm, arms: Mapping[str, Arm]) -> int:
    """How many arms must be finished one after the other before this one can start."""
    return max((1 + _depth(arms[need.arm], arms) for need in arm.needs if need.arm), default=0)


def widened(workdir: Path, sweep: Sweep) -> Sweep:
    """The plan with what its finished runs ask for: rates of a tuning, else seeds. The same rows, the same plan."""
    return with_more_rates(workdir, sweep) if sweep.mode == "tune" else with_more_seeds(workdir, sweep)


def with_more_rates(workdir: Path, sweep: Sweep) -> Sweep:
    """The tuning with the rates that it was given before and, once its runs are finished, one more at every edge.

    An arm whose best rate is the lowest or the highest of its grid gets one beyond, up to MOST_EXTENSIONS of them.
    """
    if (workdir / "sweep.json").exists():
        planned = {arm.name for arm in sweep.arms}
        before = (arm for arm in results.read_sweep(workdir).arms if arm.variant and arm.name not in planned)
        sweep = _with_rates(sweep, {(arm.variant, arm.lr) for arm in before})
    if jobs.left(workdir, sweep):
        return sweep
    more = set()
    for variant, choice in tuning.choices(sweep, results.read_rows(workdir, sweep)).items():
        rates = [arm.lr for arm in sweep.arms if arm.variant == variant]
        if choice.edge and len(rates) < len(sweep.config["tune.lrs"]) + tuning.MOST_EXTENSIONS:
            more.add((variant, tuning.next_rate(rates, choice)))
    return _with_rates(sweep, more)


def _with_rates(sweep: Sweep, added: Iterable[tuple[str, float]]) -> Sweep:
    """The tuning with other rates of some of its arms."""
    siblings = {arm.variant: arm for arm in sweep.arms}
    new = [at_rate(siblings[variant], variant, lr) for variant, lr in added if variant in siblings]
    if not new:
        return sweep
    order = {variant: number for number, variant in enumerate(dict.fromkeys(arm.variant for arm in sweep.arms))}
    arms = sorted((*sweep.arms, *new), key=lambda arm: (order[arm.variant], arm.lr if arm.variant else 0.0))
    programs = {run.arm: job.program for job in sweep.jobs for run in job.runs}
    seeds = sorted({run.seed for run in sweep.runs})
    more = {arm.name: programs[siblings[arm.variant].name] for arm in new}
    by_name = {arm.name: arm for arm in arms}
    return replace(sweep, arms=tuple(arms), jobs=sweep.jobs + _jobs(by_name, more, seeds, sweep.config["runs_per_job"]))


def with_more_seeds(workdir: Path, sweep: Sweep) -> Sweep:
    """The plan with the seeds that `seeds_until` asks for, once the first `seeds` of every arm are finished.

    Their spread alone decides how many there are (`stats.seeds_for_width`), so the same rows give the same plan.
    """
    first, width = sweep.config["seeds"], sweep.config["seeds_until"]
    first_jobs = tuple(job for job in sweep.jobs if all(run.seed < first for run in job.runs))
    pilot = replace(sweep, jobs=first_jobs)
    if not width or not sweep.claim.contrasts or jobs.left(workdir, pilot):
        return sweep
    metric = sweep.metric(sweep.claim.metric)
    values: dict[str, dict[int, float]] = {arm.name: {} for arm in sweep.arms}
    for row in results.read_rows(workdir, pilot):
        values[row["arm"]][row["seed"]] = results.scored_metrics(row, sweep.metrics)[metric.name]
    wanted = stats.seeds_for_width(sweep.claim.contrasts, values, width, metric.print_factor)
    programs = {run.arm: job.program for job in first_jobs for run in job.runs}
    arms = {arm.name: arm for arm in sweep.arms}
    seeds = range(first, min(wanted, sweep.config["seeds_max"]))
    return replace(pilot, jobs=first_jobs + _jobs(arms, programs, seeds, sweep.config["runs_per_job"]))


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
