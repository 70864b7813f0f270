"""Average precision as COCO and VOC define it, in NumPy: what detections of many images are worth.

Detections of one class are ranked by their score over all images. One is right where it finds a true box of its class
that no better one has found. Precision is the share of right ones among the first n, recall the share of the true boxes
that these find; average precision is the mean of precision over recall. Shape letters: the package's, and T overlaps.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mnet_jax.detection import boxes

OVERLAPS = np.linspace(0.5, 0.95, 10)
"""Least intersections over union of a box that counts as found, over which COCO averages (Lin et al. 2014)."""

RECALLS = np.linspace(0, 1, 101)
"""Recalls at which COCO takes the precision."""


@dataclass(frozen=True)
class Images:
    """Detections and true boxes of N images, the padded places of class 0.

    `boxes_ND4`, `scores_ND`, `classes_ND`     of the detections.
    `true_boxes_NM4`, `true_classes_NM`        of what is there.
    `ignored_NM`                               true boxes that need not be found, and that may be found any number of
                                               times: COCO's crowds, VOC's difficult ones.
    """

    boxes_ND4: np.ndarray
    scores_ND: np.ndarray
    classes_ND: np.ndarray
    true_boxes_NM4: np.ndarray
    true_classes_NM: np.ndarray
    ignored_NM: np.ndarray


@dataclass(frozen=True)
class Ranking:
    """The detections of one class in all images, the best first; of equal ones, those of the first images.

    `found_TD` which are right at each overlap, `counts_TD` which are right or wrong and not ignored, and `there` how
    many boxes there are to be found.
    """

    found_TD: np.ndarray
    counts_TD: np.ndarray
    there: int

    def precision_and_recall(self) -> tuple[np.ndarray, np.ndarray]:
        """Both [T, D], of the first 1, 2, .. detections; a precision is the best at the same recall or more."""
        right_TD = np.cumsum(self.found_TD & self.counts_TD, 1)
        wrong_TD = np.cumsum(~self.found_TD & self.counts_TD, 1)
        precision_TD = right_TD / np.maximum(right_TD + wrong_TD, 1)
        best_TD = np.maximum.accumulate(precision_TD[:, ::-1], 1)[:, ::-1]
        return best_TD, right_TD / self.there


def coco(images: Images, most: int = 100) -> dict[int, np.ndarray]:
    """COCO's average precision of each class that has a true box, by class: float64 [T], one for each of `OVERLAPS`.

    It is that of pycocotools for boxes of all sizes, with the `most` best detections of a class and an image. For a
    crowd, the intersection counts over the detection's area.
    """
    averages = {}
    for number, ranking in _rankings(images, OVERLAPS, _match_as_coco, most).items():
        precision_TD, recall_TD = ranking.precision_and_recall()
        averages[number] = np.array(
            [_at_recalls(precision_D, recall_D) for precision_D, recall_D in zip(precision_TD, recall_TD, strict=True)]
        )
    return averages


def voc(images: Images, overlap: float = 0.5) -> dict[int, float]:
    """VOC's average precision of each class that has a true box (Everingham et al. 2015, section 4.2.1).

    This is the area under the curve of precision over recall; before 2010 VOC averaged over 11 recalls. A detection is
    compared with the box that it overlaps most and with no other, as by VOC's development kit, which measures boxes in
    whole pixels.
    """
    averages = {}
    for number, ranking in _rankings(images, np.array([overlap]), _match_as_voc, images.scores_ND.shape[1]).items():
        (precision_D,), (recall_D,) = ranking.precision_and_recall()
        averages[number] = float(np.sum(precision_D * np.diff(recall_D, prepend=0)))
    return averages


def summary(images: Images) -> Mapping[str, float]:
    """COCO's "coco_map", "ap50" and "ap75", VOC's "voc_map", and "ap/K" of each class that occurs; 0 without any."""
    by_class, by_class_voc = coco(images), voc(images)
    mean_T = np.mean(list(by_class.values()), 0) if by_class else np.zeros(len(OVERLAPS))
    return {
        "coco_map": float(mean_T.mean()),
        "ap50": float(mean_T[0]),
        "ap75": float(mean_T[5]),
        "voc_map": float(np.mean(list(by_class_voc.values()))) if by_class_voc else 0.0,
        **{f"ap/{number}": float(average_T.mean()) for number, average_T in by_class.items()},
    }


def _at_recalls(precision_D: np.ndarray, recall_D: np.ndarray) -> float:
    """The mean over `RECALLS` of the precision at the first detection that reaches a recall, 0 where none does."""
    places = np.searchsorted(recall_D, RECALLS, side="left")
    return float(np.mean(np.append(precision_D, 0.0)[places]))


def _rankings(images: Images, overlaps_T: np.ndarray, match: Callable[..., Any], most: int) -> dict[int, Ranking]:
    """The ranking of each class that has a true box."""
    there = images.true_classes_NM > 0
    numbers, counts = np.unique(images.true_classes_NM[there & ~images.ignored_NM], return_counts=True)
    totals = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    parts: dict[int, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {number: [] for number in totals}
    for index in range(len(images.scores_ND)):
        classes_D, true_M = images.classes_ND[index], images.true_classes_NM[index]
        for number in np.unique(classes_D).tolist():
            if number not in totals:
                continue
            found = np.flatnonzero(classes_D == number)
            found = found[np.argsort(-images.scores_ND[index, found], kind="stable")][:most]
            true = np.flatnonzero(true_M == number)
            true = true[np.argsort(images.ignored_NM[index, true], kind="stable")]  # those to be found come first
            matched = match(
                images.boxes_ND4[index, found].astype(np.float64),
                images.true_boxes_NM4[index, true].astype(np.float64),
                images.ignored_NM[index, true],
                overlaps_T,
            )
            parts[number].append((images.scores_ND[index, found], *matched))
    rankings = {}
    for number, pieces in parts.items():
        empty = np.zeros((len(overlaps_T), 0), bool)
        scores_D = np.concatenate([np.zeros(0), *(scores for scores, _, _ in pieces)])
        order = np.argsort(-scores_D, kind="stable")
        found_TD, counts_TD = (np.concatenate([empty, *(piece[part] for piece in pieces)], 1) for part in (1, 2))
        rankings[number] = Ranking(found_TD[:, order], counts_TD[:, order], totals[number])
    return rankings


Matched = tuple[np.ndarray, np.ndarray]
"""Which detections found a box, and which count, bool [T, D] each."""


def _match_as_coco(found_D4: np.ndarray, true_M4: np.ndarray, ignored_M: np.ndarray, overlaps_T: np.ndarray) -> Matched:
    """One after the other, the best first, each takes the free box that it overlaps most, the last of equal ones."""
    T, D, M = len(overlaps_T), len(found_D4), len(true_M4)
    right_TD, counts_TD = np.zeros((T, D), bool), np.ones((T, D), bool)
    if not M:
        return right_TD, counts_TD
    share_DM = boxes.intersection(found_D4, true_M4) / np.maximum(boxes.area(found_D4), np.finfo(float).tiny)[:, None]
    overlap_DM = np.where(ignored_M, share_DM, boxes.iou(found_D4, true_M4))
    needed_T = np.minimum(overlaps_T, 1 - 1e-10)
    taken_TM, rows_T = np.zeros((T, M), bool), np.arange(T)
    for place in np.flatnonzero(overlap_DM.max(1) >= needed_T[0]):
        fits_TM = ~taken_TM & (overlap_DM[place] >= needed_T[:, None])
        wanted_TM = fits_TM & ~ignored_M
        chosen_TM = np.where(wanted_TM.any(1)[:, None], wanted_TM, fits_TM)  # an ignored box only where no other fits
        last_T = M - 1 - np.argmax(np.where(chosen_TM, overlap_DM[place], -1)[:, ::-1], 1)
        hit_T = chosen_TM.any(1)
        right_TD[:, place], counts_TD[:, place] = hit_T, ~(hit_T & ignored_M[last_T])
        taken_TM[rows_T, last_T] |= hit_T & ~ignored_M[last_T]
    return right_TD, counts_TD


def _match_as_voc(found_D4: np.ndarray, true_M4: np.ndarray, ignored_M: np.ndarray, overlaps_T: np.ndarray) -> Matched:
    """Each is compared with the box that it overlaps most, free or not."""
    T, D, M = len(overlaps_T), len(found_D4), len(true_M4)
    right_TD, counts_TD = np.zeros((T, D), bool), np.ones((T, D), bool)
    if not M:
        return right_TD, counts_TD
    overlap_DM = boxes.iou(found_D4, true_M4)
    taken_TM = np.zeros((T, M), bool)
    for place, nearest in enumerate(overlap_DM.argmax(1)):
        meets_T = overlap_DM[place, nearest] >= overlaps_T
        counts_TD[:, place] = ~(meets_T & ignored_M[nearest])
        right_TD[:, place] = meets_T & ~taken_TM[:, nearest]
        taken_TM[:, nearest] |= meets_T & ~ignored_M[nearest]
    return right_TD, counts_TD
