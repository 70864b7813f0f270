"""Image transforms on the host: decode, crop, resize, RandAugment.

Random transforms take their random numbers, uniform in [0, 1), as an argument: the same numbers give the same pixels.
OpenCV decodes JPEG and resizes crops where it is installed, else Pillow does: both decode to the same bits, but their
resized crops differ.
"""

import functools
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mnet_jax.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

TRIES = 10
"""How often `random_crop` draws a crop before it takes the middle; a try takes 4 numbers (Szegedy et al. 2015)."""

MAX_PIXELS = 89_478_485
"""Largest height times width that is decoded: Pillow's limit against decompression bombs, 256 MiB as RGB."""

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
"""Pillow's modes of 8 bits that convert to RGB and gray."""


class CorruptImage(UserError):
    """An image or record that cannot be decoded."""


@functools.cache
def _opencv() -> Any:
    try:
        import cv2
    except ImportError:
        return None
    cv2.setNumThreads(0)
    return cv2


def decode(data: bytes, channels: int) -> np.ndarray:
    """Pixels of an encoded image, uint8 [H, W, channels]; orientation tags are ignored, as ImageNet's training does.

    16-bit gray keeps its high byte; of an animation this is the first image; transparency is dropped.

    Raises CorruptImage, also for more than `MAX_PIXELS` and for pixels of 32 bits, which have no range to scale by.
    """
    from PIL import Image

    cv2 = _opencv()
    try:
        with Image.open(io.BytesIO(data)) as file:
            if file.width * file.height > MAX_PIXELS:
                raise CorruptImage(f"its header claims {file.width} x {file.height} pixels; allowed: {MAX_PIXELS:,}")
            if cv2 and data[:2] == b"\xff\xd8":
                color = cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_GRAYSCALE
                image = cv2.imdecode(np.frombuffer(data, np.uint8), color | cv2.IMREAD_IGNORE_ORIENTATION)
                if image is None:
                    raise CorruptImage("image file is truncated or corrupt")
                return image.reshape(*image.shape[:2], channels)
            file.load()
            if file.mode.startswith("I;16"):
                gray_HW1 = (np.asarray(file) >> 8).astype(np.uint8)[..., None]
                return np.repeat(gray_HW1, channels, axis=2)
            if file.mode not in MODES:
                raise CorruptImage(f"its pixels have Pillow's mode {file.mode}; allowed: {', '.join(MODES)}, I;16")
            opaque = file.convert("RGBA") if "transparency" in file.info else file
            image = np.asarray(opaque.convert("RGB" if channels == 3 else "L"))
            return image.reshape(*image.shape[:2], channels)
    except CorruptImage:
        raise
    except Exception as error:  # decoders raise errors of many types
        raise CorruptImage(f"{type(error).__name__}: {error}") from error


