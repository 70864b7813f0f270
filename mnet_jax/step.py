"""The pure heart: state, init, training steps, evaluation, for S seeds at once; the only jit of the project.

Everything here has a leading axis of S runs (seeds, and arms that differ only in traced knobs), which lies on the
mesh's axis "seed"; batches lie on "data". Shape letters: S runs, T steps, N batches of an evaluation, B images, H W C;
images arrive as uint8 and stay on the device.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mnet_jax import models, optim, sharding
from mnet_jax.data import augment
from mnet_jax.ops.formulation import resolve
from mnet_jax.ops.norm import number_of_groups
from mnet_jax.tasks import classification

State = dict[str, Any]
"""{"params", "batch_stats", "opt", "ema", "step", "key", "diverged_at"}: pure dicts, each leaf with the axis S.

`step` counts updates; `diverged_at` is -1, or the first step whose loss was not finite: that run is frozen from there.
"""


class Program(NamedTuple):
    """The jitted (or, once lowered, compiled) functions of one static config.

    init(seeds_S) -> state
    train(state, knobs_S, shared, own, start, count) -> (state, sums): the updates `start` to `start + count` of the T
        in `own`; sums {"loss", "correct"} over them and "diverged_at" after them, each [S].
    evaluate(state, knobs_S, shared, own) -> the sums of tasks/classification.py, and "images", each [S].

    Images come in two ways: `shared` = (images_NHWC, labels_N) and `own` = (index_STB,) into them, or `shared` = () and
    `own` = (images_STBHWC, labels_STB); to evaluate, mask_STB is the last of `own`. Sums are whole on every process;
    arguments lie as `mnet_jax.sharding` says.
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
    cfg: Any, runs: int, mean: tuple[float, ...], std: tuple[float, ...], steps_per_epoch: int, mesh: Mesh
) -> Program:
    """Makes the program of a static config for `runs` runs; `mean` and `std` normalize the images."""
    rate = optim.schedule(cfg.optim, steps_per_epoch, steps_per_epoch * cfg.train.epochs)
    cfg = cfg.copy_and_resolve_references()
    cfg.model.formulation = resolve(
        cfg.model.formulation, jnp.dtype(cfg.model.dtype), mesh.shape["data"], mesh.shape["seed"]
    )
    abstract = nnx.eval_shape(lambda: models.build(cfg.model, nnx.Rngs(0)))
    graphdef, params, batch_stats = nnx.split(abstract, nnx.Param, nnx.BatchStat)
    mask = optim.decay_mask(nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats), cfg.optim)

    def init_run(seed: jax.Array) -> State:
        key = jax.random.key(seed)
        model = models.build(cfg.model, nnx.Rngs(params=jax.random.fold_in(key, 0)))
        _, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
        params, batch_stats = nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)
        return {
            "params": params,
            "batch_stats": batch_stats,
            "opt": optim.optimizer(cfg.optim, 0.0, 0.0, mask).init(params),
            "ema": jax.tree.map(jnp.copy, params) if cfg.train.ema else {},
            "step": jnp.int32(0),
            "key": jax.random.fold_in(key, 1),
            "diverged_at": jnp.int32(-1),
        }

    def train_step(state: State, knobs: Any, images_BHWC: jax.Array, labels_B: jax.Array) -> tuple[State, dict]:
        number_of_groups(images_BHWC.shape[0], cfg.model.norm.group, mesh.shape["data"])
        key_augment, key_dropout = jax.random.split(jax.random.fold_in(state["key"], state["step"]))
        images_BHWC = jax.lax.with_sharding_constraint(images_BHWC, NamedSharding(mesh, PartitionSpec("data")))
        classes = cfg.model.num_classes
        x_BHWC, targets = augment.batch(key_augment, images_BHWC, labels_B, cfg.data, classes, mean, std)
        x_BHWC = x_BHWC.astype(_dtype(state))

        def loss_fn(params: Any) -> tuple[jax.Array, tuple[Any, jax.Array]]:
            model = nnx.merge(graphdef, params, state["batch_stats"])
            model.train()
            logits_BK, _ = model(x_BHWC, knobs=knobs, rngs=nnx.Rngs(dropout=key_dropout))
            loss = classification.loss(logits_BK, targets, cfg.train.label_smoothing)
            return loss, (nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)), logits_BK)

        (loss, (batch_stats, logits_BK)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state["params"])
        rule = optim.optimizer(cfg.optim, knobs.lr * rate(state["step"]), knobs.weight_decay, mask)
        updates, opt = rule.update(grads, state["opt"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        new = {**state, "params": params, "batch_stats": batch_stats, "opt": opt, "step": state["step"] + 1}
        if cfg.train.ema:
            step = state["step"].astype(jnp.float32)
            decay = jnp.minimum(cfg.train.ema, (1 + step) / (10 + step))  # tf.train.ExponentialMovingAverage
            new["ema"] = optax.incremental_update(params, state["ema"], 1 - decay)

        going = (state["diverged_at"] < 0) & jnp.isfinite(loss)
        new = jax.tree.map(lambda a, b: jnp.where(going, a, b), new, state)
        new["diverged_at"] = jnp.where(going | (state["diverged_at"] >= 0), state["diverged_at"], state["step"])
        correct = classification.sums(logits_BK, labels_B, jnp.ones(labels_B.shape, jnp.float32))["correct"]
        return new, {"loss": loss, "correct": correct}

    def train_run(state, knobs, shared, own, start, count):
        def body(index: jax.Array, carry: tuple[State, dict]) -> tuple[State, dict]:
            state, totals = carry
            of_step = [jax.lax.dynamic_index_in_dim(array_T, index, keepdims=False) for array_T in own]
            state, sums = train_step(state, knobs, *_batch(shared, of_step))
            return state, jax.tree.map(jnp.add, totals, sums)

        zero = {"loss": jnp.zeros((), _dtype(state)), "correct": jnp.float32(0)}
        state, totals = jax.lax.fori_loop(start, start + count, body, (state, zero))
        return state, totals | {"diverged_at": state["diverged_at"]}

    def evaluate_run(state, knobs, shared, own):
        model = nnx.merge(graphdef, state["ema"] if cfg.train.ema else state["params"], state["batch_stats"])
        model.eval()

        def body(totals: dict, of_step: tuple[jax.Array, ...]) -> tuple[dict, None]:
            mask_B = of_step[-1]
            images_BHWC, labels_B = _batch(shared, of_step[:-1])
            x_BHWC = augment.normalize(images_BHWC, mean, std).astype(_dtype(state))
            logits_BK, _ = model(x_BHWC, knobs=knobs)
            sums = classification.sums(logits_BK, labels_B, mask_B) | {"images": jnp.sum(mask_B)}
            return jax.tree.map(jnp.add, totals, sums), None

        zero = dict.fromkeys((*classification.summed(cfg.model.num_classes), "images"), jnp.float32(0))
        return jax.lax.scan(body, zero, own)[0]

    def train(state, knobs, shared, own, start, count):
        def run(state, knobs, own):
            return train_run(state, knobs, shared, own, start, count)

        return over_runs(run, runs)(state, knobs, own)

    def evaluate(state, knobs, shared, own):
        def run(state, knobs, own):
            return evaluate_run(state, knobs, shared, own)

        return over_runs(run, runs)(state, knobs, own)

    by_run, batches, whole = (
        NamedSharding(mesh, spec) for spec in (sharding.RUNS, sharding.BATCHES, sharding.EVERYWHERE)
    )
    return Program(
        init=jax.jit(over_runs(init_run, runs), in_shardings=by_run, out_shardings=by_run),
        train=jax.jit(
            train,
            in_shardings=(by_run, by_run, whole, batches, whole, whole),
            out_shardings=(by_run, whole),
            donate_argnums=0,
        ),
        evaluate=jax.jit(evaluate, in_shardings=(by_run, by_run, whole, batches), out_shardings=whole),
    )


def _batch(shared: tuple[jax.Array, ...], of_step: Sequence[jax.Array]) -> Sequence[jax.Array]:
    """Images and labels of one step: picked from those that all runs share, or the run's own."""
    return [array_N[of_step[0]] for array_N in shared] if shared else of_step


def _dtype(state: State) -> jnp.dtype:
    """Of the parameters, and so of the images that meet them."""
    return jax.tree.leaves(state["params"])[0].dtype
