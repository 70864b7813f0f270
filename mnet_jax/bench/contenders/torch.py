"""PyTorch with channels last, as eager or compiled programs, and timm's model."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mnet_jax.bench.contenders.architecture import Layer, blocks
from mnet_jax.bench.harness import Run
from mnet_jax.bench.regime import Regime
from mnet_jax.models import specs

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Residual(nn.Sequential):
    def forward(self, input: Any) -> Any:
        return input + super().forward(input)


def _conv_norm(layer: Layer) -> list[Any]:
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


def _network(net: Any) -> nn.Module:
    parts = [
        (Residual if residual else nn.Sequential)(*(part for layer in layers for part in _conv_norm(layer)))
        for layers, residual in blocks(net)
    ]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(net.last, net.num_classes))


def _timm(net: Any) -> nn.Module:
    """timm's model; a ValueError where it is not the same network."""
    import timm

    model = timm.create_model("mobilenetv2_100", num_classes=net.num_classes)
    if _parameters(model) != _parameters(_network(net)):
        raise ValueError("timm has no such network: allowed is mobilenet_v2 of width 1")
    return model


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _build(regime: Regime, timm: bool) -> tuple[Any, Any, Any]:
    """(model, images_BCHW, labels_B) on the device."""
    net = specs.network(regime.config().model)
    model = (_timm if timm else _network)(net).to(DEVICE, memory_format=torch.channels_last)
    torch.backends.cudnn.benchmark = True
    x_BHWC, labels_B = regime.images()
    x_BCHW = torch.from_numpy(x_BHWC).permute(0, 3, 1, 2)  # lies in memory as channels last
    assert x_BCHW.is_contiguous(memory_format=torch.channels_last)
    return model, x_BCHW.to(DEVICE), torch.from_numpy(labels_B).long().to(DEVICE)


def _autocast(regime: Regime) -> Any:
    """The context in which a model computes in bfloat16 where the regime says so."""
    return torch.autocast(DEVICE, torch.bfloat16, enabled=regime.dtype == "bfloat16")


def _wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def train(regime: Regime, compile: str = "", timm: bool = False) -> dict[str, Run]:
    """`compile` is a mode of `torch.compile`; "" is eager."""
    model, x_BCHW, labels_B = _build(regime, timm)
    rule = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    forward = torch.compile(model, mode=compile) if compile else model

    def run(calls: int) -> None:
        for _ in range(calls):
            rule.zero_grad()
            with _autocast(regime):
                loss = nn.functional.cross_entropy(forward(x_BCHW), labels_B)
            loss.backward()
            rule.step()
        _wait()

    return {"train": run}


def infer(regime: Regime, compile: str = "", timm: bool = False) -> dict[str, Run]:
    """`compile` is a mode of `torch.compile`; "" is eager."""
    model, x_BCHW, _ = _build(regime, timm)
    model.eval()
    forward = torch.compile(model, mode=compile) if compile else model

    def run(calls: int) -> None:
        with torch.inference_mode(), _autocast(regime):
            for _ in range(calls):
                forward(x_BCHW)
                _wait()

    return {"infer": run}


def depthwise(size: int, channels: int, stride: int, batch: int, copies: int, dtype: str) -> dict[str, Run]:
    """The passes of a 3x3 depthwise layer, padded by 1; a call is the pass on `copies` batches, one after the other."""
    kind, strides, ones = getattr(torch, dtype), [stride] * 2, [1, 1]

    def random(*shape: int) -> Any:
        return torch.randn(*shape, device=DEVICE, dtype=kind).to(memory_format=torch.channels_last)

    kernel = random(channels, 1, 3, 3)
    x_R = [random(batch, channels, size, size) for _ in range(copies)]
    out = -(-size // stride)
    dy_R = [random(batch, channels, out, out) for _ in range(copies)]

    def forward(x: Any, dy: Any) -> Any:
        return nn.functional.conv2d(x, kernel, None, strides, 1, 1, channels)

    def gradient(x: Any, dy: Any, of: list[bool]) -> Any:
        return torch.ops.aten.convolution_backward(
            dy, x, kernel, None, strides, ones, ones, False, [0, 0], channels, of
        )

    def repeat(function: Callable[[Any, Any], Any]) -> Run:
        def run(calls: int) -> None:
            with torch.no_grad():
                for _ in range(calls):
                    for x, dy in zip(x_R, dy_R, strict=True):
                        function(x, dy)
            _wait()

        return run

    return {
        "forward": repeat(forward),
        "gradient to input": repeat(lambda x, dy: gradient(x, dy, [True, False, False])),
        "gradient to kernel": repeat(lambda x, dy: gradient(x, dy, [False, True, False])),
    }
