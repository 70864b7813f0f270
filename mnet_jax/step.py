"""The pure heart: state, init, training steps and evaluation of a task, for S runs at once.

Everything here has a leading axis of S runs (seeds, and arms that differ only in traced fields), which lies on the
mesh's axis "seed"; batches lie on "data". Shape letters: S runs, T steps, N batches of an evaluation, B images, H W C;
images arrive as uint8 and stay on the device. To follow one training step, read `train_step`.
"""

import fnmatch
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mnet_jax import config, optim, sharding
from mnet_jax.data import augment
from mnet_jax.errors import UserError
from mnet_jax.models import weights
from mnet_jax.ops.formulation import resolve
from mnet_jax.ops.norm import number_of_groups
from mnet_jax.tasks import Task

State = dict[str, Any]
"""{"params", "batch_stats", "opt", "ema", "step", "key", "diverged_at"}: pure dicts, each leaf with the axis S.

`step` counts updates; `diverged_at` is -1, or the first step whose loss was not finite: that run is frozen from there.
`ema` holds averages of "params" and "batch_stats", which are then evaluated; {} where `train.ema` is 0. That the norms'
running statistics are averaged once more is TF-slim's, whose train_image_classifier.py averages all model variables.
"""

Batches = dict[str, Any]
"""The batches of each run: {"index": int32 [S, T, B]} into the data set that is on the devices, or, where it is not,
{"images": uint8 [S, T, B, H, W, C], "targets": {name: [S, T, B, ...]}}. To evaluate also "mask", float32 [S, N, B]."""


class Network(NamedTuple):
    """A network in the two parts that a step needs: its task and its config without traced fields."""

    task: Task
    cfg: Any


class Program(NamedTuple):
    """The jitted (or, once lowered, compiled) functions of one static config.

    init(seeds_S) -> state
    train(state, traced_S, teacher, dataset, batches, start, count) -> (state, sums): the updates `start` to
        `start + count` of the T in `batches`; sums {"loss", *the parts of the task's loss} over them and "diverged_at"
        after them, each [S].
    evaluate(state, traced_S, dataset, batches) -> (the task's sums and "images" [S], what it keeps of every image,
        [S, N, B, ...]).

    `dataset` is (images_NHWC, targets), or () where the batches hold images. `teacher` is {"params", "batch_stats",
    "traced"} of S teachers, or (). Sums are whole on every process; arguments lie as `mnet_jax.sharding` says.
    """

    init: Any
    train: Any
    evaluate: Any


def over_runs(function: Callable, runs: int) -> Callable:
    """vmap over the leading axis; a single run has it taken off, since batched operations are slower on a CPU."""
    if runs > 1:
        return jax.vmap(function, spmd_axis_name="seed")

    def single(*args: Any) -> Any:
        result = function(*jax.tree.map(lambda x_S: x_S[0], args))
        return jax.tree.map(lambda x: x[None], result)

    return single


