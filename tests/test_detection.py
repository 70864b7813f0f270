"""Anchors, offsets, overlaps, matching, suppression and average precision, each against an independent computation."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnet_jax.detection import anchors, average_precision, boxes, matching, suppression


def random_boxes(count, seed=0, grid=16):
    """Boxes with corners on a grid, so that equal overlaps occur."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, grid - 1, (count, 2))
    size = 1 + (rng.random((count, 2)) * (grid - corner - 1)).astype(int)
    return np.concatenate([corner, corner + size], 1) / grid


def pixels(box, grid=16):
    mask = np.zeros((grid, grid), bool)
    top, left, bottom, right = np.rint(np.asarray(box) * grid).astype(int)
    mask[top:bottom, left:right] = True
    return mask


# Boxes.


def test_overlaps_are_those_of_counted_pixels():
    some, others = random_boxes(12), random_boxes(9, seed=1)
    counted = [[(pixels(a) & pixels(b)).sum() / (pixels(a) | pixels(b)).sum() for b in others] for a in some]
    np.testing.assert_allclose(boxes.iou(some, others), counted, rtol=1e-12)
    with jax.enable_x64():
        np.testing.assert_allclose(jax.jit(boxes.iou)(jnp.asarray(some), jnp.asarray(others)), counted, rtol=1e-12)


def test_boxes_without_area_overlap_nothing():
    empty = np.array([[0.5, 0.5, 0.5, 0.5], [0.6, 0.6, 0.4, 0.7]])
    assert not boxes.iou(empty, np.concatenate([empty, random_boxes(3)])).any()


def test_offsets_are_those_of_the_paper_and_come_back():
    with jax.enable_x64():
        anchor, box = jnp.array([0.1, 0.2, 0.5, 0.4]), jnp.array([0.2, 0.1, 0.4, 0.5])
        # Centers (.3, .3) both; sizes (.4, .2) and (.2, .4).
        expected = [0, 0, 5 * math.log(1 / 2), 5 * math.log(2)]
        np.testing.assert_allclose(boxes.encode(box, anchor), expected, atol=1e-12)
        moved = jnp.array([0.2, 0.2, 0.6, 0.4])  # a quarter of the anchor's height further down
        np.testing.assert_allclose(boxes.encode(moved, anchor), [2.5, 0, 0, 0], atol=1e-12)
        some, others = jnp.asarray(random_boxes(20)), jnp.asarray(random_boxes(20, seed=1))
        np.testing.assert_allclose(boxes.decode(boxes.encode(some, others), others), some, atol=1e-12)


def test_neither_a_box_without_area_nor_a_wild_offset_is_infinite():
    anchor = jnp.array([0.1, 0.2, 0.5, 0.4])
    assert jnp.isfinite(boxes.encode(jnp.zeros(4), anchor)).all()
    assert jnp.isfinite(boxes.decode(jnp.full(4, 1e9), anchor)).all()
    gradient = jax.grad(lambda box: jnp.sum(boxes.encode(box, anchor)))(jnp.zeros(4))
    assert jnp.isfinite(gradient).all()


# Anchors.


def test_anchors_of_the_released_detector():
    """At 320 pixels the maps have 20, 10, 5, 3, 2 and 1 pixels a side, with 2,034 anchors; at 300 1,917."""
    sizes = [(side, side) for side in (20, 10, 5, 3, 2, 1)]
    grid = anchors.of_maps(sizes, 0.2, 0.95)
    assert grid.shape == (2034, 4)
    assert len(anchors.of_maps([(19, 19), *sizes[1:]], 0.2, 0.95)) == 1917
    root = math.sqrt(2)
    first = [(0.1, 0.1), (0.2 / root, 0.2 * root), (0.2 * root, 0.2 / root)]
    for box, (height, width) in zip(grid[:3], first, strict=True):
        np.testing.assert_allclose(box, [0.025 - height / 2, 0.025 - width / 2, 0.025 + height / 2, 0.025 + width / 2])
    np.testing.assert_allclose(grid[3] - grid[0], [0, 0.05, 0, 0.05], atol=1e-12)  # columns before rows
    last = grid[-6:]
    np.testing.assert_allclose((last[:, :2] + last[:, 2:]) / 2, 0.5)
    sides = [0.95, 0.95 / root, 0.95 * root, 0.95 / math.sqrt(3), 0.95 * math.sqrt(3), math.sqrt(0.95)]
    np.testing.assert_allclose(last[:, 2] - last[:, 0], sides)


