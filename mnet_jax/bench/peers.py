"""A contender's process, and what contenders do: this project, plain NNX, Keras on JAX, PyTorch.

A work is a function of its task that returns {item: run}; run(calls) returns when all that it started is finished.
Every library is imported inside of the work that needs it, after the allocator is set.
"""

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mnet_jax import runtime
from mnet_jax.bench import ops, roofline
from mnet_jax.bench.step import settled

Run = Callable[[int], None]
Work = Callable[[Mapping[str, Any]], dict[str, Run]]


def images(task: Mapping[str, Any], batch: int) -> tuple[Any, Any]:
    """images_BHWC in -1 .. 1, float32, and labels_B."""
    import numpy as np

    model, size, random = settled(task).model, task["resolution"], np.random.default_rng(0)
    x_BHWC = random.uniform(-1, 1, (batch, size, size, model.in_channels)).astype("float32")
    return x_BHWC, random.integers(0, model.num_classes, batch).astype("int32")


# This project.


class Trained(NamedTuple):
    """A compiled program: `run`, a call of which is a step of all its runs, the bytes that it needs, and its HLO."""

    run: Run
    memory: int
    hlo: str


def trained(task: Mapping[str, Any]) -> Trained:
    """The project's own program of `runs` runs on uint8 images that lie on the device."""
    import jax
    import numpy as np

    from mnet_jax import config, sharding, step

    cfg, runs, batch = settled(task), task.get("runs", 1), task["batch"]
    mesh, gray = sharding.mesh(runs, batch, jax.devices()[:1]), (0.5,) * cfg.model.in_channels
    program = step.build(cfg, runs, gray, gray, STEPS, mesh)
    x_BHWC, labels_B = images(task, batch)
    x_BHWC = (127.5 * (x_BHWC + 1)).astype(np.uint8)
    order_STB = np.tile(np.arange(batch, dtype=np.int32), (runs, STEPS, 1))
    knobs_S = jax.tree.map(
        lambda value: sharding.put(mesh, sharding.RUNS, np.full(runs, value, np.float32)), config.knobs(cfg)
    )
    data = tuple(sharding.put(mesh, sharding.EVERYWHERE, array) for array in (x_BHWC, labels_B))
    own = (sharding.put(mesh, sharding.BATCHES, order_STB),)
    seeds_S = sharding.put(mesh, sharding.RUNS, np.arange(runs, dtype=np.int32))
    abstract = jax.eval_shape(program.init, seeds_S)
    compiled = program.train.lower(abstract, knobs_S, data, own, np.int32(0), np.int32(0)).compile()
    state: Any = None

    def run(calls: int) -> None:
        nonlocal state
        state = program.init(seeds_S) if state is None else state
        while calls:
            count = min(calls, STEPS)
            state, _ = compiled(state, knobs_S, data, own, np.int32(0), np.int32(count))
            calls -= count
        jax.block_until_ready(state)

    held = compiled.memory_analysis()
    memory = held.argument_size_in_bytes + held.temp_size_in_bytes + held.output_size_in_bytes
    return Trained(run, memory - held.alias_size_in_bytes, compiled.as_text())


def train_ours(task: Mapping[str, Any]) -> dict[str, Run]:
    return {"train": trained(task).run}


STEPS = 50
"""Of a call of the program, as `inputs.CHUNK_STEPS`."""


def infer_ours(task: Mapping[str, Any], constant: bool = True) -> dict[str, Run]:
    """The network's evaluation."""
    from flax import nnx

    from mnet_jax import models

    model = models.build(settled(task).model, nnx.Rngs(0))
    model.eval()
    graphdef, state = nnx.split(model)
    state = nnx.to_pure_dict(state)
    return {"infer": _repeat(lambda state, x_BHWC: nnx.merge(graphdef, state)(x_BHWC)[0], state, task, constant)}


def layers_ours(task: Mapping[str, Any]) -> dict[str, Run]:
    """{type: layers of a `cost.Cost`}: each on an image of its own, with bias and clip, as an evaluation has them."""
    return {type_: _layers(shapes) for type_, shapes in task.items()}