def build(
    task: Task,
    cfg: Any,
    runs: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    steps_per_epoch: int,
    mesh: Mesh,
    optimizer: Callable[[Any], Any] | None = None,
    teacher: Network | None = None,
) -> Program:
    """Makes the program of a task for `runs` runs whose configs differ in traced fields at most.

    `mean` and `std` normalize the images. `optimizer` is an experiment's own, in place of `cfg.optim.name`.
    """
    cfg = on_mesh(mesh, cfg)
    lr_factor = optim.schedule(cfg.optim, steps_per_epoch, steps_per_epoch * cfg.train.epochs)
    rule = optim.rule(cfg, optimizer)
    graphdef, params, _ = weights.split(weights.abstract(task, cfg))
    decayed = optim.decay_mask(params, cfg.optim)
    trained = trained_mask(params, cfg.optim.trainable)
    teacher_graphdef = weights.split(weights.abstract(teacher.task, on_mesh(mesh, teacher.cfg)))[0] if teacher else None

    def init_run(seed: jax.Array) -> State:
        key = jax.random.key(seed)
        network = task.build(cfg, nnx.Rngs(params=jax.random.fold_in(key, 0)))
        _, params, batch_stats = weights.split(network)
        return {
            "params": params,
            "batch_stats": batch_stats,
            "opt": rule(0.0, 0.0, _chosen(decayed, trained)).init(_chosen(params, trained)),
            "ema": jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats}) if cfg.train.ema else {},
            "step": jnp.int32(0),
            "key": jax.random.fold_in(key, 1),
            "diverged_at": jnp.int32(-1),
        }

    @functools.partial(jax.jit, inline=True)  # so that it is traced once, for the shapes and for the loop
    def train_step(
        state: State, traced: Any, teacher_weights: Any, images_BHWC: jax.Array, targets: Any
    ) -> tuple[State, dict[str, jax.Array]]:
        """One update of one run; returns the new state and the loss and its parts."""
        number_of_groups(images_BHWC.shape[0], cfg.model.norm.group, mesh.shape["data"])
        key_augment, key_dropout = jax.random.split(jax.random.fold_in(state["key"], state["step"]))
        images_BHWC = jax.lax.with_sharding_constraint(images_BHWC, NamedSharding(mesh, PartitionSpec("data")))
        x_BHWC, targets = task.augment(key_augment, images_BHWC, targets, cfg, mean, std)
        x_BHWC = x_BHWC.astype(_dtype(state))
        taught = _teach(teacher_graphdef, teacher_weights, x_BHWC)

        def loss_fn(chosen: Any) -> tuple[jax.Array, tuple[Any, Any]]:
            network = nnx.merge(graphdef, _joined(state["params"], chosen, trained), state["batch_stats"])
            network.train()
            _freeze_norms(network, trained)
            outputs, _ = network(x_BHWC, knobs=traced, rngs=nnx.Rngs(dropout=key_dropout))
            assert task.loss
            loss, parts = task.loss(outputs, targets, cfg, taught)
            return loss, (nnx.to_pure_dict(nnx.state(network, nnx.BatchStat)), parts)

        chosen = _chosen(state["params"], trained)
        (loss, (batch_stats, parts)), grads = jax.value_and_grad(loss_fn, has_aux=True)(chosen)
        update = rule(traced.lr * lr_factor(state["step"]), traced.weight_decay, _chosen(decayed, trained)).update
        updates, opt = update(grads, state["opt"], chosen)
        params = _joined(state["params"], optax.apply_updates(chosen, updates), trained)
        new = {**state, "params": params, "batch_stats": batch_stats, "opt": opt, "step": state["step"] + 1}
        if cfg.train.ema:
            step = state["step"].astype(jnp.float32)
            decay = jnp.minimum(cfg.train.ema, (1 + step) / (10 + step))  # tf.train.ExponentialMovingAverage
            latest = {part: new[part] for part in state["ema"]}
            new["ema"] = optax.incremental_update(latest, state["ema"], 1 - decay)

        finite = (state["diverged_at"] < 0) & jnp.isfinite(loss)
        new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        new["diverged_at"] = jnp.where(finite | (state["diverged_at"] >= 0), state["diverged_at"], state["step"])
        return new, {"loss": loss, **parts}

    def train_run(
        state: State,
        traced: Any,
        teacher_weights: Any,
        dataset: Any,
        batches: Batches,
        start: jax.Array,
        count: jax.Array,
    ) -> tuple[State, dict[str, jax.Array]]:
        """The updates `start` to `start + count` of one run."""

        def body(index: jax.Array, carry: tuple[State, dict]) -> tuple[State, dict]:
            state, totals = carry
            batch = jax.tree.map(lambda array_T: jax.lax.dynamic_index_in_dim(array_T, index, keepdims=False), batches)
            state, sums = train_step(state, traced, teacher_weights, *_images_and_targets(dataset, batch))
            return state, jax.tree.map(jnp.add, totals, sums)

        first = jax.tree.map(lambda array_T: array_T[0], batches)
        _, shapes = jax.eval_shape(train_step, state, traced, teacher_weights, *_images_and_targets(dataset, first))
        zero = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
        state, totals = jax.lax.fori_loop(start, start + count, body, (state, zero))
        return state, totals | {"diverged_at": state["diverged_at"]}

    def evaluate_run(state: State, traced: Any, dataset: Any, batches: Batches) -> tuple[dict, dict]:
        """Sums over the held-out images of one run, and what is kept of each of them."""
        scored = state["ema"] or state
        network = nnx.merge(graphdef, scored["params"], scored["batch_stats"])
        network.eval()

        @functools.partial(jax.jit, inline=True)  # as `train_step`
        def evaluated(batch: Batches) -> tuple[dict, dict]:
            images_BHWC, targets = _images_and_targets(dataset, batch)
            x_BHWC = augment.normalize(images_BHWC, mean, std).astype(_dtype(state))
            outputs, _ = network(x_BHWC, knobs=traced)
            sums = {**task.sums(outputs, targets, batch["mask"], cfg), "images": jnp.sum(batch["mask"])}
            return sums, dict(task.per_image(outputs, targets, cfg))

        def body(totals: dict, batch: Batches) -> tuple[dict, dict]:
            sums, kept = evaluated(batch)
            return jax.tree.map(jnp.add, totals, sums), kept

        shapes, _ = jax.eval_shape(evaluated, jax.tree.map(lambda array_N: array_N[0], batches))
        zero = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
        return jax.lax.scan(body, zero, batches)

    def train(state, traced, teacher_weights, dataset, batches, start, count):
        def of_run(state, traced, teacher_weights, batches):
            return train_run(state, traced, teacher_weights, dataset, batches, start, count)

        return over_runs(of_run, runs)(state, traced, teacher_weights, batches)

    def evaluate(state, traced, dataset, batches):
        def of_run(state, traced, batches):
            return evaluate_run(state, traced, dataset, batches)

        return over_runs(of_run, runs)(state, traced, batches)

    by_run, by_batch, whole = (
        NamedSharding(mesh, spec) for spec in (sharding.RUNS, sharding.BATCHES, sharding.EVERYWHERE)
    )
    return Program(
        init=jax.jit(over_runs(init_run, runs), in_shardings=by_run, out_shardings=by_run),
        train=jax.jit(
            train,
            in_shardings=(by_run, by_run, by_run, whole, by_batch, whole, whole),
            out_shardings=(by_run, whole),
            donate_argnums=0,
        ),
        evaluate=jax.jit(evaluate, in_shardings=(by_run, by_run, whole, by_batch), out_shardings=(whole, by_batch)),
    )


