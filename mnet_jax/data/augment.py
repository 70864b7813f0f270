"""Augmentation of a batch on the device, inside the step; the key decides every random number.

`batch` augments images with labels. A task with other targets composes `places` with what moves them there, `jitter`,
`normalize` and `erase`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

Arrays = TypeVar("Arrays")

ERASED_AREA = (0.02, 0.4)
"""Smallest and largest share of the image, and ASPECT = height / width of the rectangle (Zhong et al. 2017, 4.2)."""
ERASED_ASPECT = (0.3, 1 / 0.3)


def images(
    key: jax.Array, images_BHWC: jax.Array, data: Any, mean: tuple[float, ...], std: tuple[float, ...]
) -> jax.Array:
    """Augments a training batch as the config's fields `data` say, but for mixing; returns normalized float32 images.

    An augmentation that is off adds nothing to the program.
    """
    x_BHWC = shift_flip(key, images_BHWC, data.shift, data.flip)
    if data.jitter:
        x_BHWC = jitter(jax.random.fold_in(key, 1), x_BHWC, data.jitter)
    x_BHWC = normalize(x_BHWC, mean, std)
    return erase(jax.random.fold_in(key, 2), x_BHWC, data.erase) if data.erase else x_BHWC


def batch(
    key: jax.Array,
    images_BHWC: jax.Array,
    targets: Mapping[str, jax.Array],
    data: Any,
    classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Augments a training batch of images with labels: `images`, and then mixing.

    Mixing replaces targets["labels"], int32 [B], by each class's share of the image, float32 [B, classes].
    """
    x_BHWC = images(key, images_BHWC, data, mean, std)
    if data.mixup or data.cutmix:
        key_mix, labels_B = jax.random.fold_in(key, 3), targets["labels"]
        x_BHWC, shares_BK = mix(key_mix, x_BHWC, labels_B, data.mixup, data.cutmix, classes)
        return x_BHWC, {**targets, "labels": shares_BK}
    return x_BHWC, dict(targets)


def shift_flip(key: jax.Array, arrays: Arrays, shift: int, flip: bool) -> Arrays:
    """Shifts each image by up to `shift` pixels along both axes, filled up with zeros, and mirrors half if `flip`.

    `arrays` is an array [B, H, W, ...] or a pytree of several with the same B, H and W, such as images and masks: all
    move by the same numbers, and none is interpolated. One gather does both: the rows and columns of the padded image
    that each output pixel takes.
    """
    B, H, W = jax.tree.leaves(arrays)[0].shape[:3]
    if not shift and not flip:
        return arrays
    key_shift, key_flip = jax.random.split(key)
    offset_2B = jax.random.randint(key_shift, (2, B), 0, 2 * shift + 1)
    columns_BW = jnp.broadcast_to(jnp.arange(W)[None], (B, W))
    if flip:
        mirrored_B1 = jax.random.bernoulli(key_flip, shape=(B, 1))
        columns_BW = jnp.where(mirrored_B1, W - 1 - columns_BW, columns_BW)
    rows_BH = jnp.arange(H)[None] + offset_2B[0][:, None]
    columns_BW = columns_BW + offset_2B[1][:, None]

    def move(x: jax.Array) -> jax.Array:
        padded = jnp.pad(x, ((0, 0), (shift, shift), (shift, shift), *((0, 0),) * (x.ndim - 3)))
        # vmap tells XLA that no image needs another one: indexed by arange(B), a sharded batch would be gathered first.
        return jax.vmap(lambda image, rows, columns: image[rows[:, None], columns[None]])(padded, rows_BH, columns_BW)

    return jax.tree.map(move, arrays)


class Places(NamedTuple):
    """Where each image goes: enlarged by `scale`, then moved up and left by offsets in pixels, then mirrored."""

    scale_B: jax.Array
    top_B: jax.Array
    left_B: jax.Array
    mirrored_B: jax.Array