# Matching.


def matched_one_by_one(grid, truth, valid, threshold):
    """The matching as its description reads, with loops."""
    answers = {}
    for number, anchor in enumerate(grid):
        overlaps = [
            boxes.iou(box[None], anchor[None])[0, 0] if ok else -1 for box, ok in zip(truth, valid, strict=True)
        ]
        if max(overlaps) >= threshold:
            answers[number] = int(np.argmax(overlaps))
    forced = {}
    for number, (box, ok) in enumerate(zip(truth, valid, strict=True)):
        if ok:
            forced.setdefault(int(np.argmax(boxes.iou(box[None], grid)[0])), number)
    return answers | forced


@pytest.mark.parametrize("threshold", [0.5, 0.9])
@pytest.mark.parametrize("seed", range(4))
def test_matching_is_its_description(seed, threshold):
    grid = anchors.of_maps([(4, 4), (2, 2)], 0.3, 0.7)
    truth, valid = random_boxes(5, seed), np.array([True, True, seed != 1, seed != 1, False])
    with jax.enable_x64():
        match = jax.jit(matching.match)(jnp.asarray(grid), jnp.asarray(truth), jnp.asarray(valid), threshold)
    found = {int(number): int(match.box_A[number]) for number in np.flatnonzero(match.matched_A)}
    assert found == matched_one_by_one(grid, truth, valid, threshold)
    assert set(found.values()) <= set(np.flatnonzero(valid).tolist())


def test_an_image_without_boxes_matches_nothing():
    grid = jnp.asarray(anchors.of_maps([(2, 2)], 0.3, 0.7), jnp.float32)
    assert not matching.match(grid, jnp.zeros((3, 4)), jnp.zeros(3, bool)).matched_A.any()


# Suppression.


def suppressed_one_by_one(found, scores, threshold, most):
    """(class, box) of what stays, the best first."""
    pairs = [(score, k, a) for a, row in enumerate(scores) for k, score in enumerate(row) if k and score > 1e-8]
    stays = []
    for score, k, a in sorted(pairs, key=lambda pair: -pair[0]):
        rivals = [other for _, j, other in stays if j == k]
        if all(boxes.iou(found[a][None], found[other][None])[0, 0] <= threshold for other in rivals):
            stays.append((score, k, a))
    return stays[:most]


@pytest.mark.parametrize(("threshold", "most"), [(0.6, 100), (0.3, 100), (0.6, 5)])
def test_suppression_is_the_greedy_one_within_each_class(threshold, most):
    found, scores = random_boxes(30), np.random.default_rng(2).random((30, 4))
    scores[:10] = 0
    expected = suppressed_one_by_one(found, scores, threshold, most)
    with jax.enable_x64():
        kept = jax.jit(suppression.suppress, static_argnums=(2, 3, 4))(
            jnp.asarray(found), jnp.asarray(scores), threshold, 90, most
        )
    count = len(expected)
    assert 0 < count <= 60
    np.testing.assert_array_equal(kept.classes_D[:count], [k for _, k, _ in expected])
    np.testing.assert_allclose(kept.scores_D[:count], [score for score, _, _ in expected])
    np.testing.assert_allclose(kept.boxes_D4[:count], [found[a] for _, _, a in expected])
    for array in kept:
        assert not array[count:].any()


