"""Data sets on disk that a table lists: `attributes.csv`, with the files of images and what each of them shows."""

import csv
from pathlib import Path

import numpy as np

from mnet_jax.data import transforms
from mnet_jax.data.dataset import Dataset, Part, from_arrays
from mnet_jax.errors import UserError

ATTRIBUTES = "attributes.csv"

SPLITS = ("train", "test")


def has_table(folder: Path) -> bool:
    """Whether `from_folder` reads this folder."""
    return (folder / ATTRIBUTES).is_file()


def from_folder(folder: Path, side: int = 0) -> Dataset:
    """Images with attributes, in memory; targets {"attributes"}: uint8 [N, K] of 0 and 1.

    The first line of `attributes.csv` is `file,split,` and the names of the attributes; every other line is the path of
    an image below the folder, `train` or `test`, and a 0 or 1 for each attribute.

    Args:
      folder: the data set.
      side: the central square of each image is enlarged or reduced to this side; 0 = images of one size stay as they
        are.

    Raises:
      UserError: a line or an image cannot be read, is there twice or has another number of values; a split is empty; or
        images differ in size.
    """
    path = folder / ATTRIBUTES
    try:
        header, *lines = csv.reader(path.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a table: {error}") from error
    names = header[2:]
    if header[:2] != ["file", "split"] or not names or len(set(names)) < len(names):
        raise UserError(f"{path} begins with {','.join(header)!r}; allowed: file,split, and different attributes")
    found: dict[str, tuple[str, list[int]]] = {}
    for number, line in enumerate(lines, 2):
        where = f"{path}, line {number}"
        if len(line) != len(header):
            raise UserError(f"{where}: {len(line)} values; allowed: {len(header)}, as the first line has names")
        file, split, *values = line
        if split not in SPLITS or not set(values) <= {"0", "1"}:
            raise UserError(f"{where}: {','.join(line[1:])!r}; allowed: {' or '.join(SPLITS)}, then a 0 or 1 each")
        if file in found:
            raise UserError(f"{where}: {file} for the second time")
        found[file] = split, [int(value) for value in values]
    parts = [_part(folder, {file: row for file, (of, row) in found.items() if of == split}, side) for split in SPLITS]
    shapes = {images.shape[1:] for images, _ in parts}
    if len(shapes) > 1:
        raise UserError(f"{folder}: images of {', '.join(map(str, sorted(shapes)))}; set data.resolution")
    return from_arrays(folder.name, *parts, class_names=names)


def _part(folder: Path, rows: dict[str, list[int]], side: int) -> Part:
    if not rows:
        raise UserError(f"{folder / ATTRIBUTES}: no images to train on, or none to test on")
    images: list[np.ndarray] = []
    for file in rows:
        try:
            image_HWC = transforms.decode((folder / file).read_bytes(), 3)
        except (OSError, ValueError) as error:
            raise UserError(f"{folder / file} cannot be read as an image: {error}") from error
        if side:
            image_HWC = transforms.center_crop(image_HWC, side, 1.0)
        elif images and image_HWC.shape != images[0].shape:
            first, size = ("x".join(map(str, image.shape[:2])) for image in (images[0], image_HWC))
            raise UserError(f"{folder / file} is {size} and the image before {first}: set data.resolution")
        images.append(image_HWC)
    return np.stack(images), {"attributes": np.array(list(rows.values()), np.uint8)}