def _layers(shapes: Sequence[Any]) -> Run:
    import jax
    import numpy as np
    from flax import nnx

    from mnet_jax import config
    from mnet_jax.models import specs
    from mnet_jax.models.layers import Conv, Dense

    layer_config, relu6 = specs.layer_config(config.default().model), specs.ACTIVATIONS["relu6"]
    modules, images = nnx.List(), []
    for kernel, stride, groups, input_shape, output_shape in shapes:
        inputs, outputs = input_shape[-1], output_shape[-1]
        if len(input_shape) == 1:
            modules.append(Dense(inputs, outputs))
        elif groups == inputs == outputs > 1:
            modules.append(Conv(layer_config, "depthwise", inputs, outputs, tuple(kernel), stride[0]))
        elif groups == 1 and kernel == [1, 1] and stride == [1, 1]:
            modules.append(Conv(layer_config, "pointwise", inputs, outputs))
        else:
            modules.append(Conv(layer_config, "dense", inputs, outputs, tuple(kernel), stride[0], groups=groups))
        images.append(np.ones((1, *input_shape), np.float32))
    graphdef, state = nnx.split(modules)

    @jax.jit
    def forward(images):
        return [layer(x, relu6) for layer, x in zip(nnx.merge(graphdef, state), images, strict=True)]

    images = jax.device_put(images)

    def run(calls: int) -> None:
        for _ in range(calls):
            jax.block_until_ready(forward(images))

    return run


def _repeat(forward: Callable[..., Any], state: Any, task: Mapping[str, Any], constant: bool = True) -> Run:
    """Calls a jitted function of weights and images, and waits for each call: latency.

    `constant` weights are part of the program, and what depends on them alone is computed when it is compiled;
    otherwise they are arguments, as in training, and norms are folded at every call.
    """
    import jax

    arguments = jax.device_put((state, images(task, task["batch"])[0]))
    if constant:
        forward, arguments = functools.partial(forward, arguments[0]), arguments[1:]
    function = jax.jit(forward)

    def run(calls: int) -> None:
        for _ in range(calls):
            jax.block_until_ready(function(*arguments))

    return run


# The network in rows, for those that build it from their library's own layers.


class Layer(NamedTuple):
    """Convolution, batch norm, and ReLU6 where `act`."""

    inputs: int
    outputs: int
    size: int = 1
    stride: int = 1
    groups: int = 1
    act: bool = True


def layers(net: Any) -> Iterator[tuple[list[Layer], bool]]:
    """(layers, whether their input is added to their output) of a resolved V2: stem, blocks, head."""
    channels, stride = net.stem
    yield [Layer(net.in_channels, channels, 3, stride)], False
    for block in net.blocks:
        wide = block.expanded
        expand = [Layer(channels, wide)] if block.expand else []
        filters = Layer(wide, wide, net.kernel_size, block.stride, wide)
        joins = block.stride == 1 and channels == block.channels
        yield [*expand, filters, Layer(wide, block.channels, act=False)], joins
        channels = block.channels
    yield [Layer(channels, net.last)], False


# Plain NNX.


def _plain_nnx(task: Mapping[str, Any]) -> Any:
    """A V2 of `nnx.Conv` and `nnx.BatchNorm`, as a Flax user writes it."""
    import jax.numpy as jnp
    from flax import nnx

    from mnet_jax.models import specs

    rngs = nnx.Rngs(0)

    class ConvNorm(nnx.Module):
        def __init__(self, layer: Layer):
            size, pad, self.act = layer.size, layer.size // 2, layer.act
            self.conv = nnx.Conv(
                layer.inputs,
                layer.outputs,
                (size, size),
                strides=layer.stride,
                padding=((pad, pad), (pad, pad)),
                feature_group_count=layer.groups,
                use_bias=False,
                rngs=rngs,
            )
            self.norm = nnx.BatchNorm(layer.outputs, rngs=rngs)

        def __call__(self, x_BHWC: Any) -> Any:
            y_BHWC = self.norm(self.conv(x_BHWC))
            return nnx.relu6(y_BHWC) if self.act else y_BHWC

    class Network(nnx.Module):
        def __init__(self, net: Any):
            self.blocks, self.joins = nnx.List(), []
            for block, joins in layers(net):
                self.blocks.append(nnx.List([ConvNorm(layer) for layer in block]))
                self.joins.append(joins)
            self.classifier = nnx.Linear(net.last, net.num_classes, rngs=rngs)

        def __call__(self, x_BHWC: Any) -> Any:
            for block, joins in zip(self.blocks, self.joins, strict=True):
                y_BHWC = x_BHWC
                for layer in block:
                    y_BHWC = layer(y_BHWC)
                x_BHWC = x_BHWC + y_BHWC if joins else y_BHWC
            return self.classifier(jnp.mean(x_BHWC, (1, 2)))

    return Network(specs.network(settled(task).model))


