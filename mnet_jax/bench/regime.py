"""What is timed: a network at a resolution and a batch size, and the config and images that all contenders use."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mnet_jax import config


class Regime(NamedTuple):
    """A network at a resolution, in pixels, and a batch size; `model` holds overrides of `cfg.model`."""

    model: Mapping[str, Any]
    resolution: int
    batch: int

    @property
    def dtype(self) -> str:
        return self.model.get("dtype", "float32")

    def config(self) -> Any:
        """The network, SGD with momentum at a constant rate, and nothing that other libraries lack."""
        cfg = config.default()
        config.override(
            cfg,
            {
                "model.padding": "symmetric",
                "model.dropout": 0.0,
                "model.norm.group": 0,
                "train.batch_size": self.batch,
                "train.label_smoothing": 0.0,
                "train.ema": 0.0,
                "optim.name": "sgd",
                "optim.schedule": "constant",
                "optim.weight_decay": 0.0,
                **{f"model.{key}": value for key, value in self.model.items()},
            },
            "bench",
        )
        config.check(cfg, "bench")
        return cfg

    def images(self) -> tuple[np.ndarray, np.ndarray]:
        """One random batch: images_BHWC, float32 from -1 to 1, and labels_B, int32."""
        model, random = self.config().model, np.random.default_rng(0)
        shape = (self.batch, self.resolution, self.resolution, model.in_channels)
        images_BHWC = random.uniform(-1, 1, shape).astype(np.float32)
        return images_BHWC, random.integers(0, model.num_classes, self.batch).astype(np.int32)


V2 = {"name": "mobilenet_v2"}
D17 = {"name": "d17", "in_channels": 1, "num_classes": 10}
SMALL_IMAGES = {"num_classes": 10, "stem": (32, 1)}
BFLOAT16 = {"dtype": "bfloat16"}
