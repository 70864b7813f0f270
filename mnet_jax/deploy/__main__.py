"""`python -m mnet_jax.deploy WEIGHTS --to FORMAT -o FILE`: a trained network as a file, measured against JAX."""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnet_jax import flags, runtime, trained
from mnet_jax.deploy import imported, onnx, stablehlo, tflite, trace
from mnet_jax.errors import UserError
from mnet_jax.results import write_atomic

DIFFERENCE = 1e-5
"""The largest that an output of a file in float32 may differ from JAX's, as a share of the largest output."""

AGREEMENT, AGREEMENT_OF_INTEGERS = 0.995, 0.95
"""The share of images that at least must be of the same class as in JAX, of a file in float32 and one in integers."""


class Format(NamedTuple):
    """A kind of file: its suffix, the modules of its extra, and how it is written, quantized, listed and run."""

    suffix: str
    extra: str
    modules: tuple[str, ...]
    export: Callable[[Any, trained.TrainedNetwork], bytes]
    runner: Callable[[bytes], Callable[[np.ndarray], np.ndarray]]
    operations: Callable[[bytes], Counter[str]] | None = None
    quantized: Callable[[bytes, Sequence[np.ndarray]], bytes] | None = None


def _onnx(traced: Any, network: trained.TrainedNetwork) -> bytes:
    said = {"mean": network.mean, "std": network.std, "class_names": list(network.class_names)}
    return onnx.export(traced, {name: json.dumps(value) for name, value in said.items()})


_ONNX = Format(".onnx", "onnx", ("onnx", "onnxruntime"), _onnx, onnx.runner, onnx.operations)
_TFLITE = Format(
    ".tflite",
    "tflite",
    ("litert_converter", "ai_edge_litert"),
    lambda traced, network: tflite.export(traced),
    tflite.runner,
    tflite.operations,
)
FORMATS = {
    "onnx": _ONNX,
    "onnx-int8": _ONNX._replace(quantized=onnx.quantized),
    "tflite": _TFLITE,
    "tflite-int8": _TFLITE._replace(modules=(*_TFLITE.modules, "litert_quantizer"), quantized=tflite.quantized),
    "stablehlo": Format(
        ".stablehlo",
        "stablehlo",
        ("flatbuffers",),
        lambda traced, network: stablehlo.export(traced),
        stablehlo.runner,
    ),
}


