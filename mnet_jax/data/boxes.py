"""Boxes: data sets of photographs with boxes on disk, in COCO's and in Pascal VOC's layout; boxes drawn on images.

Shape letters: N images, M boxes of an image at most, H W C.
"""

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from mnet_jax.data import masks, transforms
from mnet_jax.data.dataset import Dataset, Part, from_arrays
from mnet_jax.errors import UserError

ROUNDING = 1.0
"""Pixels by which a box may leave its image: annotators differ in where a pixel begins."""


class Box(NamedTuple):
    """A box in pixels of its image, from the corner of the first one; `ignored` as in `average_precision.Images`."""

    top: float
    left: float
    bottom: float
    right: float
    category: str
    ignored: bool


class Photograph(NamedTuple):
    """An image file with its boxes, and its (height, width) where the annotations say it."""

    path: Path
    boxes: list[Box]
    size: tuple[int, int] | None


class Layout(NamedTuple):
    """Training and test images, and the names of the classes without the background."""

    train: list[Photograph]
    test: list[Photograph]
    categories: Sequence[str]


def has_boxes(folder: Path) -> bool:
    """Whether the folder is in one of the layouts that `from_folder` reads."""
    return (folder / "ImageSets" / "Main").is_dir() or any(folder.glob("annotations/instances_*.json"))


def from_folder(folder: Path, side: int = 0, corrupt: str = "error") -> Dataset:
    """Images and boxes of a folder, in memory; targets "boxes", "classes" and "ignored", as for `tasks.detection`.

    Layouts: VOC's (`JPEGImages`, `Annotations`, `ImageSets/Main` with trainval.txt and test.txt, or train.txt and
    val.txt), whose boxes count pixels from 1 and hold the last one, and where difficult boxes are ignored; COCO's
    (`annotations/instances_SPLIT.json` with images in `SPLIT` or `images/SPLIT`; SPLIT begins with train and with val),
    where crowds are ignored. Class 0 is "background"; VOC's classes are in the order of VOC 2012 or of the alphabet,
    COCO's in that of their ids.

    Args:
      folder: the data set.
      side: height and width that each image is resized to, whatever its aspect; 0 = images of one size stay as they
        are.
      corrupt: what happens to a box without area or beyond its image, and to an image that cannot be read: "error", or
        "skip" = it is left out, or cut off where a part of the box is in the image, and counted in the log.

    Raises:
      UserError: a file is missing or no image, an annotation is no box of a known class and image, an id occurs twice,
        there is no image, or images differ in size and `side` is 0.
    """
    layout = _coco(folder) if any(folder.glob("annotations/instances_*.json")) else _voc(folder)
    numbers = {name: number for number, name in enumerate(layout.categories, 1)}
    flaws: Counter[str] = Counter()
    most = max((len(photograph.boxes) for part in layout[:2] for photograph in part), default=0)
    parts = [_part(folder, part, numbers, max(most, 1), side, corrupt, flaws) for part in layout[:2]]
    for flaw, count in flaws.items():
        logging.warning("%s: %d %s", folder.name, count, flaw)
    return from_arrays(folder.name, *parts, class_names=("background", *layout.categories))


def _part(
    folder: Path,
    photographs: list[Photograph],
    numbers: Mapping[str, int],
    most: int,
    side: int,
    corrupt: str,
    flaws: Counter[str],
) -> Part:
    images: list[np.ndarray] = []
    targets: dict[str, list[np.ndarray]] = {"boxes": [], "classes": [], "ignored": []}
    for photograph in photographs:
        try:
            image_HWC = _read(photograph)
        except UserError:
            if corrupt == "error":
                raise
            flaws["images that cannot be read, skipped"] += 1
            continue
        H, W, _ = image_HWC.shape
        boxes_M4, classes_M = np.zeros((most, 4), np.float32), np.zeros(most, np.int32)
        ignored_M = np.zeros(most, bool)
        kept = [(box, inside) for box in photograph.boxes if (inside := _inside(photograph, box, H, W, corrupt, flaws))]
        for place, (box, inside) in enumerate(kept):
            if box.category not in numbers:
                came = f"{photograph.path.name} has a box of the class {box.category!r}"
                raise UserError(f"{folder}: {came}; allowed: {', '.join(numbers)}")
            boxes_M4[place] = np.array(inside) / (H, W, H, W)
            classes_M[place], ignored_M[place] = numbers[box.category], box.ignored
        if side:
            image_HWC = transforms.resize_batch(image_HWC[None], side)[0]
        elif images and image_HWC.shape != images[0].shape:
            came = f"{photograph.path} is {H}x{W}, others are {images[0].shape[0]}x{images[0].shape[1]}"
            raise UserError(f"{came}: set data.resolution, the side that they are resized to")
        images.append(image_HWC)
        for name, array in zip(targets, (boxes_M4, classes_M, ignored_M), strict=True):
            targets[name].append(array)
    if not images:
        raise UserError(f"{folder}: no images to train on, or none to test on")
    return np.stack(images), {name: np.stack(arrays) for name, arrays in targets.items()}