def train_nnx(task: Mapping[str, Any]) -> dict[str, Run]:
    import jax
    import optax
    from flax import nnx

    graphdef, params, statistics = nnx.split(_plain_nnx(task), nnx.Param, ...)
    rule = optax.sgd(0.01, momentum=0.9)
    x_BHWC, labels_B = jax.device_put(images(task, task["batch"]))

    def step(state: Any, x_BHWC: Any, labels_B: Any) -> Any:
        params, statistics, momentum = state

        def loss(params: Any) -> Any:
            model = nnx.merge(graphdef, params, statistics, copy=True)
            losses_B = optax.softmax_cross_entropy_with_integer_labels(model(x_BHWC), labels_B)
            return losses_B.mean(), nnx.split(model, nnx.Param, ...)[2]

        grads, statistics = jax.grad(loss, has_aux=True)(params)
        updates, momentum = rule.update(grads, momentum, params)
        return optax.apply_updates(params, updates), statistics, momentum

    return {"train": _steps(step, (params, statistics, rule.init(params)), x_BHWC, labels_B)}


def _steps(step: Callable[..., Any], state: Any, *data: Any) -> Run:
    """Runs a step that takes its state and hands on the next, donated."""
    import jax

    step = jax.jit(step, donate_argnums=0)

    def run(calls: int) -> None:
        nonlocal state
        for _ in range(calls):
            state = step(state, *data)
        jax.block_until_ready(state)

    return run


def infer_nnx(task: Mapping[str, Any]) -> dict[str, Run]:
    from flax import nnx

    model = _plain_nnx(task)
    model.eval()
    graphdef, state = nnx.split(model)
    return {"infer": _repeat(lambda state, x_BHWC: nnx.merge(graphdef, state)(x_BHWC), state, task)}


# Keras on JAX.


def _keras(task: Mapping[str, Any]) -> Any:
    import keras

    model, size = settled(task).model, task["resolution"]
    if model.stem or model.name != "mobilenet_v2":
        raise NotImplementedError("keras.applications has V2 with a stem of stride 2 only")
    return keras.applications.MobileNetV2(
        input_shape=(size, size, model.in_channels),
        alpha=model.width,
        classes=model.num_classes,
        weights=None,
        classifier_activation=None,
    )


def train_keras(task: Mapping[str, Any]) -> dict[str, Run]:
    import jax
    import keras
    import optax

    model, rule = _keras(task), keras.optimizers.SGD(0.01, momentum=0.9)
    rule.build(model.trainable_variables)
    variables = (model.trainable_variables, model.non_trainable_variables, rule.variables)
    state = [[variable.value for variable in group] for group in variables]
    x_BHWC, labels_B = jax.device_put(images(task, task["batch"]))

    def step(state: Any, x_BHWC: Any, labels_B: Any) -> Any:
        trainable, others, momentum = state

        def loss(trainable: Any) -> Any:
            logits_BK, after = model.stateless_call(trainable, others, x_BHWC, training=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits_BK, labels_B).mean(), after

        grads, others = jax.grad(loss, has_aux=True)(trainable)
        trainable, momentum = rule.stateless_apply(momentum, grads, trainable)
        return trainable, others, momentum

    return {"train": _steps(step, tuple(state), x_BHWC, labels_B)}


def infer_keras(task: Mapping[str, Any]) -> dict[str, Run]:
    model = _keras(task)
    groups = (model.trainable_variables, model.non_trainable_variables)
    state = [[variable.value for variable in group] for group in groups]
    return {"infer": _repeat(lambda state, x: model.stateless_call(*state, x, training=False)[0], state, task)}


# PyTorch, channels last.