def test_where_nothing_has_a_score_nothing_is_found():
    kept = suppression.suppress(jnp.ones((3, 4)), jnp.zeros((3, 5)), 0.5, 100, 50)
    assert kept.boxes_D4.shape == (12, 4)
    assert not any(array.any() for array in kept)


# Average precision.


def images(detections, truth, crowds=()):
    """`Images` from lists, for each image, of (box, class, score) and of (box, class); `crowds` are (image, number)."""
    N, D, M = len(truth), max(map(len, detections), default=0), max(map(len, truth), default=0)
    arrays = np.zeros((N, D, 4)), np.zeros((N, D)), np.zeros((N, D), int), np.zeros((N, M, 4)), np.zeros((N, M), int)
    for n, (found, there) in enumerate(zip(detections, truth, strict=True)):
        for d, (box, number, score) in enumerate(found):
            arrays[0][n, d], arrays[1][n, d], arrays[2][n, d] = box, score, number
        for m, (box, number) in enumerate(there):
            arrays[3][n, m], arrays[4][n, m] = box, number
    ignored = np.zeros((N, M), bool)
    for place in crowds:
        ignored[place] = True
    return average_precision.Images(*arrays, ignored)


BOX, OTHER = (0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0)
LEFT, MIDDLE, RIGHT = (0.0, 0.0, 1.0, 0.75), (0.0, 0.125, 1.0, 0.875), (0.0, 0.25, 1.0, 1.0)
HALF = (0.0, 0.0, 0.5, 0.3)  # overlaps BOX by .6


@pytest.mark.parametrize(
    ("found", "there", "crowds", "coco_map", "voc_map"),
    [
        ([[(BOX, 1, 0.9)]], [[(BOX, 1)]], (), 1, 1),
        ([[(HALF, 1, 0.9)]], [[(BOX, 1)]], (), 0.3, 1),  # at .5, .55 and .6
        ([[(BOX, 2, 0.9)]], [[(BOX, 1)]], (), 0, 0),  # a class that is nowhere counts nowhere
        ([[(BOX, 1, 0.9)]], [[(BOX, 1), (OTHER, 1)]], (), 51 / 101, 0.5),  # recalls 0 to .5
        ([[(BOX, 1, 0.9), (BOX, 1, 0.8)]], [[(BOX, 1)]], (), 1, 1),  # the second is wrong, but behind full recall
        ([[(OTHER, 1, 0.9), (BOX, 1, 0.8)]], [[(BOX, 1)]], (), 0.5, 0.5),
        ([[(BOX, 1, 0.9)], [(BOX, 1, 0.95)]], [[(BOX, 1)], []], (), 0.5, 0.5),  # an image without a box
        ([[(BOX, 1, 0.9)], [(BOX, 1, 0.9)]], [[], [(BOX, 1)]], (), 0.5, 0.5),  # of a tie, the first image's
        ([[]], [[(BOX, 1)]], (), 0, 0),
        ([[]], [[]], (), 0, 0),
        # An ignored box may be found twice, and need not be; for COCO's crowds the share of the detection counts.
        ([[(OTHER, 1, 0.9), (OTHER, 1, 0.8), (BOX, 1, 0.7)]], [[(BOX, 1), (OTHER, 1)]], ((0, 1),), 1, 1),
        ([[((0.5, 0.5, 0.6, 0.6), 1, 0.9), (BOX, 1, 0.7)]], [[(BOX, 1), (OTHER, 1)]], ((0, 1),), 1, 0.5),
        # Of two boxes that it overlaps by 5/7 each, COCO's first detection takes the last, and leaves the other free.
        ([[(MIDDLE, 1, 0.9), (LEFT, 1, 0.8)]], [[(LEFT, 1), (RIGHT, 1)]], (), 0.5 + 0.25 * 51 / 101, 0.5),
        ([[(BOX, 1, 0.7)]], [[(BOX, 1), (BOX, 1)]], ((0, 0),), 1, None),  # a box to be found comes before a crowd
    ],
)
def test_average_precision_by_hand(found, there, crowds, coco_map, voc_map):
    scored = average_precision.summary(images(found, there, crowds))
    assert scored["coco_map"] == pytest.approx(coco_map, abs=1e-12)
    if voc_map is not None:
        assert scored["voc_map"] == pytest.approx(voc_map, abs=1e-12)