def on_mesh(mesh: Mesh, cfg: Any) -> Any:
    """The config that networks on a mesh are built from: without traced fields, and with the formulation resolved."""
    cfg, dtype = config.without_traced(cfg), jnp.dtype(cfg.model.dtype)
    cfg.model.formulation = resolve(cfg.model.formulation, dtype, mesh.shape["data"], mesh.shape["seed"])
    return cfg


def trained_mask(params: Mapping[str, Any], patterns: tuple[str, ...]) -> dict[str, bool] | None:
    """Name of each weight -> whether a pattern matches it; None where everything is trained (no patterns).

    Raises UserError for a pattern that matches nothing.
    """
    if not patterns:
        return None
    names = weights.flatten(params)
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UserError(
                f"optim.trainable: {pattern!r} matches no weight; they are {', '.join(list(names)[:4])} .. "
                f"{', '.join(list(names)[-2:])}"
            )
    return {name: any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns) for name in names}


def _chosen(params: Any, trained: Mapping[str, bool] | None) -> Any:
    """The trained part of a tree of weights: the tree itself, or {name: weight} of those that are trained."""
    if trained is None:
        return params
    return {name: value for name, value in weights.flatten(params).items() if trained[name]}


def _joined(params: Any, chosen: Any, trained: Mapping[str, bool] | None) -> Any:
    """The tree `params` with its trained part replaced by `chosen`."""
    if trained is None:
        return chosen
    return weights.unflatten({**weights.flatten(params), **chosen}, params)


def _freeze_norms(network: nnx.Module, trained: Mapping[str, bool] | None) -> None:
    """Puts the norms of layers of which nothing is trained into evaluation mode: their statistics stay."""
    if trained is None:
        return
    for path, module in nnx.iter_modules(network):
        if hasattr(module, "use_running_average") and not _trains(path, trained):
            module.eval()


def _trains(path: tuple[Any, ...], trained: Mapping[str, bool]) -> bool:
    """Whether any weight of the module is trained; of a module without weights, whether one of its parent's is."""
    prefix = "".join(f"{part}." for part in path)
    flags = [flag for name, flag in trained.items() if name.startswith(prefix)]
    return any(flags) if flags else _trains(path[:-1], trained)


def _teach(graphdef: Any, teacher_weights: Any, x_BHWC: jax.Array) -> Any:
    """What the teacher's network answers, in evaluation mode; None without one."""
    if graphdef is None:
        return None
    network = nnx.merge(graphdef, teacher_weights["params"], teacher_weights["batch_stats"])
    network.eval()
    outputs, _ = network(x_BHWC, knobs=teacher_weights["traced"])
    return jax.lax.stop_gradient(outputs)


def _images_and_targets(dataset: Any, batch: Batches) -> tuple[jax.Array, Any]:
    """Images and targets of one step: picked from the data set that all runs share, or the batch's own."""
    if "index" in batch:
        return jax.tree.map(lambda array_N: array_N[batch["index"]], dataset)
    return batch["images"], batch["targets"]


def _dtype(state: State) -> jnp.dtype:
    """Of the parameters, and so of the images that meet them."""
    return jax.tree.leaves(state["params"])[0].dtype
