"""The loop around the step: data order, clock, metrics, checkpoints, preemption, the NaN stop: all side effects."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mnet_jax
from mnet_jax import analysis, arm_cost, config, experiment, feed, needs, optim, provenance, results, sharding, step
from mnet_jax.arms import arm_config
from mnet_jax.checkpoint import Checkpoints
from mnet_jax.errors import UserError
from mnet_jax.metrics_log import MetricsLog
from mnet_jax.models import specs, weights
from mnet_jax.ops import depthwise
from mnet_jax.results import Job, Sweep


class Preempted(Exception):
    """Training was asked to stop and left a checkpoint: run the same command again to go on."""


class Clock:
    """Seconds by what they were spent on (`results.PHASES`)."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(results.PHASES, 0.0)

    @contextlib.contextmanager
    def spent(self, on: str) -> Iterator[None]:
        """Adds the time inside to a phase."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[on] += time.perf_counter() - begin


def train(workdir: Path, plan: Sweep, job: Job, stop: Callable[[], bool], clock: Clock) -> None:
    """Trains the runs of a job, from its newest checkpoint if there is one, and writes their rows.

    Raises Preempted when `stop()` turned true.
    """
    training = Training(workdir, plan, job, clock)
    while not training.ended:
        training.train_chunk()
        if training.at_end_of_epoch:
            training.end_epoch()
        if training.ended:
            break
        if sharding.any_process(stop()):
            training.save(wait=True)
            raise Preempted(f"job {job.name} stopped at step {training.done} of {training.steps}")
        if sharding.broadcast_from_first(time.monotonic() - training.saved > training.cfg.train.checkpoint_seconds):
            training.save()
    training.finish()


def measure(workdir: Path, plan: Sweep, job: Job, stop: Callable[[], bool], clock: Clock) -> None:
    """Runs the task of a job that trains nothing: all seeds at once."""
    cfg = arm_config(plan.config, plan.arm(job.runs[0].arm))
    task = experiment.code_of(workdir, plan).task_of(cfg)
    assert task.measure
    with clock.spent("steps"):
        metrics, arrays = task.measure(cfg, [run.seed for run in job.runs])
    for run, values in zip(job.runs, metrics, strict=True):
        if run.seed == 0 and sharding.is_first():
            results.write_arrays(workdir, run.name, arrays)
        row = provenance.describe(plan, job, run) | {"data": {}, "metrics": values, "diverged_at": None}
        write_row(workdir, row, clock, len(job.runs))
        if stop():
            raise Preempted(f"job {job.name} stopped")


class Training:
    """A job in progress. A checkpoint holds `state`, `done`, `totals` and the clock; all else follows from them.

    Where several processes share the mesh all of them make every call, and the first one writes.
    """

    def __init__(self, workdir: Path, plan: Sweep, job: Job, clock: Clock):
        self.workdir, self.plan, self.job, self.clock = workdir, plan, job, clock
        self.cfgs = [arm_config(plan.config, plan.arm(run.arm)) for run in job.runs]
        self.cfg, seeds = self.cfgs[0], [run.seed for run in job.runs]
        data, batch = self.cfg.data, self.cfg.train.batch_size
        with clock.spent("start"):
            self.code = experiment.code_of(workdir, plan)
            self.task = self.code.task_of(self.cfg)
            dataset = self.code.load_dataset(data)
            self.dataset = replace(dataset, targets=self.task.targets(dataset, self.cfg))
            self.mesh = sharding.mesh(len(seeds), batch, spread_runs=not data.size)  # a host reads for all its devices
            model = step.on_mesh(self.mesh, self.cfg).model
            self.depthwise = depthwise.resolved(model.formulation, jnp.dtype(model.dtype))
            self.traced = self._stacked([config.traced_values(cfg) for cfg in self.cfgs])
            self.feed = feed.make(self.dataset, data, seeds, batch, self.mesh)
            self.steps_per_epoch = self.feed.steps_per_epoch
            self.steps = self.steps_per_epoch * self.cfg.train.epochs
            self.lr_factor = optim.schedule(self.cfg.optim, self.steps_per_epoch, self.steps)
            self.sources = [needs.load(workdir, plan, run) for run in job.runs]
            self.teacher_network = needs.teacher_network(plan, job.runs[0], self.sources[0], self.code)
            self.teacher = self._stacked(needs.teachers(self.sources, self.teacher_network))
        with clock.spent("compile"):
            self.seeds_S = self._put(np.asarray(seeds, np.int32))
            self.program = self._compiled()
            sharding.broadcast_from_first(0)  # on a CPU the first step fails where processes come 30 s apart
            self.state = self.program.init(self.seeds_S)
        self.done, self.corrupt, self.saved = 0, 0, time.monotonic()
        self.totals: dict[str, np.ndarray] = {}
        self.kept: list[dict[str, np.ndarray]] = [{} for _ in seeds]
        self.diverged_at = np.full(len(seeds), -1)
        self.folder = results.job_dir(workdir, job.name)
        self.checkpoints = Checkpoints(self.folder / "checkpoints")
        self._restore()
        unfinished = [run for run in job.runs if sharding.is_first() and not results.is_done(workdir, run.name)]
        self.logs = {run.name: MetricsLog(results.run_dir(workdir, run.name), self.done) for run in unfinished}

    def _compiled(self) -> step.Program:
        """The program compiled for these shapes, and kept for the next job of the process."""
        dataset, (batches, held_out) = self.feed.dataset, self.feed.shapes()
        shapes = jax.tree.map(lambda array: array.shape, (dataset, batches, held_out, self.teacher))
        key = (self.job.program, len(self.cfgs), str(shapes), self.mesh)
        if key not in compiled_programs:
            while len(compiled_programs) >= KEPT_PROGRAMS:
                del compiled_programs[next(iter(compiled_programs))]
            count = jax.ShapeDtypeStruct((), jnp.int32)
            program = step.build(
                self.task,
                self.cfg,
                len(self.cfgs),
                self.dataset.mean,
                self.dataset.std,
                self.steps_per_epoch,
                self.mesh,
                self.code.optimizer,
                self.teacher_network,
            )
            state = jax.eval_shape(program.init, self.seeds_S)
            self._check_network(state)
            train_shapes = (state, self.traced, self.teacher, dataset, batches, count, count)
            compiled_programs[key] = step.Program(
                init=program.init.lower(self.seeds_S).compile(),
                train=program.train.lower(*train_shapes).compile(),
                evaluate=program.evaluate.lower(state, self.traced, dataset, held_out).compile(),
            )
        return compiled_programs[key]

    def _check_network(self, state: step.State) -> None:
        """UserError where this network is not the one that was planned and counted."""
        arm = self.plan.arm(self.job.runs[0].arm)
        one_run = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), state)
        params = one_run["params"]
        built = weights.fingerprint(params, one_run["batch_stats"])
        if arm.network and built != arm.network:
            count = sum(leaf.size for leaf in jax.tree.leaves(params))
            raise UserError(
                f"arm {arm.name}: the network built here has {count:,} parameters ({built}), the planned one "
                f"{arm.cost['params']:,} ({arm.network}); an experiment's own network must be defined by its file alone"
            )

    def _restore(self) -> None:
        used = [[source.record for source in sources.values()] for sources in self.sources]
        restored = self.checkpoints.restore(self.state)
        if restored is None:
            self.state = needs.start_from(self.state, self.sources, self.mesh)
            return
        self.state, meta = restored
        if meta.get("needs", used) != used:
            raise UserError(
                f"job {self.job.name} began with other weights: {meta['needs']} then, {used} now; "
                f"remove {self.checkpoints.folder} to begin again"
            )
        self.done, self.corrupt, self.clock.seconds = meta["step"], meta["corrupt"], meta["seconds"]
        self.totals = {name: np.asarray(value) for name, value in meta["totals"].items()}
        self.diverged_at = sharding.fetch(self.state["diverged_at"])
        logging.info("job %s goes on from step %d", self.job.name, self.done)

    def _put(self, array: np.ndarray) -> jax.Array:
        return sharding.put(self.mesh, sharding.RUNS, array)

    def _stacked(self, trees: list[Any]) -> Any:
        """Trees of numbers or arrays, one of each run -> one tree of arrays [S, ...] on the devices; () of no trees."""

        def stack(*leaves: Any) -> jax.Array:
            return self._put(np.stack([np.asarray(leaf, np.float32) for leaf in leaves]))

        return jax.tree.map(stack, *trees) if trees else ()

    @property
    def ended(self) -> bool:
        """Whether all updates are done, or no run is left that has not diverged."""
        return self.done == self.steps or bool((self.diverged_at >= 0).all())

    @property
    def at_end_of_epoch(self) -> bool:
        """Whether `end_epoch` is due."""
        return self.done % self.steps_per_epoch == 0 or self.ended

    def train_chunk(self) -> None:
        """The updates of one chunk of batches."""
        with self.clock.spent("data"):
            batches, first, count = self.feed.next_chunk(self.done)
        with self.clock.spent("steps"):
            self.state, sums = self.program.train(
                self.state, self.traced, self.teacher, self.feed.dataset, batches, jnp.int32(first), jnp.int32(count)
            )
            self.diverged_at = np.asarray(sums.pop("diverged_at"))
            self.totals = {
                name: self.totals.get(name, 0.0) + np.asarray(sum_S, np.float64) for name, sum_S in sums.items()
            }
        self.done += count
        self._write_progress()

    def end_epoch(self) -> None:
        """Writes a line to the curve of every run, with an evaluation where one is due."""
        epoch, images = -(-self.done // self.steps_per_epoch), self.steps_per_epoch * self.cfg.train.batch_size
        factor = float(self.lr_factor(jnp.int32(self.done - 1)))
        lines = []
        for number, cfg in enumerate(self.cfgs):
            line = {"epoch": epoch, "step": self.done, "lr": cfg.optim.lr * factor}
            for name in sorted(self.totals, key=lambda name: (name != "loss", name)):
                total_S = self.totals[name]
                line[f"train_{name}"] = float(total_S[number] / (self.steps_per_epoch if name == "loss" else images))
            lines.append(line)
        self.totals = {}
        if epoch % self.cfg.train.eval_every == 0 or self.ended:
            with self.clock.spent("evaluation"):
                for line, scores in zip(lines, self._evaluate(), strict=True):
                    line |= scores
        with self.clock.spent("writing"):
            for run, line in zip(self.job.runs, lines, strict=True):
                if run.name in self.logs:
                    self.logs[run.name].append(line)

    def _evaluate(self) -> list[Mapping[str, float]]:
        """The task's scores of every run on its held-out images; what is kept of each image stays in `kept`."""
        sums, kept = [], []
        for batches in self.feed.held_out():
            sums_S, kept_SNB = self.program.evaluate(self.state, self.traced, self.feed.dataset, batches)
            sums.append(sums_S)
            if kept_SNB:
                kept.append(sharding.fetch({**kept_SNB, MASK: batches["mask"]}))
        totals_S = jax.tree.map(lambda *sum_S: sum(np.asarray(part, np.float64) for part in sum_S), *sums)
        self.kept = [_in_order(kept, number) for number in range(len(self.cfgs))]
        assert self.task.score
        return [
            self.task.score({name: total_S[number] for name, total_S in totals_S.items()}, kept_N, cfg)
            for number, (kept_N, cfg) in enumerate(zip(self.kept, self.cfgs, strict=True))
        ]

    def save(self, wait: bool = False) -> None:
        """Starts a checkpoint; with `wait`, returns when it is whole on disk."""
        with self.clock.spent("writing"):
            meta = {
                "step": self.done,
                "totals": {name: value.tolist() for name, value in self.totals.items()},
                "corrupt": self.corrupt + self.feed.corrupt,
                "seconds": self.clock.seconds,
                "needs": [[source.record for source in sources.values()] for sources in self.sources],
            }
            self.checkpoints.save(self.done, self.state, meta)
            if wait:
                self.checkpoints.wait()
        self.saved = time.monotonic()

    def finish(self) -> None:
        """Writes weights and rows, and removes the checkpoints, which nothing needs any more.

        Where every run diverged they stay: the newest is the last from before, to look at, or to go on from once the
        rows are removed.
        """
        trained = self.state["ema"] or self.state
        parts = sharding.fetch((trained["params"], trained["batch_stats"]))
        corrupt = sharding.sum_over_processes(self.corrupt + self.feed.corrupt)
        analyzed = (
            self.cfg.analysis
            and not self.cfg.data.size
            and not self.code.network
            and not self.cfg.model.block
            and self.cfg.model.name in specs.NETWORKS
        )
        first = self.program.init(self.seeds_S) if analyzed else {}
        initial = sharding.fetch((first["params"], first["batch_stats"])) if analyzed else ()
        for number, run in enumerate(self.job.runs):
            if run.name not in self.logs:
                continue
            log, diverged_at, split = self.logs[run.name], int(self.diverged_at[number]), self.feed.splits[number]
            if diverged_at >= 0:
                logging.warning("%s diverged: its loss is not finite at step %d", run.name, diverged_at)
            with self.clock.spent("writing"):
                own = params, batch_stats = _of_run(parts, number)
                weights.save(log.folder / "weights.safetensors", params, batch_stats, self._header(number))
                log.close()
            line = log.lines[-1]
            metrics = {metric.name: line[metric.name] for metric in self.plan.metrics if metric.name in line}
            arrays = {f"{results.PER_IMAGE}{name}": array_N for name, array_N in self.kept[number].items()}
            if analyzed and diverged_at < 0:
                with self.clock.spent("evaluation"):
                    measured, inside = self._analyze(number, own, _of_run(initial, number))
                    metrics, arrays = metrics | measured, arrays | inside
            if arrays:
                results.write_arrays(self.workdir, run.name, arrays)
            row = provenance.describe(self.plan, self.job, run)
            row["device"]["depthwise"] = self.depthwise
            row |= {
                "data": {
                    "source": self.dataset.name,
                    "fingerprint": self.dataset.fingerprint,
                    "split": split.rule,
                    "drawn_by_seed": split.drawn,
                    "train_images": len(split.train),
                    "test_images": len(split.test),
                    "corrupt": corrupt,
                },
                "needs": [source.record for source in self.sources[number].values()],
                "metrics": metrics,
                "diverged_at": diverged_at if diverged_at >= 0 else None,
            }
            write_row(self.workdir, row, self.clock, len(self.job.runs))
        self.feed.close()
        seconds = self.clock.seconds
        spent = seconds["data"] + seconds["steps"]
        waited = 100 * seconds["data"] / spent
        if sharding.is_first():
            words = "%s: %d steps in %.1f s, %.1f %% of them waiting for data"
            logging.info(words, self.job.name, self.done, spent, waited)
        self.checkpoints.close(delete=bool((self.diverged_at < 0).any()))
        if sharding.is_first():
            (self.folder / "progress.json").unlink(missing_ok=True)

    def _header(self, number: int) -> dict[str, Any]:
        """What stands in a weights file beside the weights (`mnet_jax.trained`)."""
        flat = config.flatten(self.cfgs[number])
        run = self.job.runs[number]
        return {
            "version": mnet_jax.__version__,
            "config": {name: value for name, value in flat.items() if name not in config.EXECUTION | config.PLANNING},
            "task": self.task.name,
            "experiment": {"name": self.plan.experiment, "arm": run.arm, "seed": run.seed, **self.plan.code},
            "mean": self.dataset.mean,
            "std": self.dataset.std,
            "class_names": self.dataset.class_names,
            "input_shape": [*arm_cost.image_size(self.cfg, self.dataset), self.dataset.shape[-1]],
        }

    def _analyze(
        self, number: int, trained: tuple[Any, Any], initial: tuple[Any, Any]
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """What the network of a run does inside: scalars and arrays of `analysis.measure`."""
        images_NHWC, test = self.dataset.in_memory(), self.feed.splits[number].test
        return analysis.measure(
            self.cfgs[number],
            self.dataset.mean,
            self.dataset.std,
            trained,
            initial,
            analysis.batches(images_NHWC, test, self.cfg.train.batch_size),
        )

    def _write_progress(self) -> None:
        if sharding.is_first():
            results.write_progress(self.workdir, self.job, self.done, self.steps)


MASK = ""
"""Key under which the mask of an evaluation travels with what is kept of its images; no task's name is empty."""


def _in_order(kept: list[dict[str, np.ndarray]], number: int) -> dict[str, np.ndarray]:
    """What is kept of each held-out image of a run, [N, ...], from pieces [S, N, B, ...]; {} where nothing is."""
    flat = [{name: array[number].reshape(-1, *array.shape[3:]) for name, array in piece.items()} for piece in kept]
    joined = {name: np.concatenate([piece[name] for piece in flat]) for name in (flat[0] if flat else ())}
    chosen = joined.pop(MASK, np.zeros(0)) > 0
    return {name: array[chosen] for name, array in joined.items()}


def _of_run(parts: Any, number: int) -> Any:
    """One of the S runs of pure dicts of arrays."""
    return jax.tree.map(lambda leaf_S: leaf_S[number], parts)


KEPT_PROGRAMS = 4
"""Compiled programs that a process keeps, the newest: each is thousands of mappings, and Linux allows 65,530."""

compiled_programs: dict[Any, step.Program] = {}
"""(job's program, shapes ..) -> the program compiled."""


def write_row(workdir: Path, row: dict[str, Any], clock: Clock, runs: int) -> None:
    """Ends a run: `runs` of them share the clock's seconds. Only the first process of a mesh writes."""
    if not sharding.is_first():
        return
    seconds = {name: round(value / runs, 4) for name, value in clock.seconds.items()}
    finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    results.write_row(workdir, row | {"timing": seconds | {"finished": finished}})
