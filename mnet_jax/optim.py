"""Optimizers and schedules as the papers had them, and what weight decay touches.

Learning rate and weight decay are arguments of the compiled step, so a rule is called inside it with traced numbers:
arms and seeds that differ in them share one program.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

Rate = float | jax.Array


def rmsprop(optim: Any, lr: Rate, decay: optax.GradientTransformation) -> optax.GradientTransformation:
    """TensorFlow's RMSProp: epsilon inside the root, accumulator started at 1, momentum on the scaled step.

    ms <- decay ms + (1 - decay) g^2;  mom <- momentum mom + lr g / sqrt(ms + eps);  w <- w - mom
    (Tieleman and Hinton 2012, as in tf.compat.v1.train.RMSPropOptimizer; used by Sandler et al. 2018, section 6.1).
    """
    rule = optax.rmsprop(
        lr, decay=optim.decay, eps=optim.eps, eps_in_sqrt=True, initial_scale=1.0, momentum=optim.momentum
    )
    return optax.chain(decay, rule)


def sgd(optim: Any, lr: Rate, decay: optax.GradientTransformation) -> optax.GradientTransformation:
    """Gradient descent with Polyak's momentum, or Nesterov's."""
    return optax.chain(decay, optax.sgd(lr, momentum=optim.momentum or None, nesterov=optim.nesterov))


def adamw(optim: Any, lr: Rate, decay: optax.GradientTransformation) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015) with the decay decoupled from the gradient's scale (Loshchilov and Hutter 2019)."""
    adam = optax.scale_by_adam(b1=optim.momentum, b2=optim.decay, eps=optim.eps)
    return optax.chain(adam, decay, optax.scale_by_learning_rate(lr))


OPTIMIZERS: Mapping[str, Callable[[Any, Rate, optax.GradientTransformation], optax.GradientTransformation]] = {
    "rmsprop": rmsprop,
    "sgd": sgd,
    "adamw": adamw,
}


Rule = Callable[[Rate, Rate, Any], optax.GradientTransformation]
"""(learning rate, weight decay, mask of `decay_mask`) -> the update rule at this step; its state depends on none."""


def rule(cfg: Any, own: Callable[[Any], Rule] | None = None) -> Rule:
    """The update rule of `cfg.optim`, or of an experiment's `optimizer(cfg)`; weight decay is L2 but for AdamW."""
    if own:
        return own(cfg)
    optim = cfg.optim
    return lambda lr, weight_decay, mask: OPTIMIZERS[optim.name](
        optim, lr, optax.add_decayed_weights(weight_decay, mask)
    )


def decay_mask(params: Any, optim: Any) -> Any:
    """True where weight decay acts: kernels, depthwise ones if the config says so (V1 section 3.2).

    Norms' scales and biases never decay. A depthwise kernel has the shape [height, width, channels].
    """

    def is_decayed(path: Any, value: jax.Array) -> bool:
        *layers, leaf = (str(entry.key) for entry in path)
        depthwise = layers[-1:] == ["depthwise"] and value.ndim == 3
        return leaf == "kernel" and (optim.decay_depthwise or not depthwise)

    return jax.tree_util.tree_map_with_path(is_decayed, params)


def _exponential(optim: Any, step: jax.Array, steps_per_epoch: int, steps: int) -> jax.Array:
    """`decay_rate` every `decay_epochs`, as a staircase (V2 section 6.1: 0.98 an epoch)."""
    return optim.decay_rate ** jnp.floor(step / (optim.decay_epochs * steps_per_epoch))


def _cosine(optim: Any, step: jax.Array, steps_per_epoch: int, steps: int) -> jax.Array:
    """(1 + cos(pi t)) / 2, down to zero (Loshchilov and Hutter 2017)."""
    return (1 + jnp.cos(jnp.pi * step / max(steps, 1))) / 2


def _constant(optim: Any, step: jax.Array, steps_per_epoch: int, steps: int) -> jax.Array:
    return jnp.ones_like(step)


def _poly(optim: Any, step: jax.Array, steps_per_epoch: int, steps: int) -> jax.Array:
    """(1 - t)^0.9, down to zero (Chen et al. 2017, section 4.1)."""
    return (1 - step / max(steps, 1)) ** 0.9


SCHEDULES: Mapping[str, Callable[[Any, jax.Array, int, int], jax.Array]] = {
    "exponential": _exponential,
    "cosine": _cosine,
    "constant": _constant,
    "poly": _poly,
}


def schedule(optim: Any, steps_per_epoch: int, steps: int) -> Callable[[jax.Array], jax.Array]:
    """step -> the factor on `optim.lr`: a linear warm-up to 1, then the schedule over the steps that are left."""
    warmup = round(optim.warmup * steps)

    def factor(step: jax.Array) -> jax.Array:
        step = step.astype(jnp.float32)
        after = jnp.maximum(step - warmup, 0.0)
        main = SCHEDULES[optim.schedule](optim, after, steps_per_epoch, steps - warmup)
        return jnp.where(step < warmup, (step + 1) / max(warmup, 1), main)

    return factor
