"""Scenes: scikit-learn's handwritten digits on its two photographs, with exact boxes, classes and masks.

The photographs are "china.jpg" by danielbuechele and "flower.jpg" by vultilion, both under CC BY 2.0
(https://creativecommons.org/licenses/by/2.0/); here they are gray, darkened, cropped and drawn upon. No digit and no
part of a photograph is in training and test scenes alike. Shape letters: N scenes, M boxes of a scene at most.
"""

import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mnet_jax.data import builtin, transforms
from mnet_jax.data.dataset import Dataset, Part, from_arrays
from mnet_jax.results import write_atomic

SIZES = 3_000, 500
"""Training and test scenes."""

SIDE = 64
"""Height and width of a scene, in pixels."""

MOST = 6
"""Digits of a scene: from 1 to this many, none of whose boxes overlap."""

HEIGHTS = 10, 28
"""Smallest and largest height of a digit, in pixels."""

CLASS_NAMES = ("background", *builtin.CLASS_NAMES["digits"])

TEST_DIGITS = 500
TRAINING_SHARE = 0.7
"""Share of each photograph, from its left, that training scenes are cut from; test scenes are cut from the rest."""

DARKER = 0.45
"""Factor on the photographs' levels; digits are drawn at 60 to 100 % of white."""

TRIES = 10
"""How often a place is drawn for a digit before it is left out."""

_INK = 60 / 255
_COVERED = 0.4
"""A pixel is ink where it is covered by more than this."""


def scenes() -> Dataset:
    """The scenes, uint8 [N, 64, 64, 1]: drawn in seconds, then read from ~/.cache/mnet_jax.

    Targets: "masks" uint8 [N, 64, 64], the class of each pixel; "boxes" float32 [N, M, 4], (top, left, bottom, right)
    as shares of the scene; "classes" int32 [N, M], those of the boxes, 0 (background) where there is no box.
    """
    files = [builtin.scikit_learn_file("images", name) for name in ("china.jpg", "flower.jpg")]
    photographs = [file.read_bytes() for file in files]
    digits = builtin.digits()
    digest = hashlib.sha256(b"".join([Path(__file__).read_bytes(), digits.fingerprint.encode(), *photographs]))
    cache = Path("~/.cache/mnet_jax").expanduser() / f"scenes-{digest.hexdigest()[:12]}.npz"
    parts = _read(cache)
    if parts is None:
        gray = [transforms.decode(photograph, 1)[..., 0] for photograph in photographs]
        parts = _draw(digits.in_memory()[..., 0], digits.labels_N, gray)
        _write(cache, parts)
    return from_arrays("scenes", *parts, class_names=CLASS_NAMES)


def _draw(digits_NHW: np.ndarray, labels_N: np.ndarray, photographs: list[np.ndarray]) -> list[Part]:
    """Training and test scenes."""
    bits = np.random.Philox(key=np.array([0, int.from_bytes(b"digits")], np.uint64))
    order = np.argsort(bits.random_raw(len(labels_N)), kind="stable")
    cuts = [round(TRAINING_SHARE * photograph.shape[1]) for photograph in photographs]
    left = [photograph[:, :cut] for photograph, cut in zip(photographs, cuts, strict=True)]
    right = [photograph[:, cut:] for photograph, cut in zip(photographs, cuts, strict=True)]
    parts: list[Part] = []
    for number, (count, pool, backgrounds) in enumerate(
        zip(SIZES, (order[TEST_DIGITS:], order[:TEST_DIGITS]), (left, right), strict=True)
    ):
        images_NHWC = np.zeros((count, SIDE, SIDE, 1), np.uint8)
        targets = {
            "masks": np.zeros((count, SIDE, SIDE), np.uint8),
            "boxes": np.zeros((count, MOST, 4), np.float32),
            "classes": np.zeros((count, MOST), np.int32),
        }
        for index in range(count):
            uniforms = _uniforms(number, index)
            background = backgrounds[int(next(uniforms) * len(backgrounds))]
            row, column = (int(next(uniforms) * (length - SIDE + 1)) for length in background.shape)
            canvas_HW = DARKER * background[row : row + SIDE, column : column + SIDE]
            boxes: list[tuple[int, int, int, int]] = []
            for _ in range(1 + int(next(uniforms) * MOST)):
                digit = pool[int(next(uniforms) * len(pool))]
                placed = _placed(_cropped(digits_NHW[digit]), boxes, uniforms)
                if placed is None:
                    continue
                cover_HW, box = placed
                inside = slice(box[0], box[2]), slice(box[1], box[3])
                level = 255 * (0.6 + 0.4 * next(uniforms))
                canvas_HW[inside] = canvas_HW[inside] * (1 - cover_HW) + level * cover_HW
                targets["masks"][index][inside][_silhouette(cover_HW > _COVERED)] = labels_N[digit] + 1
                targets["classes"][index, len(boxes)] = labels_N[digit] + 1
                boxes.append(box)
            targets["boxes"][index, : len(boxes)] = np.array(boxes, np.float32) / SIDE
            images_NHWC[index, ..., 0] = np.rint(canvas_HW)
        parts.append((images_NHWC, targets))
    return parts