def _read(photograph: Photograph) -> np.ndarray:
    path = photograph.path
    if not path.exists():
        raise UserError(f"{path} does not exist; allowed: an image file for every annotated image")
    try:
        image_HWC = transforms.decode(path.read_bytes(), 3)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as an image: {error}") from error
    if photograph.size and photograph.size != image_HWC.shape[:2]:
        came, said = ("x".join(map(str, size)) for size in (image_HWC.shape[:2], photograph.size))
        raise UserError(f"{path} is {came}, its annotation says {said}; allowed: the same size")
    return image_HWC


def _inside(
    photograph: Photograph, box: Box, H: int, W: int, corrupt: str, flaws: Counter[str]
) -> tuple[float, float, float, float] | None:
    """The part of a box that is in its image, in pixels; None where there is none and it may be skipped."""
    top, left, bottom, right = (float(end) for end in box[:4])
    flaw = ""
    if not all(map(math.isfinite, box[:4])) or bottom <= top or right <= left:
        flaw = "without area"
    elif min(top, left) < -ROUNDING or bottom > H + ROUNDING or right > W + ROUNDING:
        flaw = "beyond the image"
    if flaw and corrupt == "error":
        came = f"the box (top {top:g}, left {left:g}, bottom {bottom:g}, right {right:g}) {flaw}"
        raise UserError(f"{photograph.path}: {came}; allowed: boxes in {H}x{W} pixels, or data.corrupt=skip")
    if flaw:
        flaws[f"boxes {flaw}, cut off or skipped"] += 1
    top, left, bottom, right = max(top, 0.0), max(left, 0.0), min(bottom, float(H)), min(right, float(W))
    return (top, left, bottom, right) if bottom > top and right > left else None


# Pascal VOC.


def _voc(folder: Path) -> Layout:
    lists = folder / "ImageSets" / "Main"
    splits = ("trainval", "test") if (lists / "test.txt").exists() else ("train", "val")
    parts = []
    for split in splits:
        listing = lists / f"{split}.txt"
        if not listing.exists():
            raise UserError(f"{listing} does not exist; allowed: trainval.txt and test.txt, or train.txt and val.txt")
        names = listing.read_text().split()
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise UserError(f"{listing}: {twice[0]} stands in it twice; allowed: every image once")
        parts.append([_voc_photograph(folder, name) for name in names])
    found = {box.category for photograph in parts[0] for box in photograph.boxes}
    categories = masks.VOC_CLASSES[1:] if found <= set(masks.VOC_CLASSES) else sorted(found)
    train, test = parts
    return Layout(train, test, categories)


def _voc_photograph(folder: Path, name: str) -> Photograph:
    path = folder / "Annotations" / f"{name}.xml"
    try:
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is no whole XML file: {error}") from error
    boxes = []
    for number, element in enumerate(root.iter("object"), 1):
        try:
            ends = [float(element.findtext(f"bndbox/{end}", "")) for end in ("ymin", "xmin", "ymax", "xmax")]
        except ValueError as error:
            raise UserError(f"{path}: object {number} has no box of four numbers; allowed: VOC's bndbox") from error
        top, left, bottom, right = ends
        category = element.findtext("name", "").strip()
        boxes.append(Box(top - 1, left - 1, bottom, right, category, element.findtext("difficult", "0").strip() == "1"))
    return Photograph(folder / "JPEGImages" / f"{name}.jpg", boxes, None)


