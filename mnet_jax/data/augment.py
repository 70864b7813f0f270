"""Augmentation of small images on the device, inside the step; every draw follows from a key."""

import jax
import jax.numpy as jnp


def shift_flip(key: jax.Array, images_BHWC: jax.Array, shift: int, flip: bool) -> jax.Array:
    """Shifts each image by up to `shift` pixels both ways (zeros come in) and mirrors half of them if `flip`.

    One gather does both: the rows and columns of the padded image that each output pixel takes.
    """
    B, H, W, _ = images_BHWC.shape
    if not shift and not flip:
        return images_BHWC
    key_shift, key_flip = jax.random.split(key)
    offset_2B = jax.random.randint(key_shift, (2, B), 0, 2 * shift + 1)
    columns_BW = jnp.broadcast_to(jnp.arange(W)[None], (B, W))
    if flip:
        mirrored_B1 = jax.random.bernoulli(key_flip, shape=(B, 1))
        columns_BW = jnp.where(mirrored_B1, W - 1 - columns_BW, columns_BW)
    rows_BH = jnp.arange(H)[None] + offset_2B[0][:, None]
    columns_BW = columns_BW + offset_2B[1][:, None]
    padded = jnp.pad(images_BHWC, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
    return padded[jnp.arange(B)[:, None, None], rows_BH[:, :, None], columns_BW[:, None, :]]


def normalize(images_BHWC: jax.typing.ArrayLike, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """Images from uint8 to float32 with mean 0 and deviation 1 per channel; `mean`, `std` are of images in [0, 1]."""
    scale = jnp.asarray([1 / (255 * s) for s in std], jnp.float32)
    offset = jnp.asarray([-m / s for m, s in zip(mean, std, strict=True)], jnp.float32)
    return jnp.asarray(images_BHWC, jnp.float32) * scale[None, None, None] + offset[None, None, None]
