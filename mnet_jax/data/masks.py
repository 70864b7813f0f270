"""Segmentation masks: VOC's palette, and data sets of images and masks on disk.

Shape letters: N images, H W, K classes.
"""

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from mnet_jax.data import transforms
from mnet_jax.data.dataset import Dataset, Part, from_arrays
from mnet_jax.errors import UserError

IGNORED = 255
"""Level of the pixels that have no class."""

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""VOC 2012's 20 classes and the background (Everingham et al. 2010)."""

VOC_OF_COCO = {
    **{1: 15, 2: 2, 3: 7, 4: 14, 5: 1, 6: 6, 7: 19, 9: 4, 16: 3, 17: 8, 18: 12, 19: 13, 20: 17, 21: 10},
    **{44: 5, 62: 9, 63: 18, 64: 16, 67: 11, 72: 20},
}
"""COCO's category id -> VOC's class."""

CAMVID_CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"),
)
"""CamVid's 11 classes as SegNet groups them (Badrinarayanan et al. 2017); 11 is void."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

Pair = tuple[Path, Path]
"""The files of an image and of its mask."""


def palette() -> np.ndarray:
    """VOC's colors, uint8 [256, 3]: bit j of the index is bit 7 - j // 3 of red, green or blue, for j % 3 = 0, 1, 2."""
    index_256 = np.arange(256)
    colors = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        colors[:, bit % 3] |= ((index_256 >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return colors


def write(path: str | Path, mask_HW: np.ndarray) -> None:
    """Writes a mask, uint8, as VOC does: a PNG of indices, with VOC's palette."""
    from PIL import Image

    if mask_HW.dtype != np.uint8 or mask_HW.ndim != 2:
        raise UserError(f"the mask is {mask_HW.dtype}{list(mask_HW.shape)}; allowed: uint8[H, W]")
    image = Image.fromarray(mask_HW).convert("P")
    image.putdata(mask_HW.ravel().tolist())
    image.putpalette(palette().ravel().tolist())
    image.save(path, "PNG")


def read(path: Path) -> np.ndarray:
    """The indices of a mask, uint8 [H, W]: of a palette their numbers, never their colors. UserError for RGB."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(path.read_bytes())) as file:
            if file.mode not in ("P", "L"):
                raise UserError(f"{path}: a mask with pixels of mode {file.mode}; allowed: indices (P) or gray (L)")
            return np.asarray(file)
    except OSError as error:
        raise UserError(f"{path} cannot be read as a mask: {error}") from error


def overlay(images_NHWC: np.ndarray, masks_NHW: np.ndarray) -> np.ndarray:
    """Images, uint8, half covered by the colors of their masks; `IGNORED` is white: uint8 [N, H, W, 3]."""
    colors = palette()
    colors[IGNORED] = 255
    images_NHW3 = np.broadcast_to(images_NHWC, (*images_NHWC.shape[:3], 3)).astype(np.uint16)
    mixed_NHW3 = (images_NHW3 + colors[masks_NHW]) // 2
    return np.where(masks_NHW[..., None] > 0, mixed_NHW3, images_NHW3).astype(np.uint8)


def has_masks(folder: Path) -> bool:
    """Whether the folder is in one of the layouts that `from_folder` reads."""
    return any((folder / mark).is_dir() for mark, _ in LAYOUTS)


def from_folder(folder: Path, side: int = 0) -> Dataset:
    """Images and masks of a folder, in memory; targets {"masks"}: uint8 [N, H, W], classes or `IGNORED`.

    Layouts: VOC 2012's (`JPEGImages`, `SegmentationClass`, `ImageSets/Segmentation`), CamVid's as SegNet has it
    (`train`, `trainannot`, ..), `images/SPLIT/NAME.jpg` with `masks_coco/SPLIT/NAME.png` of COCO's panoptic ids, which
    become VOC's classes, or with `masks/SPLIT/NAME.png` of class numbers, whose names are the lines of `classes.txt`.
    SPLIT is train, and val or test.

    Args:
      folder: the data set.
      side: each image is enlarged or reduced until its longer side is this, and filled up below and to the right with
        black, which the mask ignores; 0 = images of one size stay as they are.

    Raises:
      UserError: a mask is missing, of another size than its image, or has a level that is no class; or images differ in
        size.
    """
    pairs, class_names, classes_of = next(
        read_layout(folder) for mark, read_layout in LAYOUTS if (folder / mark).is_dir()
    )
    parts = [_part(folder, members, class_names, classes_of, side) for members in pairs]
    shapes = {images.shape[1:] for images, _ in parts}
    if len(shapes) > 1:
        raise UserError(f"{folder}: images of {', '.join(map(str, sorted(shapes)))}; set data.resolution")
    return from_arrays(folder.name, *parts, class_names=class_names)


Layout = tuple[tuple[list[Pair], list[Pair]], tuple[str, ...], Mapping[int, int]]
"""Training and test pairs, class names, and level of a mask -> class; levels that it lacks are an error."""


def _voc(folder: Path) -> Layout:
    def pairs(split: str) -> list[Pair]:
        listing = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
        if not listing.exists():
            raise UserError(f"{listing} does not exist; allowed: VOC 2012's folders")
        return [
            (folder / "JPEGImages" / f"{name}.jpg", folder / "SegmentationClass" / f"{name}.png")
            for name in listing.read_text().split()
        ]

    return (pairs("train"), pairs("val")), VOC_CLASSES, {number: number for number in (*range(21), IGNORED)}


def _camvid(folder: Path) -> Layout:
    def pairs(split: str) -> list[Pair]:
        return [(path, folder / f"{split}annot" / path.name) for path in _images(folder / split)]

    return (pairs("train"), pairs("test")), CAMVID_CLASSES, {**{k: k for k in range(11)}, 11: IGNORED}


def _splits(folder: Path, masks: str) -> tuple[list[Pair], list[Pair]]:
    held_out = next((name for name in ("test", "val") if (folder / "images" / name).is_dir()), "test")
    train, test = (
        [(path, folder / masks / split / f"{path.stem}.png") for path in _images(folder / "images" / split)]
        for split in ("train", held_out)
    )
    return train, test


def _coco(folder: Path) -> Layout:
    return _splits(folder, "masks_coco"), VOC_CLASSES, {**dict.fromkeys(range(256), 0), **VOC_OF_COCO, 0: IGNORED}


def _plain(folder: Path) -> Layout:
    listing = folder / "classes.txt"
    if not listing.exists():
        raise UserError(f"{listing} does not exist; allowed: a file with the name of a class a line")
    names = tuple(listing.read_text().splitlines())
    return _splits(folder, "masks"), names, {number: number for number in (*range(len(names)), IGNORED)}


LAYOUTS: tuple[tuple[str, Callable[[Path], Layout]], ...] = (
    ("SegmentationClass", _voc),
    ("trainannot", _camvid),
    ("masks", _plain),
    ("masks_coco", _coco),
)
"""(folder that marks a layout, its reader)."""


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist; allowed: a folder of images")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def _part(
    folder: Path, pairs: list[Pair], class_names: tuple[str, ...], classes_of: Mapping[int, int], side: int
) -> Part:
    if not pairs:
        raise UserError(f"{folder}: no images to train on, or none to test on")
    table = np.full(256, -1)
    table[list(classes_of)] = list(classes_of.values())
    images, masks = [], []
    for image_path, mask_path in pairs:
        image_HWC, mask_HW = _read_pair(image_path, mask_path, table, len(class_names))
        if side:
            image_HWC, mask_HW = _fit(image_HWC, mask_HW, side)
        elif images and image_HWC.shape != images[0].shape:
            came = f"{image_path} is {_by(image_HWC)} and {pairs[0][0].name} {_by(images[0])}"
            raise UserError(f"{came}: set data.resolution, the side that they are fitted into")
        images.append(image_HWC)
        masks.append(mask_HW)
    return np.stack(images), {"masks": np.stack(masks)}


def _read_pair(image_path: Path, mask_path: Path, table: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    if not mask_path.exists():
        raise UserError(f"{image_path} has no mask {mask_path}")
    try:
        image_HWC = transforms.decode(image_path.read_bytes(), 3)
    except (OSError, ValueError) as error:
        raise UserError(f"{image_path} cannot be read as an image: {error}") from error
    levels_HW = read(mask_path)
    if levels_HW.shape != image_HWC.shape[:2]:
        raise UserError(f"{mask_path} is {_by(levels_HW)}, its image {_by(image_HWC)}; allowed: the same size")
    mask_HW = table[levels_HW]
    if mask_HW.min() < 0:
        unknown = int(levels_HW[mask_HW < 0][0])
        raise UserError(f"{mask_path} has the level {unknown}; allowed: 0 to {classes - 1}, and the ignored one")
    if (mask_HW == IGNORED).all():
        raise UserError(f"{mask_path}: every pixel is ignored; allowed: masks with pixels of some class")
    return image_HWC, mask_HW.astype(np.uint8)


def _fit(image_HWC: np.ndarray, mask_HW: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Both in the upper left corner of a square."""
    H, W = mask_HW.shape
    height, width = _fitted(H, W, side)
    mask = np.full((side, side), IGNORED, np.uint8)
    nearest_rows, nearest_columns = (
        ((np.arange(after) + 0.5) * before / after).astype(int) for before, after in ((H, height), (W, width))
    )
    mask[:height, :width] = mask_HW[nearest_rows[:, None], nearest_columns]
    return in_corner(image_HWC, side), mask


def in_corner(image_HWC: np.ndarray, side: int) -> np.ndarray:
    """An image whose longer side becomes `side`, in the upper left corner of a black square, uint8 [side, side, C]."""
    H, W, C = image_HWC.shape
    height, width = _fitted(H, W, side)
    rows, columns = transforms.bilinear_weights(H, height), transforms.bilinear_weights(W, width)
    square_HWC = np.zeros((side, side, C), np.uint8)
    square_HWC[:height, :width] = np.rint(np.einsum("yh,xw,hwc->yxc", rows, columns, image_HWC, optimize=True))
    return square_HWC


def _fitted(H: int, W: int, side: int) -> tuple[int, int]:
    """Height and width when the longer one is `side`."""
    return max(1, round(H * side / max(H, W))), max(1, round(W * side / max(H, W)))


def _by(array: np.ndarray) -> str:
    return f"{array.shape[0]}x{array.shape[1]}"