def places(
    key: jax.Array, shape: tuple[int, ...], scales: tuple[float, float], shift: int, flip: bool
) -> Places | None:
    """Random places of images of `shape` (B, H, W); None where they all stay.

    `scales` are the smallest and largest size, drawn in steps of 1/4. The scaled image covers the frame, or lies in it,
    anywhere, and up to `shift` pixels further; half are mirrored if `flip`.
    """
    low, high = scales
    if low == high == 1 and not shift and not flip:
        return None
    B, H, W = shape
    key_scale, key_top, key_left, key_mirror = jax.random.split(key, 4)
    steps = jnp.arange(low, high + 1e-6, 0.25, jnp.float32)
    scale_B = steps[jax.random.randint(key_scale, (B,), 0, len(steps))]

    def offset(key: jax.Array, length: int) -> jax.Array:
        spare_B = jnp.round((scale_B - 1) * length)
        first_B, last_B = jnp.minimum(spare_B, 0) - shift, jnp.maximum(spare_B, 0) + shift
        return jnp.floor(first_B + jax.random.uniform(key, (B,)) * (last_B - first_B + 1))

    mirrored_B = jax.random.bernoulli(key_mirror, 0.5 if flip else 0.0, (B,))
    return Places(scale_B, offset(key_top, H), offset(key_left, W), mirrored_B)


def _sources(places: Places, H: int, W: int) -> tuple[jax.Array, jax.Array]:
    """The places in the old image, in pixels from its corner, of the centers of the new rows [B, H] and columns."""
    scale_B1 = places.scale_B[:, None]
    rows_BH = (jnp.arange(0.5, H)[None] + places.top_B[:, None]) / scale_B1
    columns_1W = jnp.arange(0.5, W)[None]
    columns_BW = jnp.where(places.mirrored_B[:, None], W - columns_1W, columns_1W)
    return rows_BH, (columns_BW + places.left_B[:, None]) / scale_B1