def random_images(seed):
    """40 images with up to 6 boxes of 3 classes on a grid, and detections near them; scores are often equal."""
    rng = np.random.default_rng(seed)
    there = [
        [(box, int(k)) for box, k in zip(random_boxes(count, seed + n), rng.integers(1, 4, count), strict=True)]
        for n, count in enumerate(rng.integers(0, 7, 40).tolist())
    ]
    found = []
    for some in there:
        near = [(np.array(box) + (rng.random(4) < 0.4) / 16, k) for box, k in some * 2 if rng.random() < 0.7]
        near += [(box, int(rng.integers(1, 5))) for box in random_boxes(int(rng.integers(0, 9)), int(rng.integers(99)))]
        found.append([(box, k, math.ceil(20 * rng.random()) / 20) for box, k in near])
    crowds = [(n, 0) for n in range(0, 40, 5) if there[n]]
    return images(found, there, crowds)


def pycocotools_map(case):
    """(mAP, AP50, AP75) by the reference."""
    from pycocotools import coco, cocoeval  # pyrefly: ignore

    def as_coco(box):
        top, left, bottom, right = (float(side) for side in np.asarray(box) * 1024)
        return [left, top, right - left, bottom - top]

    annotations, found = [], []
    for n in range(len(case.true_classes_NM)):
        for box, k, crowd in zip(case.true_boxes_NM4[n], case.true_classes_NM[n], case.ignored_NM[n], strict=True):
            if k:
                of_box = {"bbox": as_coco(box), "area": 1.0, "iscrowd": int(crowd)}
                annotations.append({"id": len(annotations) + 1, "image_id": n + 7, "category_id": int(k), **of_box})
        for box, score, k in zip(case.boxes_ND4[n], case.scores_ND[n], case.classes_ND[n], strict=True):
            if k:
                of_box = {"bbox": as_coco(box), "score": float(score)}
                found.append({"image_id": n + 7, "category_id": int(k), **of_box})
    truth = coco.COCO()
    categories = [{"id": k, "name": str(k)} for k in range(1, 5)]
    image_ids = [{"id": n + 7} for n in range(len(case.true_classes_NM))]
    truth.dataset = {"images": image_ids, "annotations": annotations, "categories": categories, "info": {}}
    truth.createIndex()
    evaluation = cocoeval.COCOeval(truth, truth.loadRes(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[:3]


REFERENCE = {
    0: (0.12382696688706776, 0.3106089285680964, 0.10712464356081086),
    1: (0.12104611965062681, 0.23280557738568158, 0.10250937191617282),
    2: (0.10392985192453251, 0.2140369314350553, 0.08959254317905992),
}
"""Seed of `random_images` -> mAP, AP50 and AP75 by pycocotools 2.0.11."""


@pytest.mark.parametrize("seed", REFERENCE)
def test_average_precision_is_that_of_pycocotools(seed):
    scored = average_precision.summary(random_images(seed))
    assert [scored["coco_map"], scored["ap50"], scored["ap75"]] == pytest.approx(REFERENCE[seed], abs=1e-9)


@pytest.mark.slow
def test_average_precision_is_that_of_the_installed_pycocotools():
    pytest.importorskip("pycocotools")
    for seed in range(20):
        scored = average_precision.summary(random_images(seed))
        expected = pycocotools_map(random_images(seed))
        assert [scored["coco_map"], scored["ap50"], scored["ap75"]] == pytest.approx(expected, abs=1e-9)