def _torch(task: Mapping[str, Any], ready_made: bool = False) -> tuple[Any, Any, Any]:
    """(model, images, labels) on its device; `ready_made` is timm's model, of V2 1.0 alone."""
    import torch
    from torch import nn

    from mnet_jax.models import specs

    def conv_norm(layer: Layer) -> list[Any]:
        conv = nn.Conv2d(
            layer.inputs,
            layer.outputs,
            layer.size,
            layer.stride,
            padding=layer.size // 2,
            groups=layer.groups,
            bias=False,
        )
        return [conv, nn.BatchNorm2d(layer.outputs), *([nn.ReLU6(inplace=True)] if layer.act else [])]

    class Residual(nn.Sequential):
        def forward(self, input: Any) -> Any:
            return input + super().forward(input)

    net = specs.network(settled(task).model)
    blocks = [
        (Residual if joins else nn.Sequential)(*(part for layer in block for part in conv_norm(layer)))
        for block, joins in layers(net)
    ]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(net.last, net.num_classes)]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = _timm(net) if ready_made else nn.Sequential(*blocks, *head)
    model = model.to(device, memory_format=torch.channels_last)
    torch.backends.cudnn.benchmark = True
    x_BHWC, labels_B = images(task, task["batch"])
    x_BCHW = torch.from_numpy(x_BHWC).permute(0, 3, 1, 2)  # lies in memory as channels last
    assert x_BCHW.is_contiguous(memory_format=torch.channels_last)
    return model, x_BCHW.to(device), torch.from_numpy(labels_B).long().to(device)


def _timm(net: Any) -> Any:
    import timm

    model = timm.create_model("mobilenetv2_100", num_classes=net.num_classes)
    ours = sum(
        layer.outputs * (layer.size**2 * layer.inputs // layer.groups + 2) for b, _ in layers(net) for layer in b
    )
    if sum(p.numel() for p in model.parameters()) != ours + (net.last + 1) * net.num_classes:
        raise ValueError("timm has no such network: allowed is mobilenet_v2 of width 1")
    return model


def _autocast(task: Mapping[str, Any]) -> Any:
    """In which a model computes in bfloat16 where the task says so."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.autocast(device, torch.bfloat16, enabled=task["model"].get("dtype") == "bfloat16")


def _finished() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def train_torch(task: Mapping[str, Any], compiled: bool = False, ready_made: bool = False) -> dict[str, Run]:
    import torch

    model, x_BCHW, labels_B = _torch(task, ready_made)
    rule = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    forward = torch.compile(model) if compiled else model

    def run(calls: int) -> None:
        for _ in range(calls):
            rule.zero_grad()
            with _autocast(task):
                loss = torch.nn.functional.cross_entropy(forward(x_BCHW), labels_B)
            loss.backward()
            rule.step()
        _finished()

    return {"train": run}


def infer_torch(task: Mapping[str, Any], compiled: str = "", ready_made: bool = False) -> dict[str, Run]:
    """`compiled` is a mode of `torch.compile`; "" is eager."""
    import torch

    model, x_BCHW, _ = _torch(task, ready_made)
    model.eval()
    forward = torch.compile(model, mode=compiled) if compiled else model

    def run(calls: int) -> None:
        with torch.inference_mode(), _autocast(task):
            for _ in range(calls):
                forward(x_BCHW)
                _finished()

    return {"infer": run}


WORKS: Mapping[str, Work] = {
    "train mnet_jax": train_ours,
    "train nnx": train_nnx,
    "train keras": train_keras,
    "train torch": train_torch,
    "train torch.compile": lambda task: train_torch(task, compiled=True),
    "train timm": lambda task: train_torch(task, ready_made=True),
    "train timm.compile": lambda task: train_torch(task, compiled=True, ready_made=True),
    "infer mnet_jax": infer_ours,
    "infer mnet_jax arguments": lambda task: infer_ours(task, constant=False),
    "layers mnet_jax": layers_ours,
    "infer nnx": infer_nnx,
    "infer keras": infer_keras,
    "infer torch": infer_torch,
    "infer torch.compile": lambda task: infer_torch(task, "default"),
    "infer torch.graphs": lambda task: infer_torch(task, "reduce-overhead"),
    "infer timm": lambda task: infer_torch(task, ready_made=True),
    "infer timm.graphs": lambda task: infer_torch(task, "reduce-overhead", ready_made=True),
    "ops jax": ops.jax_runs,
    "ops torch": ops.torch_runs,
    "probes": roofline.probes,
}


def main() -> None:
    """Answers one request a line, the first of which names the work, until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    wanted = json.loads(sys.stdin.readline())
    if runtime.wanted(runtime.KEEP_MEMORY) and runtime.on_cpu():
        runtime.keep_memory()
    runs: dict[str, Run] | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            runs = WORKS[wanted["work"]](wanted["task"]) if runs is None else runs
            begin = time.perf_counter()
            runs[request["item"]](request["calls"])
            answer = {"seconds": time.perf_counter() - begin}
        except ImportError as error:
            answer = {"failed": f"not installed: {error.name}"}
        except Exception as error:
            answer = {"failed": f"{type(error).__name__}: {error}".partition("\n")[0]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