def move_masks(masks_BHW: jax.Array, places: Places | None, outside: int) -> jax.Array:
    """Masks at new places: each pixel takes the nearest one, or the level `outside`."""
    if places is None:
        return masks_BHW
    H, W = masks_BHW.shape[1:]
    rows_BH, columns_BW = (jnp.floor(source).astype(jnp.int32) for source in _sources(places, H, W))

    def pick(mask: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
        inside = ((rows >= 0) & (rows < H))[:, None] & ((columns >= 0) & (columns < W))[None]
        taken = mask[jnp.clip(rows, 0, H - 1)[:, None], jnp.clip(columns, 0, W - 1)[None]]
        return jnp.where(inside, taken, jnp.asarray(outside, mask.dtype))

    return jax.vmap(pick)(masks_BHW, rows_BH, columns_BW)


def moved(
    key: jax.Array, images_BHWC: jax.Array, data: Any, scales: tuple[float, float], mean: Any, std: Any
) -> tuple[jax.Array, Places | None]:
    """Images as the section `data` of a config augments them, jittered, normalized and moved; and where they went.

    `scales` are the smallest and the largest random size.
    """
    key_place, key_jitter = jax.random.split(key)
    x_BHWC = jitter(key_jitter, images_BHWC, data.jitter) if data.jitter else images_BHWC
    there = places(key_place, images_BHWC.shape[:3], scales, data.shift, data.flip)
    return move_images(normalize(x_BHWC, mean, std), there), there


def move_images(x_BHWC: jax.Array, places: Places | None) -> jax.Array:
    """Normalized images at new places, bilinear; outside of an image is 0, the mean level."""
    if places is None:
        return x_BHWC
    H, W = x_BHWC.shape[1:3]
    rows_BH, columns_BW = _sources(places, H, W)

    def weights(source_BN: jax.Array, length: int) -> jax.Array:
        """[B, N, length]: the weight of each old pixel in a new one; none outside."""
        inside_BN1 = ((source_BN >= 0) & (source_BN < length))[..., None]
        near_BN1 = jnp.clip(source_BN - 0.5, 0, length - 1)[..., None]
        hat_BNn = jnp.maximum(0, 1 - jnp.abs(near_BN1 - jnp.arange(length, dtype=near_BN1.dtype)[None, None]))
        return jnp.where(inside_BN1, hat_BNn, 0)

    return jnp.einsum("byh,bxw,bhwc->byxc", weights(rows_BH, H), weights(columns_BW, W), x_BHWC)


def move_boxes(boxes_BM4: jax.Array, places: Places | None, H: int, W: int) -> tuple[jax.Array, jax.Array]:
    """Boxes (top, left, bottom, right), as shares of an image of H x W, at new places, and which of them stay [B, M].

    They are cut off where they leave the image; those whose center leaves it go (Liu et al. 2016, section 2.2).
    """
    if places is None:
        return boxes_BM4, jnp.ones(boxes_BM4.shape[:2], bool)
    scale, top, left, mirrored = (array[:, None] for array in places)
    top, left = top / H, left / W
    first_row, first_column, last_row, last_column = (scale * boxes_BM4[..., side] for side in range(4))
    columns = first_column - left, last_column - left
    columns = [jnp.where(mirrored, 1 - a, b) for a, b in zip(columns[::-1], columns, strict=True)]
    moved_BM4 = jnp.stack([first_row - top, columns[0], last_row - top, columns[1]], -1)
    center_BM2 = (moved_BM4[..., :2] + moved_BM4[..., 2:]) / 2
    return jnp.clip(moved_BM4, 0, 1), jnp.all((center_BM2 > 0) & (center_BM2 < 1), -1)


def jitter(key: jax.Array, images_BHWC: jax.Array, strength: float) -> jax.Array:
    """Brightness, contrast and saturation of each image, in this order, times factors from 1 - to 1 + `strength`.

    Takes levels from 0 to 255 and returns them as float32, clipped. Contrast is about the image's mean gray,
    saturation about each pixel's gray (BT.601); images that have no color have no saturation.
    """
    B, _, _, C = images_BHWC.shape
    factors = jax.random.uniform(key, (3, B, 1, 1, 1), jnp.float32, 1 - strength, 1 + strength)
    weights_C = jnp.asarray((0.299, 0.587, 0.114) if C == 3 else (1 / C,) * C, jnp.float32)

    def blend(x_BHWC: jax.Array, other: jax.Array, factor: jax.Array) -> jax.Array:
        return jnp.clip(factor * x_BHWC + (1 - factor) * other, 0, 255)

    def gray(x_BHWC: jax.Array) -> jax.Array:
        return jnp.sum(x_BHWC * weights_C[None, None, None], -1, keepdims=True)

    x_BHWC = blend(images_BHWC.astype(jnp.float32), jnp.zeros((1, 1, 1, 1)), factors[0])
    x_BHWC = blend(x_BHWC, jnp.mean(gray(x_BHWC), (1, 2), keepdims=True), factors[1])
    return blend(x_BHWC, gray(x_BHWC), factors[2]) if C == 3 else x_BHWC


def erase(key: jax.Array, x_BHWC: jax.Array, probability: float) -> jax.Array:
    """Sets a random rectangle to 0, the mean of normalized images, in this share of them (Zhong et al. 2017)."""
    B, H, W, _ = x_BHWC.shape
    key_which, key_area, key_aspect, key_top, key_left = jax.random.split(key, 5)
    erased_B = jax.random.bernoulli(key_which, probability, (B,))
    area_B = H * W * jax.random.uniform(key_area, (B,), jnp.float32, *ERASED_AREA)
    aspect_B = jnp.exp(jax.random.uniform(key_aspect, (B,), jnp.float32, *jnp.log(jnp.asarray(ERASED_ASPECT))))
    height_B, width_B = jnp.minimum(jnp.sqrt(area_B * aspect_B), H), jnp.minimum(jnp.sqrt(area_B / aspect_B), W)
    top_B = (H - height_B) * jax.random.uniform(key_top, (B,))
    left_B = (W - width_B) * jax.random.uniform(key_left, (B,))
    inside_BHW1 = _rectangle(top_B, left_B, height_B, width_B, H, W)
    return jnp.where(inside_BHW1 & erased_B[:, None, None, None], 0.0, x_BHWC)


def mix(
    key: jax.Array, x_BHWC: jax.Array, labels_B: jax.Array, mixup: float, cutmix: float, classes: int
) -> tuple[jax.Array, jax.Array]:
    """Mixes each image with the one before it in the batch. Returns it and each class's share of it, float32 [B, K].

    Args:
      mixup: the images are averaged with weights from Beta(mixup, mixup) (Zhang et al. 2018); 0 = never.
      cutmix: a rectangle of the other image is pasted, as large a share of the image as Beta(cutmix, cutmix) says
        and cut at the border (Yun et al. 2019); 0 = never. With both, a coin decides for each image.
    """
    B, H, W, _ = x_BHWC.shape
    other_BHWC, other_B = jnp.roll(x_BHWC, 1, 0), jnp.roll(labels_B, 1)
    key_coin, key_mixup, key_cutmix, key_place = jax.random.split(key, 4)
    share_B = jnp.zeros(B)
    taken = jnp.zeros((B, 1, 1, 1))
    if mixup:
        share_B = jax.random.beta(key_mixup, mixup, mixup, (B,))
        taken = share_B[:, None, None, None]
    if cutmix:
        side_B = jnp.sqrt(jax.random.beta(key_cutmix, cutmix, cutmix, (B,)))
        center_2B = jax.random.uniform(key_place, (2, B))
        height_B, width_B = H * side_B, W * side_B
        top_B, left_B = H * center_2B[0] - height_B / 2, W * center_2B[1] - width_B / 2
        pasted_BHW1 = _rectangle(top_B, left_B, height_B, width_B, H, W).astype(jnp.float32)
        chosen_B = jax.random.bernoulli(key_coin, 0.5 if mixup else 1.0, (B,))
        taken = jnp.where(chosen_B[:, None, None, None], pasted_BHW1, taken)
        share_B = jnp.where(chosen_B, pasted_BHW1.mean((1, 2, 3)), share_B)
    x_BHWC = x_BHWC + taken * (other_BHWC - x_BHWC)
    own_BK, other_BK = jax.nn.one_hot(labels_B, classes), jax.nn.one_hot(other_B, classes)
    return x_BHWC, own_BK + share_B[:, None] * (other_BK - own_BK)


def _rectangle(
    top_B: jax.Array, left_B: jax.Array, height_B: jax.Array, width_B: jax.Array, H: int, W: int
) -> jax.Array:
    """True [B, H, W, 1] on the pixels whose center lies in the rectangle."""

    def within(start_B: jax.Array, length_B: jax.Array, size: int) -> jax.Array:
        center = jnp.arange(0.5, size)[None]
        return (center >= start_B[:, None]) & (center < (start_B + length_B)[:, None])

    return within(top_B, height_B, H)[:, :, None, None] & within(left_B, width_B, W)[:, None, :, None]


def normalize(images_BHWC: jax.typing.ArrayLike, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """Images from uint8 to float32 with mean 0 and deviation 1 per channel; `mean`, `std` are of images in [0, 1]."""
    scale = jnp.asarray([1 / (255 * s) for s in std], jnp.float32)
    offset = jnp.asarray([-m / s for m, s in zip(mean, std, strict=True)], jnp.float32)
    return jnp.asarray(images_BHWC, jnp.float32) * scale[None, None, None] + offset[None, None, None]