def random_crop(
    image_HWC: np.ndarray,
    size: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
    uniforms: Sequence[float],
) -> np.ndarray:
    """A random crop of the image, resized to `size` x `size` (Szegedy et al. 2015, section 6).

    Args:
      image_HWC: uint8.
      size: height and width of the result, in pixels.
      area: smallest and largest area of the crop as a fraction of the image.
      aspect: smallest and largest width / height of the crop; its logarithm is uniform.
      uniforms: 4 * TRIES numbers in [0, 1). Where no try lies in the image, the largest crop in the middle is taken.
    """
    H, W, _ = image_HWC.shape
    low, high = math.log(aspect[0]), math.log(aspect[1])
    for number in range(TRIES):
        a, b, c, d = uniforms[4 * number : 4 * number + 4]
        pixels = H * W * (area[0] + a * (area[1] - area[0]))
        ratio = math.exp(low + b * (high - low))
        height, width = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 0 < height <= H and 0 < width <= W:
            return resize(image_HWC, int(c * (H - height + 1)), int(d * (W - width + 1)), height, width, size)
    height, width = min(H, max(1, round(W / aspect[0]))), min(W, max(1, round(H * aspect[1])))
    return resize(image_HWC, (H - height) // 2, (W - width) // 2, height, width, size)


def center_crop(image_HWC: np.ndarray, size: int, share: float) -> np.ndarray:
    """The central square whose side is `share` of the image's short side, resized to `size` x `size`.

    This is "resize the short side to size / share, then crop the center" with one resampling.
    """
    H, W, _ = image_HWC.shape
    side = max(1, round(min(H, W) * share))
    return resize(image_HWC, (H - side) // 2, (W - side) // 2, side, side, size)


def resize(image_HWC: np.ndarray, top: int, left: int, height: int, width: int, size: int) -> np.ndarray:
    """A part of an image, uint8 [size, size, C], bilinear; OpenCV averages instead where it shrinks to half or less.

    Between half and whole size OpenCV's bilinear filter, like TensorFlow's, has no antialiasing; Pillow's has it.
    """
    C = image_HWC.shape[-1]
    part = image_HWC[top : top + height, left : left + width]
    if (height, width) == (size, size):
        return part
    if cv2 := _opencv():
        kind = cv2.INTER_AREA if min(height, width) >= 2 * size else cv2.INTER_LINEAR
        return cv2.resize(part, (size, size), interpolation=kind).reshape(size, size, C)

    from PIL import Image

    small = Image.fromarray(part if C > 1 else part[..., 0]).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(small).reshape(size, size, C)


def resize_batch(images_NHWC: np.ndarray, size: int) -> np.ndarray:
    """Resizes uint8 images to [N, size, size, C], bilinear; where they shrink, the triangle is as wide as the step."""
    _, H, W, _ = images_NHWC.shape
    rows, columns = (bilinear_weights(side, size).astype(np.float32) for side in (H, W))
    resized_NHWC = np.empty((len(images_NHWC), size, size, images_NHWC.shape[-1]), np.uint8)
    for first in range(0, len(images_NHWC), 1000):
        block = images_NHWC[first : first + 1000].astype(np.float32)
        block = np.einsum("yh,xw,nhwc->nyxc", rows, columns, block, optimize=True)
        resized_NHWC[first : first + 1000] = np.rint(block)
    return resized_NHWC


def bilinear_weights(before: int, after: int) -> np.ndarray:
    """Float64 [after, before], rows sum to 1: the weight of each old pixel in a new one, with half-pixel centers."""
    scale = max(1.0, before / after)
    centers = (np.arange(after) + 0.5) * before / after - 0.5
    weights = np.maximum(0, 1 - np.abs(centers[:, None] - np.arange(before)) / scale)
    return weights / weights.sum(1, keepdims=True)


def _affine(image: "Image.Image", matrix: tuple[float, ...]) -> "Image.Image":
    from PIL import Image

    fill = (128,) * len(image.getbands())
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=fill if len(fill) > 1 else 128
    )


def _operations() -> Mapping[str, Callable[["Image.Image", float], "Image.Image"]]:
    """RandAugment's operations of (image, strength), strength from -1 to 1 (Cubuk et al. 2019, Table 6's ranges)."""
    from PIL import Image, ImageEnhance, ImageOps

    def rotate(image: "Image.Image", x: float) -> "Image.Image":
        fill = (128,) * len(image.getbands())
        return image.rotate(30 * x, Image.Resampling.BILINEAR, fillcolor=fill if len(fill) > 1 else 128)

    def enhance(kind: Any) -> Callable[["Image.Image", float], "Image.Image"]:
        return lambda image, x: kind(image).enhance(1 + 0.9 * x)

    return {
        "identity": lambda image, x: image,
        "autocontrast": lambda image, x: ImageOps.autocontrast(image),
        "equalize": lambda image, x: ImageOps.equalize(image),
        "solarize": lambda image, x: ImageOps.solarize(image, int(256 * (1 - abs(x)))),
        "posterize": lambda image, x: ImageOps.posterize(image, 8 - round(4 * abs(x))),
        "color": enhance(ImageEnhance.Color),
        "contrast": enhance(ImageEnhance.Contrast),
        "brightness": enhance(ImageEnhance.Brightness),
        "sharpness": enhance(ImageEnhance.Sharpness),
        "rotate": rotate,
        "shear_x": lambda image, x: _affine(image, (1, 0.3 * x, 0, 0, 1, 0)),
        "shear_y": lambda image, x: _affine(image, (1, 0, 0, 0.3 * x, 1, 0)),
        "translate_x": lambda image, x: _affine(image, (1, 0, 0.45 * x * image.width, 0, 1, 0)),
        "translate_y": lambda image, x: _affine(image, (1, 0, 0, 0, 1, 0.45 * x * image.height)),
    }


def randaugment(image_HWC: np.ndarray, operations: int, magnitude: float, uniforms: Sequence[float]) -> np.ndarray:
    """Applies `operations` of 14 operations, drawn with replacement, at `magnitude` from 0 to 10 (Cubuk et al. 2020).

    10 is the strongest here, and all operations grow stronger with it. torchvision counts to 30, so that its 9 turns by
    9 degrees where 9 here turns by 27; in the TensorFlow code solarize and posterize grow weaker.

    `uniforms` holds 2 numbers in [0, 1) for each operation: the first chooses it, the second its sign.
    """
    from PIL import Image

    C = image_HWC.shape[-1]
    image = Image.fromarray(image_HWC if C > 1 else image_HWC[..., 0])
    table = list(_operations().values())
    for number in range(operations):
        which, side = uniforms[2 * number : 2 * number + 2]
        image = table[int(which * len(table))](image, magnitude / 10 * (1 if side < 0.5 else -1))
    return np.asarray(image).reshape(image_HWC.shape)