class Measured(NamedTuple):
    """What a file computes beside the network itself, on the same images.

    `difference`  the largest of an output, as a share of the largest output.
    `agreement`   the share of images, of a segmentation of pixels, whose largest output is that of the same class.
    `seconds`     of one image: the file's and the network's in JAX, each the least of all.
    """

    difference: float
    agreement: float
    seconds: tuple[float, float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the file and prints what it is; returns 1 where it misses a bar."""
    args = _parser().parse_args(arguments)
    chosen = FORMATS[args.to]
    for flag in ("images", "calibrate"):
        flags.check_number(f"--{flag}", getattr(args, flag), 1)
    flags.check_file("-o", args.out, (chosen.suffix,))
    for module in chosen.modules:
        imported(module, chosen.extra)
    network = trained.load(args.weights, file=args.file)
    if network.cfg.model.dtype != "float32":
        raise UserError(f"model.dtype={network.cfg.model.dtype!r}; allowed: 'float32', in which files compute")
    known = _own_images(network, args.calibrate, args.images)
    images, which = (known.test, "held-out images") if known else (_random(network, args.images), "random images")
    file = chosen.export(trace.evaluation(network.network, (1, *network.input_shape)), network)
    most, least = DIFFERENCE, AGREEMENT
    if chosen.quantized:
        if not known:
            as_float = args.to.removesuffix("-int8")
            raise UserError(
                f"--to {args.to} needs the images that {args.weights} was trained on; allowed: --to {as_float}"
            )
        file = chosen.quantized(file, [np.asarray(network.normalize(image[None])) for image in known.train])
        most, least = float("inf"), AGREEMENT_OF_INTEGERS
    write_atomic(args.out, file)
    measured = measure(network, chosen.runner(file), images)
    operations = chosen.operations(file) if chosen.operations else Counter()
    theirs, ours = (1e3 * seconds for seconds in measured.seconds)
    bar = "" if chosen.quantized else f" (at most {most:g})"
    lines = [
        f"{args.out}: {network.cfg.model.name}, {len(file):,} bytes",
        ", ".join(f"{number} {name}" for name, number in operations.most_common()),
        f"largest difference to JAX: {measured.difference:.1e} of the largest output{bar}",
        f"same class: {measured.agreement:.2%} over {len(images)} {which} (at least {least:.1%})",
        f"one image: {theirs:.2f} ms on one thread, {ours:.2f} ms in JAX (the least of {len(images)})",
    ]
    print("\n".join(filter(None, lines)))
    return int(measured.difference > most or measured.agreement < least)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m mnet_jax.deploy", description=__doc__)
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help="runs/NAME/weights.safetensors of a workdir")
    parser.add_argument("--to", choices=tuple(FORMATS), required=True)
    parser.add_argument("-o", dest="out", type=Path, required=True, metavar="FILE", help="the file to write")
    parser.add_argument("--images", type=int, default=100, help="held-out images to compare on (default: 100)")
    parser.add_argument("--calibrate", type=int, default=50, help="training images that set an int8 file's ranges")
    parser.add_argument("--file", default="", help="the experiment file that defines the network, where one did")
    return parser


class OwnImages(NamedTuple):
    """uint8 images that a run was trained on, and that it held out."""

    train: np.ndarray
    test: np.ndarray


def _own_images(network: trained.TrainedNetwork, train: int, test: int) -> OwnImages | None:
    """So many images of the run that made the network; None where it is of another library or the data are not here."""
    from mnet_jax.data import dataset as sets
    from mnet_jax.data import load, transforms

    data, seed = network.cfg.data, network.made_by.get("seed")
    if seed is None:
        return None
    try:
        dataset = load.from_config(data)
        split = sets.split(dataset, seed, data.train_size, data.holdout)
    except UserError as error:
        print(f"the images of the run are not here: {error}", file=sys.stderr)
        return None

    def read(indices: np.ndarray) -> np.ndarray:
        images = [dataset.image(index) for index in indices]
        if data.size:
            images = [transforms.center_crop(image_HWC, data.size, data.eval_crop) for image_HWC in images]
        return np.stack(images)

    return OwnImages(read(split.train[:train]), read(split.test[:test]))


def _random(network: trained.TrainedNetwork, number: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (number, *network.input_shape), np.uint8)


def measure(network: trained.TrainedNetwork, run: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> Measured:
    """Compares what `run` makes of normalized images with the network itself, one image at a time."""
    import jax
    from flax import nnx

    graphdef, state = nnx.split(network.network)
    compiled = jax.jit(lambda state, images_BHWC: nnx.merge(graphdef, state)(images_BHWC)[0])
    runs = (run, lambda images_BHWC: np.asarray(compiled(state, images_BHWC)))
    outputs: tuple[list[np.ndarray], ...] = ([], [])
    seconds = [float("inf"), float("inf")]
    for image in images:
        normalized = np.asarray(network.normalize(image[None]))
        for which, call in enumerate(runs):
            start = time.perf_counter()
            outputs[which].append(call(normalized))
            seconds[which] = min(seconds[which], time.perf_counter() - start)
    theirs, ours = map(np.concatenate, outputs)
    same = theirs.argmax(-1) == ours.argmax(-1)
    difference = np.abs(theirs - ours).max() / np.abs(ours).max()
    return Measured(float(difference), float(np.mean(same)), (seconds[0], seconds[1]))


if __name__ == "__main__":
    with runtime.exit_status():
        sys.exit(main())
