"""`keras.applications` on JAX."""

from typing import Any

import jax
import keras
import optax

from mnet_jax.bench.contenders.ours import repeat_forward, repeat_step
from mnet_jax.bench.harness import Run
from mnet_jax.bench.regime import Regime


def _build(regime: Regime) -> Any:
    model, size = regime.config().model, regime.resolution
    if model.stem or model.name != "mobilenet_v2":
        raise NotImplementedError("keras.applications has V2 with a stem of stride 2 only")
    return keras.applications.MobileNetV2(
        input_shape=(size, size, model.in_channels),
        alpha=model.width,
        classes=model.num_classes,
        weights=None,
        classifier_activation=None,
    )


def train(regime: Regime) -> dict[str, Run]:
    model, rule = _build(regime), keras.optimizers.SGD(0.01, momentum=0.9)
    rule.build(model.trainable_variables)
    variables = (model.trainable_variables, model.non_trainable_variables, rule.variables)
    state = tuple([variable.value for variable in group] for group in variables)
    data = jax.device_put(regime.images())

    def step(state: Any, x_BHWC: Any, labels_B: Any) -> Any:
        trainable, others, momentum = state

        def loss(trainable: Any) -> Any:
            logits_BK, after = model.stateless_call(trainable, others, x_BHWC, training=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits_BK, labels_B).mean(), after

        grads, others = jax.grad(loss, has_aux=True)(trainable)
        trainable, momentum = rule.stateless_apply(momentum, grads, trainable)
        return trainable, others, momentum

    return {"train": repeat_step(step, state, *data)}


def infer(regime: Regime) -> dict[str, Run]:
    model = _build(regime)
    groups = (model.trainable_variables, model.non_trainable_variables)
    state = [[variable.value for variable in group] for group in groups]
    return {"infer": repeat_forward(lambda state, x: model.stateless_call(*state, x, training=False)[0], state, regime)}
