"""A trained network from its weights file, ready to use: normalization, class names and preprocessing included."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from mnet_jax import config, experiment
from mnet_jax.data import augment, transforms
from mnet_jax.errors import UserError
from mnet_jax.models import weights
from mnet_jax.tasks import Task


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A network in evaluation mode.

    `network`      the Flax NNX module; it takes normalized images.
    `cfg`          the config that it was trained with.
    `mean`, `std`  of each channel of images in [0, 1], by which `normalize` makes its input.
    `class_names`  of a classifier.
    `input_shape`  (H, W, C) of the images that it was trained on.
    `made_by`      {"name", "arm", "seed"} of the experiment, and "file" and "sha256" where that brought code.
    """

    network: nnx.Module
    task: Task
    cfg: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    made_by: dict[str, Any]

    def __call__(self, images_BHWC: Any) -> Any:
        """The network's outputs for uint8 images, [B, H, W, C]; of a classifier the logits, [B, K]."""
        return self.network(self.normalize(images_BHWC))[0]  # pyrefly: ignore

    def normalize(self, images_BHWC: Any) -> jax.Array:
        """uint8 images as the network takes them: float32, with mean 0 and deviation 1 over the training images."""
        return augment.normalize(images_BHWC, self.mean, self.std)

    def predict(self, images: Any, batch_size: int = 64) -> dict[str, np.ndarray]:
        """What the network says of images, by the task (`mnet_jax.tasks.base.Task.predict`), as arrays [N, ...].

        Args:
          images: uint8 [N, H, W, C] or [H, W, C], or the path of an image file, or several paths. Files are decoded,
            and cropped or resized as in an evaluation.
          batch_size: images that are in the device's memory at once.

        Raises:
          UserError: arrays of another type or number of channels, or a file that is no image.
        """
        images_NHWC = self._prepared(images)
        answers = []
        for start in range(0, len(images_NHWC), batch_size):
            batch = images_NHWC[start : start + batch_size]
            padded = np.concatenate([batch, np.zeros((batch_size - len(batch), *batch.shape[1:]), np.uint8)])
            padded = batch if len(images_NHWC) <= batch_size else padded  # one compiled shape for all batches
            predicted = jax.tree.map(np.asarray, self._jitted(padded))
            answers.append({name: array[: len(batch)] for name, array in predicted.items()})
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    @functools.cached_property
    def _jitted(self) -> Any:
        graphdef, state = nnx.split(self.network)

        @jax.jit
        def answer(state: Any, images_BHWC: jax.Array) -> Any:
            outputs, _ = nnx.merge(graphdef, state)(self.normalize(images_BHWC))
            return self.task.predict(outputs, self.cfg)

        return functools.partial(answer, state)

    def _prepared(self, images: Any) -> np.ndarray:
        """Images of any accepted kind as uint8 [N, H, W, C] of the size that the network sees."""
        if isinstance(images, str | Path):
            images = [images]
        if isinstance(images, Sequence) and all(isinstance(image, str | Path) for image in images):
            return np.stack([self._read(Path(path)) for path in images])
        images_NHWC = np.asarray(images)
        images_NHWC = images_NHWC[None] if images_NHWC.ndim == 3 else images_NHWC
        if images_NHWC.dtype != np.uint8 or images_NHWC.ndim != 4 or images_NHWC.shape[-1] != self.input_shape[-1]:
            raise UserError(
                f"images are {images_NHWC.dtype}{list(images_NHWC.shape)}; allowed: uint8 [N, H, W, "
                f"{self.input_shape[-1]}], levels from 0 to 255, or paths of image files"
            )
        if side := self.cfg.data.resolution:
            return transforms.resize_batch(images_NHWC, side)
        return images_NHWC

    def _read(self, path: Path) -> np.ndarray:
        try:
            image_HWC = transforms.decode(path.read_bytes(), self.input_shape[-1])
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read as an image: {error}") from error
        if side := self.cfg.data.size:
            return transforms.center_crop(image_HWC, side, self.cfg.data.eval_crop)
        H, W, _ = self.input_shape
        if image_HWC.shape[:2] != (H, W) and H != W:
            came = f"{path} is {image_HWC.shape[0]}x{image_HWC.shape[1]}"
            raise UserError(f"{came}; allowed: {H}x{W}, as the network was trained")
        return image_HWC if image_HWC.shape[:2] == (H, W) else self.task.fit(image_HWC, H)


def load(path: str | Path, formulation: str = "", file: str | Path = "") -> TrainedNetwork:
    """Loads the network of a weights file that a run has written.

    Args:
      path: `runs/NAME/weights.safetensors` of a workdir.
      formulation: how convolutions are computed, in place of the config's; "lax" for `jax.export`.
      file: the experiment file that defines the network, where one did; it is executed.

    Raises:
      UserError: the file is damaged, of another version, or needs the experiment file.
    """
    tensors, header = weights.read(path)
    made_by: dict[str, Any] = {**header.get("experiment", {})}
    code = experiment.Code()
    if "sha256" in made_by:
        if not file:
            raise UserError(
                f"{path} was trained by the code of {made_by['file']}: load it with file=that experiment file"
            )
        loaded = experiment.load(Path(file))
        if loaded.fingerprint.get("sha256") != made_by["sha256"]:
            raise UserError(
                f"{path} was trained by another version of {file} (SHA-256 of its code {made_by['sha256']})"
            )
        code = loaded.code
    cfg = weights.config_of(path, header)
    if formulation:
        config.override(cfg, {"model.formulation": formulation})
    task = code.task_of(cfg)
    abstract = nnx.eval_shape(lambda: task.build(cfg, nnx.Rngs(0)))
    graphdef, params, batch_stats = weights.split(abstract)
    weights.fit(path, tensors, weights.flatten(params, batch_stats))
    trees = (weights.unflatten(tensors, tree) for tree in (params, batch_stats))
    network = nnx.merge(graphdef, *trees)
    network.eval()
    return TrainedNetwork(
        network=network,
        task=task,
        cfg=cfg,
        mean=header["mean"],
        std=header["std"],
        class_names=header["class_names"],
        input_shape=header["input_shape"],
        made_by=made_by,
    )
