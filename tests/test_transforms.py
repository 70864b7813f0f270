"""One image on the host: decoders agree, odd files are read or refused, crops stay in the image."""

import io
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from mnet_jax.data import transforms


@pytest.fixture(params=["opencv", "pillow"])
def library(request, monkeypatch):
    """Each library in turn."""
    if request.param == "pillow":
        monkeypatch.setattr(transforms, "_opencv", lambda: None)
    return request.param


def photo(height=40, width=60, channels=3) -> np.ndarray:
    """A smooth picture: each channel is another wave."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (5 + channel) + y / 9) + np.cos(y / (7 + channel)) for channel in range(channels)]
    return np.rint(127 + 60 * np.stack(waves, -1)).astype(np.uint8)


def encoded(image_HWC: np.ndarray, kind: str = "JPEG", mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image_HWC).convert(mode).save(file, kind, **options)
    return file.getvalue()


def test_both_libraries_decode_the_same_pixels(monkeypatch):
    for data in (encoded(photo()), encoded(photo(), quality=60, progressive=True), encoded(photo(), subsampling=0)):
        image = transforms.decode(data, 3)
        with monkeypatch.context() as patch:
            patch.setattr(transforms, "_opencv", lambda: None)
            np.testing.assert_array_equal(transforms.decode(data, 3), image)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_formats_and_gray_images_become_color(library, kind):
    for mode in ("RGB", "L"):
        image = transforms.decode(encoded(photo(), kind, mode), 3)
        assert (image.shape, image.dtype) == ((40, 60, 3), np.uint8)
        error = np.abs(image - photo().astype(float))
        assert error.mean() < (8 if mode == "RGB" else 60)
        assert mode == "RGB" or np.ptp(image, -1).max() < 4
    assert transforms.decode(encoded(photo(), kind), 1).shape == (40, 60, 1)


def test_cmyk_palette_transparency_and_orientation(library):
    flat = np.full((20, 30, 3), (200, 60, 40), np.uint8)
    cmyk = transforms.decode(encoded(flat, "JPEG", "CMYK"), 3)
    assert np.abs(cmyk.astype(int) - flat).max() < 12
    assert np.abs(transforms.decode(encoded(flat, "PNG", "P"), 3).astype(int) - flat).max() < 60
    palette = Image.fromarray(flat).convert("P")
    file = io.BytesIO()
    palette.save(file, "PNG", transparency=bytes(range(256)))
    assert transforms.decode(file.getvalue(), 3).shape == (20, 30, 3)
    assert transforms.decode(encoded(flat, "PNG", "RGBA"), 3).shape == (20, 30, 3)
    turned = Image.Exif()
    turned[0x0112] = 6
    assert transforms.decode(encoded(flat, exif=turned), 3).shape == (20, 30, 3)


def test_16_bits_keep_the_high_byte(library):
    levels_HW = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
    for channels in (1, 3):
        file = io.BytesIO()
        Image.fromarray(levels_HW).save(file, "PNG")
        image = transforms.decode(file.getvalue(), channels)
        assert image.shape == (256, 256, channels)
        np.testing.assert_array_equal(image[..., 0], levels_HW >> 8)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_its_first_image(library, kind):
    first, second = (Image.fromarray(np.full((20, 30, 3), level, np.uint8)) for level in (50, 200))
    file = io.BytesIO()
    first.save(file, kind, save_all=True, append_images=[second])
    assert np.abs(transforms.decode(file.getvalue(), 3).astype(int) - 50).max() < 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_corrupt_images_are_refused(library, kind):
    whole = encoded(photo(200, 300), kind)
    assert transforms.decode(whole + b"\0" * 9, 3).shape == (200, 300, 3)
    for data in (b"", b"<!DOCTYPE html>", whole[:9], whole[: len(whole) // 2], whole[:-40]):
        with pytest.raises(transforms.CorruptImage):
            transforms.decode(data, 3)


def test_a_cut_image_is_noticed_behind_a_whole_thumbnail(library):
    thumbnail = encoded(photo(20, 30))
    exif = b"Exif\0\0" + thumbnail
    whole = encoded(photo(200, 300), exif=exif)
    assert thumbnail in whole
    assert transforms.decode(whole, 3).shape == (200, 300, 3)
    with pytest.raises(transforms.CorruptImage):
        transforms.decode(whole[:-300], 3)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_500, 30_000, 65_500])
def test_a_header_that_claims_too_many_pixels_is_refused_before_decoding(library, monkeypatch, side):
    data = bytearray(encoded(photo()))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = 2 * side.to_bytes(2, "big")
    for decoder in ("cv2.imdecode", "PIL.ImageFile.ImageFile.load"):
        if decoder.startswith("PIL") or library == "opencv":
            monkeypatch.setattr(decoder, lambda *_: pytest.fail("decoded"))
    with pytest.raises(transforms.CorruptImage, match=r"9500 x 9500 pixels; allowed: 89,478,485|exceeds limit"):
        transforms.decode(bytes(data), 3)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_of_32_bits_are_refused(library, dtype, channels):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8), 200, dtype)).save(file, "TIFF")
    with pytest.raises(transforms.CorruptImage, match=r"Pillow's mode [IF]; allowed: 1, L, LA"):
        transforms.decode(file.getvalue(), channels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I;16"])
def test_every_allowed_mode_is_decoded(library, monkeypatch, mode):
    level = 0 if mode == "1" else 200
    gray = Image.fromarray(np.full((8, 9), level, np.uint8))
    image = (
        Image.fromarray(np.full((8, 9), 256 * level, np.uint16))
        if mode == "I;16"
        else gray.convert("RGB" if mode in ("RGBX", "CMYK", "YCbCr") else "L").convert(mode)
    )
    assert image.mode == mode
    monkeypatch.setattr(Image, "open", lambda _: image)
    for channels in (1, 3):
        assert np.abs(transforms.decode(b"", channels).astype(int) - level).max() <= 2


def test_an_error_of_a_decoder_is_a_corrupt_image(monkeypatch):
    def fail(*_):
        raise cv2.error("size.height < (1 << 20)")

    monkeypatch.setattr(cv2, "imdecode", fail)
    with pytest.raises(transforms.CorruptImage, match=r"error: size\.height"):
        transforms.decode(encoded(photo()), 3)


def test_the_same_draws_give_the_same_crop(library):
    rng = np.random.default_rng(0)
    for _ in range(20):
        draws = rng.random(4 * transforms.TRIES).tolist()
        a, b = (transforms.random_crop(photo(), 16, (0.08, 1.0), (3 / 4, 4 / 3), draws) for _ in range(2))
        np.testing.assert_array_equal(a, b)
        assert (a.shape, a.dtype) == ((16, 16, 3), np.uint8)


def test_crops_keep_the_area_and_aspect_asked_for(monkeypatch):
    boxes = []
    monkeypatch.setattr(transforms, "resize", lambda image, *box: boxes.append(box[:4]))
    rng = np.random.default_rng(1)
    H, W = 300, 400
    for _ in range(1000):
        transforms.random_crop(np.zeros((H, W, 3), np.uint8), 16, (0.2, 0.5), (0.5, 2.0), rng.random(40).tolist())
    top, left, height, width = np.array(boxes).T
    assert min(top.min(), left.min()) == 0
    assert (top + height).max() == H
    assert (left + width).max() == W
    area, ratio = height * width / (H * W), width / height
    assert 0.195 < area.min() < 0.21 < 0.49 < area.max() < 0.505
    assert 0.49 < ratio.min() < 0.55
    assert 1.85 < ratio.max() < 2.02
    assert abs(np.log(ratio).mean()) < 0.1


def test_an_image_too_long_for_any_crop_gives_its_middle(library):
    line = np.zeros((10, 500, 3), np.uint8)
    line[:, 245:256] = 255
    crop = transforms.random_crop(line, 8, (0.9, 1.0), (3 / 4, 4 / 3), [0.5] * 40)
    assert crop[:, 3:5].min() > 200


def test_center_crop_keeps_the_middle(library):
    image = np.zeros((100, 140, 3), np.uint8)
    image[6:94, 26:114] = 200  # the central square of 0.88 of the short side
    assert np.abs(transforms.center_crop(image, 44, 0.88).astype(int) - 200).max() == 0
    assert transforms.center_crop(image, 50, 1.0)[0].max() == 0


def test_resizing_keeps_the_mean_and_whole_pixels(library):
    image = photo(64, 64)
    for size in (16, 30, 100):
        small = transforms.resize(image, 0, 0, 64, 64, size)
        assert small.shape == (size, size, 3)
        assert abs(small.mean() - image.mean()) < 1.5
    np.testing.assert_array_equal(transforms.resize(image, 3, 5, 30, 30, 30), image[3:33, 5:35])
    assert transforms.resize(image[..., :1], 0, 0, 64, 64, 20).shape == (20, 20, 1)


def test_randaugment_is_decided_by_its_draws():
    rng = np.random.default_rng(0)
    results = set()
    for channels in (1, 3):
        image = photo(32, 32, channels)
        for _ in range(60):
            draws = rng.random(4).tolist()
            a, b = (transforms.randaugment(image, 2, 9, draws) for _ in range(2))
            np.testing.assert_array_equal(a, b)
            assert (a.shape, a.dtype) == (image.shape, np.uint8)
            results.add(a.tobytes())
    assert len(results) > 80


@pytest.mark.parametrize("number", range(14))
def test_each_operation_grows_with_its_magnitude(number):
    image = photo(32, 32) // 2 + np.random.default_rng(0).integers(20, 60, (32, 32, 3), np.uint8)
    draws = [(number + 0.5) / 14, 0.2]
    change = [
        np.abs(transforms.randaugment(image, 1, magnitude, draws).astype(int) - image).mean() for magnitude in (0, 3, 9)
    ]
    name = list(transforms._operations())[number]
    if name in ("identity", "autocontrast", "equalize"):
        assert change[0] == change[1] == change[2]
        assert (change[0] == 0) == (name == "identity")
    else:
        assert change[0] < 0.5
        assert change[1] <= change[2]
        assert change[2] > 1
