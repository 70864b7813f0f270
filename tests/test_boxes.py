"""Readers of boxes: COCO's and VOC's layouts, and what is wrong with files, in a line each."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnet_jax.data import boxes, load
from mnet_jax.errors import UserError

DATA = Path(os.environ.get("MNET_DATA_DIR", "nowhere"))


def photograph(path, height=20, width=40):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path)


def write_voc(folder, ends=(1, 1, 40, 20), name="dog", difficult=0):
    """Two images of 20x40 pixels, each with one box, (left, top, right, bottom) counted from 1."""
    sides = "".join(f"<{tag}>{end}</{tag}>" for tag, end in zip(("xmin", "ymin", "xmax", "ymax"), ends, strict=True))
    for split, stem in (("trainval", "a"), ("test", "b")):
        for part in ("Annotations", "ImageSets/Main"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        photograph(folder / "JPEGImages" / f"{stem}.jpg")
        (folder / "ImageSets/Main" / f"{split}.txt").write_text(f"{stem}\n")
        of_object = f"<name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox>"
        (folder / "Annotations" / f"{stem}.xml").write_text(
            f"<annotation><object>{of_object}</object></annotation>", encoding="utf-8"
        )
    return folder


def coco_content(**changes):
    """The annotations of two images, 5 and 9, of 20x40 pixels, of which the second has a box and a crowd."""
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 20, "width": 40} for i in (9, 5)],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 9, "category_id": 7, "bbox": [4, 5, 10, 10], "iscrowd": 0},
            {"id": 2, "image_id": 9, "category_id": 3, "bbox": [0, 0, 40, 20], "iscrowd": 1},
        ],
    }
    return content | changes


def write_coco(folder, content=None):
    for split in ("train", "val"):
        for number in (5, 9):
            photograph(folder / "images" / split / f"{number}.jpg")
        file = folder / "annotations" / f"instances_{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(coco_content()))
    if content is not None:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_voc_counts_pixels_from_one_and_holds_the_last(tmp_path):
    whole = load.from_name("voc", write_voc(tmp_path / "voc").parent)
    assert whole.class_names[:2] == ("background", "aeroplane")
    np.testing.assert_array_equal(whole.targets["boxes"], [[[0, 0, 1, 1]], [[0, 0, 1, 1]]])
    assert whole.targets["classes"].tolist() == [[12], [12]]
    assert (len(whole.train_indices), len(whole.test_indices)) == (1, 1)
    one = load.from_name("one", write_voc(tmp_path / "one", (5, 3, 5, 3), "cell", 1).parent)
    np.testing.assert_allclose(one.targets["boxes"][0, 0], [2 / 20, 4 / 40, 3 / 20, 5 / 40])
    assert one.class_names == ("background", "cell")
    assert one.targets["ignored"].all()


def test_coco_boxes_are_corner_and_size_and_ids_have_gaps(tmp_path):
    read = load.from_name("coco_like", write_coco(tmp_path / "coco_like").parent)
    assert read.class_names == ("background", "dog", "cat")  # in the order of their ids
    assert read.shape == (20, 40, 3)
    assert read.targets["classes"].tolist() == [[0, 0], [2, 1]] * 2  # images in the order of their ids
    np.testing.assert_allclose(read.targets["boxes"][1], [[5 / 20, 4 / 40, 15 / 20, 14 / 40], [0, 0, 1, 1]])
    assert read.targets["ignored"][1].tolist() == [False, True]


def test_images_are_resized_whatever_their_aspect(tmp_path):
    small = load.from_name("coco_like", write_coco(tmp_path / "coco_like").parent, resolution=8)
    assert small.shape == (8, 8, 3)
    np.testing.assert_allclose(small.targets["boxes"][1, 0], [5 / 20, 4 / 40, 15 / 20, 14 / 40])
    photograph(tmp_path / "coco_like/images/val/5.jpg", 20, 41)
    content = coco_content()
    content["images"][1]["width"] = 41
    write = tmp_path / "coco_like/annotations/instances_val.json"
    write.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"5.jpg is 20x41, others are 20x40|set data\.resolution"):
        boxes.from_folder(tmp_path / "coco_like")


def annotation(**changes):
    return coco_content(annotations=[{"id": 1, "image_id": 9, "category_id": 7, "bbox": [4, 5, 10, 10]} | changes])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (annotation(bbox=[4, 5, 10, 0]), r"images/val/9.jpg: the box .* without area; allowed: boxes in 20x40 pixels"),
        (annotation(bbox=[4, 5, 50, 10]), r"9.jpg: the box \(top 5, left 4, bottom 15, right 54\) beyond the image"),
        (annotation(bbox=[4, 5, float("nan"), 10]), r"9.jpg: the box .* without area"),
        (annotation(bbox=[4, 5, 10]), r"instances_val.json is not in COCO's format: not enough values"),
        (annotation(bbox=[4, 5, "x", 10]), r"instances_val.json is not in COCO's format: could not convert"),
        (annotation(category_id=4), r"annotation 1 has the category 4; allowed: 3, 7"),
        (annotation(image_id=4), r"annotation 1 is of image 4, which is not there"),
        (coco_content(images=[]), r"is of image 9, which is not there"),
        (coco_content(images=[], annotations=[]), r"no images to train on, or none to test on"),
        (coco_content(images=coco_content()["images"] * 2), r"two images have the id 9; allowed: every id once"),
        (coco_content(annotations=coco_content()["annotations"] * 2), r"two annotations have the id 1"),
        (coco_content(categories=coco_content()["categories"] * 2), r"two categories have the id 7"),
        (coco_content(categories=[{"id": 7, "name": "cat"}], annotations=[]), r"categories differ from those of train"),
        (json.dumps(coco_content())[:-20], r"instances_val.json is no whole JSON file"),
        ("[]", r"instances_val.json is not in COCO's format"),
        ("{}", r"instances_val.json is not in COCO's format: KeyError\('categories'\)"),
        (coco_content(images=[{"id": 9, "file_name": "9.jpg", "height": 30, "width": 40}]), r"20x40, .* says 30x40"),
        (coco_content(images=[{"id": 9, "file_name": "8.jpg", "height": 20, "width": 40}]), r"8.jpg does not exist"),
    ],
)
def test_bad_coco_files_are_one_line_each(tmp_path, content, message):
    folder = write_coco(tmp_path / "coco_like", content)
    with pytest.raises(UserError, match=message) as caught:
        boxes.from_folder(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: write_voc(f, (9, 9, 4, 12)), r"a.jpg: the box .* without area"),
        (lambda f: write_voc(f, (1, 1, 60, 20)), r"a.jpg: the box .* beyond the image"),
        (lambda f: write_voc(f, ("", 1, 60, 20)), r"a.xml: object 1 has no box of four numbers"),
        (lambda f: (f / "Annotations/b.xml").write_text("<annotation><object>"), r"b.xml is no whole XML file"),
        (lambda f: (f / "Annotations/b.xml").unlink(), r"b.xml cannot be read: No such file"),
        (lambda f: (f / "JPEGImages/b.jpg").unlink(), r"b.jpg does not exist"),
        (lambda f: (f / "JPEGImages/b.jpg").write_bytes(b"x"), r"b.jpg cannot be read as an image"),
        (lambda f: (f / "ImageSets/Main/trainval.txt").unlink(), r"trainval.txt does not exist; allowed: trainval.txt"),
        (lambda f: (f / "ImageSets/Main/test.txt").write_text("b b"), r"test.txt: b stands in it twice"),
        (lambda f: (f / "ImageSets/Main/test.txt").write_text(""), r"no images to train on, or none to test on"),
        (
            lambda f: (f / "Annotations/b.xml").write_text((f / "Annotations/b.xml").read_text().replace("dog", "yak")),
            r"b.jpg has a box of the class 'yak'; allowed: aeroplane, ",
        ),
    ],
)
def test_bad_voc_folders_are_one_line_each(tmp_path, break_it, message):
    folder = write_voc(tmp_path / "voc")
    break_it(folder)
    with pytest.raises(UserError, match=message) as caught:
        boxes.from_folder(folder)
    assert "\n" not in str(caught.value)


def test_boxes_that_are_not_in_their_image_are_skipped_or_cut_off_where_that_is_asked_for(tmp_path, caplog):
    entries = [
        {"id": number, "image_id": 9, "category_id": 7, "bbox": bbox}
        for number, bbox in enumerate(([4, 5, 10, 0], [30, 5, 50, 10], [90, 5, 5, 5], [-0.5, 5, 10, 10]))
    ]
    folder = write_coco(tmp_path / "coco_like", coco_content(annotations=entries))
    read = boxes.from_folder(folder, corrupt="skip")
    np.testing.assert_allclose(
        read.targets["boxes"][3, :3], [[0.25, 0.75, 0.75, 1], [0.25, 0, 0.75, 9.5 / 40], [0] * 4]
    )
    assert "1 boxes without area, cut off or skipped" in caplog.text
    assert "2 boxes beyond the image, cut off or skipped" in caplog.text
    (folder / "images/val/5.jpg").unlink()
    assert boxes.from_folder(folder, corrupt="skip").shape == (20, 40, 3)
    assert "1 images that cannot be read, skipped" in caplog.text
    (folder / "images/val/9.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="no images to train on, or none to test on"):
        boxes.from_folder(folder, corrupt="skip")


def test_of_a_folder_with_masks_and_boxes_a_field_says_which_are_read(tmp_path):
    folder = write_coco(tmp_path / "both")
    for split in ("train", "val"):
        masks_folder = folder / "masks_coco" / split
        masks_folder.mkdir(parents=True)
        for number in (5, 9):
            Image.fromarray(np.full((20, 40), 1, np.uint8)).save(masks_folder / f"{number}.png")
    assert set(load.from_name("both", tmp_path).targets) == {"masks"}
    assert set(load.from_name("both", tmp_path, targets="boxes").targets) == {"boxes", "classes", "ignored"}
    write_voc(tmp_path / "voc")
    with pytest.raises(UserError, match=r"data\.targets='masks': .*voc has boxes"):
        load.from_name("voc", tmp_path, targets="masks")
    with pytest.raises(UserError, match=r"data\.targets='boxes': .*none has none of masks, boxes, attributes"):
        load.from_name("none", tmp_path, targets="boxes")


def test_a_frame_is_drawn_around_a_box():
    drawn = boxes.overlay(np.zeros((64, 64, 1), np.uint8), np.array([[0.25, 0.5, 0.75, 1], [0] * 4]), np.array([1, 0]))
    assert drawn.shape == (256, 256, 3)
    rows, columns = (np.flatnonzero(drawn.any((axis, 2))) for axis in (1, 0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (64, 191, 128, 255)
    assert not drawn[70:180, 140:250].any()


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "bccd").is_dir(), reason="BCCD is not here")
def test_bccd():
    """Counted from its annotations; its boxes leave the image by a pixel at most."""
    read = load.from_name("bccd", resolution=32)
    assert read.class_names == ("background", "Platelets", "RBC", "WBC")
    assert np.bincount(read.targets["classes"].ravel())[1:].tolist() == [361, 4155, 372]
    assert (len(read.train_indices), len(read.test_indices)) == (292, 72)
