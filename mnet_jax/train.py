"""The loop around the step: data order, clock, metrics, checkpoints, preemption, the NaN stop: all side effects."""

import contextlib
import functools
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mnet_jax
from mnet_jax import analysis, config, inputs, optim, results, sharding, step, sweep
from mnet_jax.checkpoint import Checkpoints
from mnet_jax.data import sources
from mnet_jax.models import specs, weights
from mnet_jax.ops import depthwise
from mnet_jax.ops.formulation import resolve
from mnet_jax.results import Job, Run, Sweep
from mnet_jax.tasks import spiral


class Preempted(Exception):
    """Training was asked to stop and left a checkpoint: run the same command again to go on."""


class Clock:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("start", "compile", "data", "steps", "evaluation", "writing"), 0.0)

    @contextlib.contextmanager
    def spent(self, on: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[on] += time.perf_counter() - begin


def work(workdir: Path, plan: Sweep, stop: Callable[[], bool], started: float) -> None:
    """Claims and trains jobs until none is left to claim. `started` is when the process began (`time.time()`).

    Raises Preempted when `stop()` turned true.
    """
    while True:
        with contextlib.ExitStack() as stack:
            job = _claimed(workdir, plan, {key[0] for key in _programs}, stack)
            if job is None:
                return
            clock = Clock()
            clock.seconds["start"], started = (time.time() - started if started else 0.0), 0.0
            TASKS[plan.config["task"]](workdir, plan, job, stop, clock)


def _claimed(workdir: Path, plan: Sweep, compiled: set[str], stack: contextlib.ExitStack) -> Job | None:
    """The job that the first process claimed, on every process of a mesh."""
    index = -1
    if sharding.is_first():
        job = sweep.next_job(workdir, plan, compiled, stack)
        index = plan.jobs.index(job) if job else -1
    index = sharding.agree(index)
    return plan.jobs[index] if index >= 0 else None


def train(workdir: Path, plan: Sweep, job: Job, stop: Callable[[], bool], clock: Clock) -> None:
    """Trains the runs of a job, from its newest checkpoint if there is one, and writes their rows."""
    training = Training(workdir, plan, job, clock)
    while not training.ended:
        training.advance()
        if training.ended:
            break
        if sharding.anywhere(stop()):
            training.save(wait=True)
            raise Preempted(f"job {job.name} stopped at step {training.done} of {training.steps}")
        if sharding.agree(time.monotonic() - training.saved > training.cfg.train.checkpoint_seconds):
            training.save()
    training.finish()


class Training:
    """A job in progress. A checkpoint holds `state`, `done`, `totals` and the clock; all else follows from them.

    Where several processes share the mesh all of them make every call, and the first one writes.
    """

    def __init__(self, workdir: Path, plan: Sweep, job: Job, clock: Clock):
        self.workdir, self.plan, self.job, self.clock = workdir, plan, job, clock
        self.cfgs = [sweep.arm_config(plan.config, plan.arm(run.arm)) for run in job.runs]
        self.cfg, seeds = self.cfgs[0], [run.seed for run in job.runs]
        data, batch = self.cfg.data, self.cfg.train.batch_size
        with clock.spent("start"):
            self.source = sources.chosen(data)
            self.mesh = sharding.mesh(len(seeds), batch, spread_runs=not data.size)  # a host reads for all its devices
            dtype, shape = jnp.dtype(self.cfg.model.dtype), self.mesh.shape
            formulation = resolve(self.cfg.model.formulation, dtype, shape["data"], shape["seed"])
            self.depthwise = depthwise.resolved(formulation, dtype)
            knobs_S = zip(*map(config.knobs, self.cfgs), strict=True)
            self.knobs = config.Knobs(*(self._put(np.asarray(column, np.float32)) for column in knobs_S))
            self.inputs = inputs.of(self.source, data, seeds, batch, self.mesh)
            self.per_epoch = self.inputs.per_epoch
            self.steps = self.per_epoch * self.cfg.train.epochs
            self.rate = optim.schedule(self.cfg.optim, self.per_epoch, self.steps)
        with clock.spent("compile"):
            self.seeds_S = self._put(np.asarray(seeds, np.int32))
            self.program = self._compiled()
            sharding.agree(0)  # on a CPU the first step fails where processes come to it more than 30 s apart
            self.state = self.program.init(self.seeds_S)
        self.done, self.skipped, self.saved = 0, 0, time.monotonic()
        self.totals = dict.fromkeys(("loss", "correct"), np.zeros(len(seeds)))
        self.diverged_at = np.full(len(seeds), -1)
        self.folder = results.job_dir(workdir, job.name)
        self.checkpoints = Checkpoints(self.folder / "checkpoints")
        self._restore()
        self.logs = [Metrics(results.run_dir(workdir, run.name), self.done) for run in job.runs if sharding.is_first()]

    def _compiled(self) -> step.Program:
        """The program compiled for these shapes, and kept for the next job of the process."""
        shared, own, held_out = self.inputs.shared, *self.inputs.shapes()
        key = (self.job.program, len(self.cfgs), str((shared and shared[0].shape, own, held_out)), self.mesh)
        if key not in _programs:
            while len(_programs) >= KEPT_PROGRAMS:
                del _programs[next(iter(_programs))]
            source, count = self.source, jax.ShapeDtypeStruct((), jnp.int32)
            program = step.build(self.cfg, len(self.cfgs), source.mean, source.std, self.per_epoch, self.mesh)
            state = jax.eval_shape(program.init, self.seeds_S)
            _programs[key] = step.Program(
                init=program.init.lower(self.seeds_S).compile(),
                train=program.train.lower(state, self.knobs, shared, own, count, count).compile(),
                evaluate=program.evaluate.lower(state, self.knobs, shared, held_out).compile(),
            )
        return _programs[key]

    def _restore(self) -> None:
        restored = self.checkpoints.restore(self.state)
        if restored is not None:
            self.state, meta = restored
            self.done, self.skipped, self.clock.seconds = meta["step"], meta["skipped"], meta["seconds"]
            self.totals = {name: np.asarray(value) for name, value in meta["totals"].items()}
            self.diverged_at = sharding.fetch(self.state["diverged_at"])
            logging.info("job %s goes on from step %d", self.job.name, self.done)

    def _put(self, array: np.ndarray) -> jax.Array:
        return sharding.put(self.mesh, sharding.RUNS, array)

    @property
    def ended(self) -> bool:
        return self.done == self.steps or bool((self.diverged_at >= 0).all())

    def advance(self) -> None:
        """The updates of one window, and what is due at the end of an epoch."""
        with self.clock.spent("data"):
            own, first, count = self.inputs.window(self.done)
        with self.clock.spent("steps"):
            self.state, sums = self.program.train(
                self.state, self.knobs, self.inputs.shared, own, jnp.int32(first), jnp.int32(count)
            )
            self.totals = {name: self.totals[name] + np.asarray(sums[name], np.float64) for name in self.totals}
            self.diverged_at = np.asarray(sums["diverged_at"])
        self.done += count
        self._write_progress()
        if self.done % self.per_epoch == 0 or self.ended:
            self._end_epoch()

    def _end_epoch(self) -> None:
        epoch, images = -(-self.done // self.per_epoch), self.per_epoch * self.cfg.train.batch_size
        rate = float(self.rate(jnp.int32(self.done - 1)))
        lines = [
            {
                "epoch": epoch,
                "step": self.done,
                "lr": cfg.optim.lr * rate,
                "train_loss": float(loss / self.per_epoch),
                "train_accuracy": float(correct / images),
            }
            for cfg, loss, correct in zip(self.cfgs, self.totals["loss"], self.totals["correct"], strict=True)
        ]
        self.totals = dict.fromkeys(self.totals, np.zeros(len(lines)))
        if epoch % self.cfg.train.eval_every == 0 or self.ended:
            with self.clock.spent("evaluation"):
                pieces = [
                    self.program.evaluate(self.state, self.knobs, self.inputs.shared, own)
                    for own in self.inputs.held_out()
                ]
                sums = jax.tree.map(lambda *sum_S: sum(np.asarray(part, np.float64) for part in sum_S), *pieces)
                images_S = sums.pop("images")
            for number, line in enumerate(lines):
                line |= {EVALUATED[name]: float(sum_S[number] / images_S[number]) for name, sum_S in sums.items()}
        with self.clock.spent("writing"):
            for log, line in zip(self.logs, lines, strict=False):
                log.append(line)

    def save(self, wait: bool = False) -> None:
        """Starts a checkpoint; with `wait`, returns when it is whole on disk."""
        with self.clock.spent("writing"):
            totals = {name: value.tolist() for name, value in self.totals.items()}
            skipped = self.skipped + self.inputs.skipped
            meta = {"step": self.done, "totals": totals, "skipped": skipped, "seconds": self.clock.seconds}
            self.checkpoints.save(self.done, self.state, meta)
            if wait:
                self.checkpoints.wait()
        self.saved = time.monotonic()

    def finish(self) -> None:
        """Writes weights and rows, and removes the checkpoints, which nothing needs any more.

        Where every run diverged they stay: the newest is the last from before, to look at, or to go on from once the
        rows are removed.
        """
        parts = sharding.fetch((self.state["ema" if self.cfg.train.ema else "params"], self.state["batch_stats"]))
        skipped = sharding.total(self.skipped + self.inputs.skipped)
        analyzed = self.cfg.analysis and not self.cfg.data.size and self.cfg.model.name in specs.NETWORKS
        first = self.program.init(self.seeds_S) if analyzed else {}
        initial = sharding.fetch((first["params"], first["batch_stats"])) if analyzed else ()
        for number, (run, split, log) in enumerate(zip(self.job.runs, self.inputs.splits, self.logs, strict=False)):
            diverged_at = int(self.diverged_at[number])
            if diverged_at >= 0:
                logging.warning("%s diverged: its loss is not finite at step %d", run.name, diverged_at)
            with self.clock.spent("writing"):
                params, statistics = trained = _of_run(parts, number)
                weights.save(log.folder / "weights.safetensors", params, statistics, self.cfgs[number])
                log.close()
            metrics = {name: log.lines[-1][name] for name in METRICS if name in log.lines[-1]}
            if analyzed and diverged_at < 0:
                with self.clock.spent("evaluation"):
                    metrics |= self._analyze(number, trained, _of_run(initial, number))
            row = describe(self.plan, self.job, run)
            row["device"]["depthwise"] = self.depthwise
            row |= {
                "data": {
                    "source": self.source.name,
                    "fingerprint": self.source.fingerprint,
                    "split": split.rule,
                    "skipped": skipped,
                },
                "classes": self.source.classes,
                "metrics": metrics,
                "diverged_at": diverged_at if diverged_at >= 0 else None,
            }
            write_row(self.workdir, row, self.clock, len(self.logs))
        self.inputs.close()
        seconds = self.clock.seconds
        spent = seconds["data"] + seconds["steps"]
        waited = 100 * seconds["data"] / spent
        logging.info(
            "%s: %d steps in %.1f s, %.1f %% of them waiting for data", self.job.name, self.done, spent, waited
        )
        self.checkpoints.close(delete=bool((self.diverged_at < 0).any()))
        if sharding.is_first():
            (self.folder / "progress.json").unlink(missing_ok=True)

    def _analyze(self, number: int, trained: tuple[Any, Any], initial: tuple[Any, Any]) -> dict[str, float]:
        """Measures what the network of a run does inside: the arrays go to disk, the scalars are returned."""
        images_NHWC, test = sources.in_memory(self.source), self.inputs.splits[number].test
        metrics, arrays = analysis.measure(
            self.cfgs[number],
            self.source.mean,
            self.source.std,
            trained,
            initial,
            analysis.batches(images_NHWC, test, self.cfg.train.batch_size),
        )
        results.write_arrays(self.workdir, self.job.runs[number].name, arrays)
        return metrics

    def _write_progress(self) -> None:
        if not sharding.is_first():
            return
        names = [run.name for run in self.job.runs]
        line = {"runs": names, "step": self.done, "steps": self.steps, "time": time.time(), "process": os.getpid()}
        results.write_atomic(self.folder / "progress.json", json.dumps(line), durable=False)


EVALUATED = {"correct": "accuracy", "nll": "nll", "correct_top5": "top5_accuracy"}
"""Sum of an evaluation -> the metric that it is as a mean over the whole held-out set; NLL is in nats."""

METRICS = (*EVALUATED.values(), "train_loss", "train_accuracy")
"""Of a row: those of the final step; top-5 accuracy only where there are more than 10 classes."""


def _of_run(parts: Any, number: int) -> Any:
    """One of the S runs of pure dicts of arrays."""
    return jax.tree.map(lambda leaf_S: leaf_S[number], parts)


KEPT_PROGRAMS = 4
"""Compiled programs that a process keeps, the newest: each is thousands of mappings, and Linux allows 65,530."""

_programs: dict[Any, step.Program] = {}
"""(job's program, shapes ..) -> the program compiled."""


def measure_spiral(workdir: Path, plan: Sweep, job: Job, stop: Callable[[], bool], clock: Clock) -> None:
    """V2's Figure 1: trains nothing; all seeds of a job at once."""
    cfg = sweep.arm_config(plan.config, plan.arm(job.runs[0].arm))
    with clock.spent("steps"):
        metrics, arrays = spiral.measure(
            cfg.spiral.dim, cfg.spiral.act, cfg.spiral.points, [run.seed for run in job.runs]
        )
    for run, values in zip(job.runs, metrics, strict=True):
        if run.seed == 0 and sharding.is_first():
            results.write_arrays(workdir, run.name, arrays)
        row = describe(plan, job, run) | {"data": {}, "classes": 0, "metrics": values, "diverged_at": None}
        write_row(workdir, row, clock, len(job.runs))
        if stop():
            raise Preempted(f"job {job.name} stopped")


TASKS: dict[str, Callable[[Path, Sweep, Job, Callable[[], bool], Clock], None]] = {
    "classification": train,
    "spiral": measure_spiral,
}


class Metrics:
    """A run's metrics.jsonl and, where tensorboardX is installed, the same as TensorBoard events.

    Lines of a killed process after `step` are dropped.
    """

    def __init__(self, folder: Path, step: int):
        self.folder, self.path = folder, folder / "metrics.jsonl"
        self.lines = [line for line in results.read_metrics(folder.parent.parent, folder.name) if line["step"] <= step]
        results.write_atomic(self.path, "".join(json.dumps(line) + "\n" for line in self.lines))
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self.events: Any = None
        with contextlib.suppress(ImportError):
            from tensorboardX import SummaryWriter

            self.events = SummaryWriter(str(folder / "tensorboard"), flush_secs=10)
        for line in self.lines:
            self._event(line)

    def append(self, line: dict[str, float]) -> None:
        self.lines.append(line)
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")
        self._event(line)

    def _event(self, line: dict[str, float]) -> None:
        for name, value in line.items():
            if self.events and name not in ("epoch", "step"):
                self.events.add_scalar(name, value, int(line["step"]))

    def close(self) -> None:
        if self.events:
            self.events.close()


def describe(plan: Sweep, job: Job, run: Run) -> dict[str, Any]:
    """The part of a row that is known before the run starts."""
    arm, device = plan.arm(run.arm), jax.devices()[0]
    return {
        "experiment": plan.experiment,
        "scale": plan.scale,
        "run": run.name,
        "arm": arm.name,
        "seed": run.seed,
        "lr": arm.lr,
        "overrides": arm.overrides,
        "program": job.program,
        "cost": {name: value for name, value in arm.cost.items() if name != "images"},
        "versions": versions(),
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
            "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        },
    }


def write_row(workdir: Path, row: dict[str, Any], clock: Clock, runs: int) -> None:
    """Ends a run: `runs` of them share the clock's seconds. Only the first process of a mesh writes."""
    if not sharding.is_first():
        return
    seconds = {name: round(value / runs, 4) for name, value in clock.seconds.items()}
    finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    results.write_row(workdir, row | {"timing": seconds | {"finished": finished}})


@functools.cache
def versions() -> dict[str, str]:
    """Of what the numbers depend on; `commit` is empty where the code is not a git checkout, and so is what is not
    installed but found on the path.
    """
    root = Path(mnet_jax.__file__).parent.parent
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = ""
    packages = ("mnet_jax", "jax", "jaxlib", "flax", "optax")
    return {name: _version(name) for name in packages} | {"python": platform.python_version(), "commit": commit}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