def _uniforms(part: int, index: int) -> Iterator[float]:
    """Numbers in [0, 1) of one scene, enough for every try."""
    bits = np.random.Philox(
        key=np.array([part, int.from_bytes(b"scenes")], np.uint64), counter=np.array([0, 0, 0, index], np.uint64)
    )
    return iter(((bits.random_raw(4 + MOST * (2 + 4 * TRIES)) >> np.uint64(11)) * 2.0**-53).tolist())


def _cropped(digit_HW: np.ndarray) -> np.ndarray:
    """The digit's ink, from 0 to 1."""
    digit_HW = digit_HW / 255
    rows, columns = np.nonzero(digit_HW > _INK)
    return digit_HW[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _placed(
    digit_HW: np.ndarray, boxes: list[tuple[int, int, int, int]], uniforms: Iterator[float]
) -> tuple[np.ndarray, tuple[int, int, int, int]] | None:
    """How much the digit covers of each pixel of its box, and the box; None where no try meets free ground."""
    low, high = HEIGHTS
    for _ in range(TRIES):
        a, b, c, d = (next(uniforms) for _ in range(4))
        height = low + int(a * (high - low + 1))
        width = max(4, round(height * digit_HW.shape[1] / digit_HW.shape[0] * (0.85 + 0.35 * b)))
        if width > SIDE:
            continue
        top, left = int(c * (SIDE - height + 1)), int(d * (SIDE - width + 1))
        box = top, left, top + height, left + width
        if all(box[2] <= other[0] or other[2] <= box[0] or box[3] <= other[1] or other[3] <= box[1] for other in boxes):
            rows, columns = (
                transforms.bilinear_weights(before, after)
                for before, after in zip(digit_HW.shape, (height, width), strict=True)
            )
            return rows @ digit_HW @ columns.T, box
    return None


def _silhouette(ink_HW: np.ndarray) -> np.ndarray:
    """The pixels that have ink on both sides in their row or in their column: a digit without its holes.

    Strokes alone, of two pixels or three, are finer than the feature maps that masks are predicted from.
    """

    def between(ink: np.ndarray) -> np.ndarray:
        return np.maximum.accumulate(ink) & np.maximum.accumulate(ink[::-1])[::-1]

    return between(ink_HW) | between(ink_HW.T).T


NAMES = ("images", "masks", "boxes", "classes")


def _read(path: Path) -> list[Part] | None:
    """What `_write` wrote; None where that is missing or damaged."""
    try:
        with open(path, "rb") as file, np.load(file) as arrays:
            parts = [[arrays[f"{part}/{name}"] for name in NAMES] for part in ("train", "test")]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return [(images, dict(zip(NAMES[1:], targets, strict=True))) for images, *targets in parts]


def _write(path: Path, parts: list[Part]) -> None:
    """Keeps the scenes for the next process, where the folder can be written."""
    arrays = {
        f"{part}/{name}": array
        for part, (images, targets) in zip(("train", "test"), parts, strict=True)
        for name, array in {"images": images, **targets}.items()
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # pyrefly: ignore
    try:
        write_atomic(path, buffer.getvalue(), durable=False)
    except OSError:
        return