# COCO.


def _coco(folder: Path) -> Layout:
    parts, categories = [], {}
    for kind in ("train", "val"):
        files = sorted(folder.glob(f"annotations/instances_{kind}*.json"))
        if len(files) != 1:
            came = ", ".join(file.name for file in files) or "none"
            raise UserError(f"{folder / 'annotations'}: {came} of instances_{kind}*.json; allowed: one")
        part, of_part = _coco_photographs(folder, files[0])
        if parts and of_part != categories:
            raise UserError(f"{files[0]}: its categories differ from those of training; allowed: the same")
        parts.append(part)
        categories = of_part
    train, test = parts
    return Layout(train, test, list(categories.values()))


def _coco_photographs(folder: Path, file: Path) -> tuple[list[Photograph], dict[int, str]]:
    """The images of an annotation file in the order of their ids, and the names of the categories by id."""
    split = re.sub(r"^instances_", "", file.stem)
    images_of = next((place for place in (folder / split, folder / "images" / split) if place.is_dir()), folder / split)
    try:
        content = json.loads(file.read_bytes())
        categories = {entry["id"]: str(entry["name"]) for entry in _unique(file, content, "categories")}
        images = {entry["id"]: entry for entry in _unique(file, content, "images")}
        boxes: dict[int, list[Box]] = {number: [] for number in images}
        for entry in _unique(file, content, "annotations"):
            if entry["image_id"] not in images:
                raise UserError(f"{file}: annotation {entry['id']} is of image {entry['image_id']}, which is not there")
            if entry["category_id"] not in categories:
                came = f"annotation {entry['id']} has the category {entry['category_id']}"
                raise UserError(f"{file}: {came}; allowed: {', '.join(map(str, sorted(categories)))}")
            left, top, width, height = map(float, entry["bbox"])
            ends = top, left, top + height, left + width
            crowd = bool(entry.get("iscrowd", 0))
            boxes[entry["image_id"]].append(Box(*ends, categories[entry["category_id"]], crowd))
        photographs = [
            Photograph(images_of / image["file_name"], boxes[number], (int(image["height"]), int(image["width"])))
            for number, image in sorted(images.items())
        ]
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{file} is no whole JSON file: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is not in COCO's format: {error!r}") from error
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} is not in COCO's format: {error}") from error
    return photographs, dict(sorted(categories.items()))


def _unique(file: Path, content: Any, key: str) -> Iterator[Any]:
    """The entries of a list; UserError where two have the same id."""
    entries: Iterable[Any] = content[key]
    seen = set()
    for entry in entries:
        if entry["id"] in seen:
            raise UserError(f"{file}: two {key} have the id {entry['id']}; allowed: every id once")
        seen.add(entry["id"])
        yield entry


# Pictures.

DRAWN_SIDE = 256
"""Least height of an image that boxes are drawn on: smaller ones are enlarged by a whole number."""


def overlay(image_HWC: np.ndarray, boxes_M4: np.ndarray, classes_M: np.ndarray) -> np.ndarray:
    """An image, uint8, enlarged, with the frames of its boxes in VOC's colors of their classes, the last one on top.

    Returns uint8 [H', W', 3].
    """
    factor = max(1, -(-DRAWN_SIDE // len(image_HWC)))
    drawn = np.repeat(np.repeat(image_HWC, factor, 0), factor, 1)
    drawn = np.broadcast_to(drawn, (*drawn.shape[:2], 3)).copy()
    H, W, _ = drawn.shape
    line, colors = max(1, H // 64), masks.palette()
    for box, number in zip(boxes_M4, classes_M, strict=True):
        if number:
            top, left, bottom, right = np.rint(np.clip(box, 0, 1) * (H, W, H, W)).astype(int)
            color = np.maximum(colors[number], 64)
            drawn[top : top + line, left:right] = drawn[max(0, bottom - line) : bottom, left:right] = color
            drawn[top:bottom, left : left + line] = drawn[top:bottom, max(0, right - line) : right] = color
    return drawn
