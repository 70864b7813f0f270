"""Depthwise convolutions alone, for each layer shape of a network: forward, and both gradients."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mnet_jax.bench import contest
from mnet_jax.bench.contest import Entrant, Result, Settings, Table

PASSES = ("forward", "gradient to input", "gradient to kernel")
CONTENDERS = {
    "mnet_jax": ("ops jax", {"formulation": "auto"}),
    "lax": ("ops jax", {"formulation": "lax"}),
    "torch": ("ops torch", {}),
}


class Shape(NamedTuple):
    """Height and width of the input, channels, stride; kernels are 3x3, padded by 1."""

    size: int
    channels: int
    stride: int

    def __str__(self) -> str:
        return f"{self.size}x{self.size}x{self.channels}, stride {self.stride}"


def shapes(name: str = "mobilenet_v2", resolution: int = 224) -> list[Shape]:
    """The distinct depthwise layers of a network, counted from its trace."""
    from mnet_jax import config, cost

    cfg = config.default().model
    cfg.name = name
    layers = [layer for layer in cost.count(cfg, resolution).layers if layer.type == "depthwise conv"]
    return list(dict.fromkeys(Shape(layer.input_shape[0], layer.input_shape[2], layer.stride[0]) for layer in layers))


def measure(settings: Settings, batch: int = 8, of: list[Shape] | None = None) -> Result:
    """Every pass of every shape, in alternation."""
    of = shapes() if of is None else of
    rows: dict[str, list[contest.Row]] = {which: [] for which in PASSES}
    entrants = {
        f"{which}, {shape}, {name}": Entrant(
            work,
            {"shapes": of, "batch": batch, **task},
            f"{which}, {shape}",
            keep_memory=name != "torch",
            peer=name == "torch",
        )
        for which in PASSES
        for shape in of
        for name, (work, task) in CONTENDERS.items()
    }
    times = contest.contest(entrants, settings, "depthwise")
    for which in PASSES:
        for shape in of:
            ours, *others = (times[f"{which}, {shape}, {name}"] for name in CONTENDERS)
            rows[which].append((str(shape), _ms(ours), *(cell for other in others for cell in _against(other, ours))))
    header = ("", "mnet_jax (ms)", "lax (ms)", "times slower", "torch (ms)", "times slower")
    tables = [Table(f"Depthwise {which}, batch {batch}", header, rows[which]) for which in PASSES]
    return Result(tables, contest.raw(times))


def _ms(entry: contest.Times) -> str:
    return entry.failed or f"{1e3 * entry.median:.3g}"


def _against(other: contest.Times, ours: contest.Times) -> tuple[str, str]:
    if other.failed or ours.failed:
        return _ms(other), ""
    factor = contest.ratio(other, ours)
    return _ms(other), f"{factor.median:.2f} [{factor.low:.2f}, {factor.high:.2f}]"


def jax_runs(task: Mapping[str, Any]) -> dict[str, Callable[[int], None]]:
    """XLA's depthwise convolution ("lax"), or the one that this project chooses ("auto")."""
    import jax
    import jax.numpy as jnp

    from mnet_jax.ops.depthwise import depthwise

    runs = {}
    for shape in (Shape(*shape) for shape in task["shapes"]):
        x_BHWC = jnp.ones((task["batch"], shape.size, shape.size, shape.channels), jnp.float32)
        kernel_KKC = jnp.ones((3, 3, shape.channels), jnp.float32)

        def forward(x_BHWC, kernel_KKC, stride=shape.stride):
            return depthwise(x_BHWC, kernel_KKC, stride, ((1, 1), (1, 1)), task["formulation"])

        def to_input(x_BHWC, kernel_KKC, dy_BHWC, forward=forward):
            return jax.vjp(lambda x: forward(x, kernel_KKC), x_BHWC)[1](dy_BHWC)

        def to_kernel(x_BHWC, kernel_KKC, dy_BHWC, forward=forward):
            return jax.vjp(lambda k: forward(x_BHWC, k), kernel_KKC)[1](dy_BHWC)

        dy_BHWC = jnp.ones(jax.eval_shape(forward, x_BHWC, kernel_KKC).shape, jnp.float32)
        arguments = (x_BHWC, kernel_KKC), (x_BHWC, kernel_KKC, dy_BHWC), (x_BHWC, kernel_KKC, dy_BHWC)
        for which, function, given in zip(PASSES, (forward, to_input, to_kernel), arguments, strict=True):
            runs[f"{which}, {shape}"] = _run(jax.jit(function), given)
    return runs


def _run(jitted: Callable[..., Any], given: tuple[Any, ...]) -> Callable[[int], None]:
    import jax

    def run(calls: int) -> None:
        for _ in range(calls):
            jax.block_until_ready(jitted(*given))

    return run


def torch_runs(task: Mapping[str, Any]) -> dict[str, Callable[[int], None]]:
    """PyTorch's, channels last."""
    import torch

    device, runs = "cuda" if torch.cuda.is_available() else "cpu", {}
    for shape in (Shape(*shape) for shape in task["shapes"]):
        channels, stride = shape.channels, [shape.stride] * 2
        x_BCHW = torch.ones(task["batch"], channels, shape.size, shape.size, device=device)
        x_BCHW = x_BCHW.to(memory_format=torch.channels_last)
        kernel = torch.ones(channels, 1, 3, 3, device=device).to(memory_format=torch.channels_last)

        def forward(x=x_BCHW, k=kernel, stride=stride, channels=channels):
            return torch.nn.functional.conv2d(x, k, None, stride, 1, 1, channels)

        def gradient(mask, dy, x=x_BCHW, k=kernel, stride=stride, channels=channels):
            zeros, ones = [0, 0], [1, 1]
            return torch.ops.aten.convolution_backward(dy, x, k, None, stride, ones, ones, False, zeros, channels, mask)

        dy_BCHW = torch.ones_like(forward())
        functions = (
            forward,
            lambda gradient=gradient, dy=dy_BCHW: gradient([True, False, False], dy),
            lambda gradient=gradient, dy=dy_BCHW: gradient([False, True, False], dy),
        )
        for which, function in zip(PASSES, functions, strict=True):

            def run(calls, function=function):
                with torch.no_grad():
                    for _ in range(calls):
                        function()
                if device == "cuda":
                    torch.cuda.synchronize()

            runs[f"{which}, {shape}"] = run
    return runs
