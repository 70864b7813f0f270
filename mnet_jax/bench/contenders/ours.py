"""The project itself: training steps, evaluations, and the layers of a network."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from mnet_jax import config, models, sharding, step
from mnet_jax.bench.harness import Run
from mnet_jax.bench.regime import Regime
from mnet_jax.models import specs
from mnet_jax.models.layers import Conv, Dense
from mnet_jax.tasks import TASKS

STEPS = 50
"""Training steps in a call of the program, as `feed.CHUNK_STEPS`."""


class Prepared(NamedTuple):
    """A program that is not yet compiled, and the arguments of its training steps.

    `program.init(seeds_S)` returns a state, `program.train(state, *arguments, start, count)` the next and sums.
    """

    program: step.Program
    mesh: jax.sharding.Mesh
    seeds_S: jax.Array
    arguments: tuple[Any, ...]


def prepare(
    regime: Regime, runs: int = 1, steps: int = STEPS, device: jax.Device | None = None, dtype: str = "float32"
) -> Prepared:
    """The project's own program of `runs` runs on one device, with uint8 images that lie there.

    All `steps` steps see the regime's one batch. `dtype` is that of the numbers that a program takes as arguments, such
    as the learning rate; "float64" needs `jax.enable_x64`.
    """
    cfg = regime.config()
    mesh, gray = sharding.mesh(runs, regime.batch, [device or jax.devices()[0]]), (0.5,) * cfg.model.in_channels
    program = step.build(TASKS[cfg.task], cfg, runs, gray, gray, steps, mesh)
    images_BHWC, labels_B = regime.images()
    data = (127.5 * (images_BHWC + 1)).astype(np.uint8), {"labels": labels_B}
    dataset = jax.tree.map(lambda array: sharding.put(mesh, sharding.EVERYWHERE, array), data)
    order_STB = np.tile(np.arange(regime.batch, dtype=np.int32), (runs, steps, 1))
    batches = {"index": sharding.put(mesh, sharding.BATCHES, order_STB)}
    traced_S = jax.tree.map(
        lambda value: sharding.put(mesh, sharding.RUNS, np.full(runs, value, dtype)), config.traced_values(cfg)
    )
    seeds_S = sharding.put(mesh, sharding.RUNS, np.arange(runs, dtype=np.int32))
    return Prepared(program, mesh, seeds_S, (traced_S, (), dataset, batches))


class Compiled(NamedTuple):
    """A compiled program: `run`, a call of which is a step of all its runs, the bytes that it needs, and its HLO."""

    run: Run
    memory: int
    hlo: str


def compiled(regime: Regime, runs: int = 1) -> Compiled:
    """Compiles the training steps of `runs` runs; their state is made at the first call."""
    program, _, seeds_S, arguments = prepare(regime, runs)
    abstract = jax.eval_shape(program.init, seeds_S)
    advance = program.train.lower(abstract, *arguments, np.int32(0), np.int32(0)).compile()
    state: Any = None

    def run(calls: int) -> None:
        nonlocal state
        state = program.init(seeds_S) if state is None else state
        while calls:
            count = min(calls, STEPS)
            state, _ = advance(state, *arguments, np.int32(0), np.int32(count))
            calls -= count
        jax.block_until_ready(state)

    needed = advance.memory_analysis()
    memory = needed.argument_size_in_bytes + needed.temp_size_in_bytes + needed.output_size_in_bytes
    return Compiled(run, memory - needed.alias_size_in_bytes, advance.as_text())


def train(regime: Regime) -> dict[str, Run]:
    return {"train": compiled(regime).run}


def infer(regime: Regime, constant: bool = True) -> dict[str, Run]:
    """The network's evaluation; for `constant` see `repeat_forward`."""
    model = models.build(regime.config().model, nnx.Rngs(0))
    model.eval()
    graphdef, state = nnx.split(model)
    state = nnx.to_pure_dict(state)
    forward = lambda state, x_BHWC: nnx.merge(graphdef, state)(x_BHWC)[0]  # noqa: E731
    return {"infer": repeat_forward(forward, state, regime, constant)}


def layers(layers: Mapping[str, Sequence[Any]]) -> dict[str, Run]:
    """{type: all layers of that type}, each on an image of its own, with bias and clip, as an evaluation has them.

    A layer is (kernel, stride, groups, input_shape, output_shape) of a `cost.Layer`.
    """
    return {type_: _layers(shapes) for type_, shapes in layers.items()}


def _layers(shapes: Sequence[Any]) -> Run:
    style, relu6 = specs.layer_config(config.default().model), specs.ACTIVATIONS["relu6"]
    modules, images = nnx.List(), []
    for kernel, stride, groups, input_shape, output_shape in shapes:
        inputs, outputs = input_shape[-1], output_shape[-1]
        if len(input_shape) == 1:
            modules.append(Dense(inputs, outputs))
        elif groups == inputs == outputs > 1:
            modules.append(Conv(style, "depthwise", inputs, outputs, tuple(kernel), stride[0]))
        elif groups == 1 and kernel == [1, 1] and stride == [1, 1]:
            modules.append(Conv(style, "pointwise", inputs, outputs))
        else:
            modules.append(Conv(style, "dense", inputs, outputs, tuple(kernel), stride[0], groups=groups))
        images.append(np.ones((1, *input_shape), np.float32))
    graphdef, state = nnx.split(modules)

    @jax.jit
    def forward(images):
        return [layer(x, relu6) for layer, x in zip(nnx.merge(graphdef, state), images, strict=True)]

    return repeat(forward, jax.device_put(images))


def repeat_forward(forward: Callable[..., Any], state: Any, regime: Regime, constant: bool = True) -> Run:
    """Calls forward(state, images_BHWC), jitted, and waits for each call.

    `constant` weights are part of the program, and what depends on them alone is computed when it is compiled;
    otherwise they are arguments, as in training, and norms are folded at every call.
    """
    arguments = jax.device_put((state, regime.images()[0]))
    if constant:
        forward, arguments = functools.partial(forward, arguments[0]), arguments[1:]
    return repeat(jax.jit(forward), *arguments)


def repeat(function: Callable[..., Any], *arguments: Any) -> Run:
    """Waits for each call: latency."""

    def run(calls: int) -> None:
        for _ in range(calls):
            jax.block_until_ready(function(*arguments))

    return run


def repeat_step(step: Callable[..., Any], state: Any, *data: Any) -> Run:
    """Calls step(state, *data) -> next state, jitted with a donated state, and waits for the last call."""
    step = jax.jit(step, donate_argnums=0)

    def run(calls: int) -> None:
        nonlocal state
        for _ in range(calls):
            state = step(state, *data)
        jax.block_until_ready(state)

    return run
