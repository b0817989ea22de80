import io
import json
import os
import socket
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from timm.data import create_transform
from torchvision.transforms.v2 import functional as reference

from tlsearch.contracts.images import ImageInput, decode
from tlsearch.errors import DataError
from tlsearch.images import augmentation, decoding

HALF = (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.fromarray(load_sample_image("china.jpg"))


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(source) -> np.ndarray:
    image = decode(source)
    assert image.mode == "RGB"
    return np.asarray(image)


def quarters() -> Image.Image:
    """Red, green / blue, white: 40 wide, 24 high, so that any wrong turn shows."""
    array = np.zeros((24, 40, 3), np.uint8)
    array[:12, :20], array[:12, 20:] = (255, 0, 0), (0, 255, 0)
    array[12:, :20], array[12:, 20:] = (0, 0, 255), (255, 255, 255)
    return Image.fromarray(array)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "JPEG2000"])
def test_lossless_formats_keep_every_pixel(photo, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    small = photo.crop((0, 0, 80, 50))
    assert (pixels(saved(small, kind, **options)) == np.asarray(small)).all()


@pytest.mark.parametrize("kind", ["JPEG", "AVIF", "WEBP"])
def test_lossy_formats_stay_near(photo, kind):
    difference = pixels(saved(photo, kind, quality=90)).astype(int) - np.asarray(photo)
    assert np.abs(difference).mean() < 4


def test_content_counts_and_not_the_ending(tmp_path, photo):
    path = tmp_path / "picture.jpg"
    path.write_bytes(saved(photo, "PNG"))
    assert (pixels(path) == np.asarray(photo)).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind, orientation):
    upright = quarters()
    # How a camera held that way stores it: the inverse of the turn that sets it right.
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = upright.transpose(stored[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(kind, {})
    decoded = pixels(saved(image, kind, exif=exif, **options))
    assert decoded.shape == (24, 40, 3)
    assert np.abs(decoded.astype(int) - np.asarray(upright)).max() < 8


def test_damaged_exif_does_not_cost_the_picture(photo):
    data = saved(photo, "JPEG", exif=b"Exif\0\0" + b"garbage" * 9)
    assert pixels(data).shape == (427, 640, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled(kind):
    gradient = np.linspace(0, 65535, 256).round().astype(np.uint16)
    data = saved(Image.fromarray(np.tile(gradient, (4, 1))), kind)
    assert (pixels(data)[0, :, 0] == np.arange(256)).all()
    assert (pixels(np.tile(gradient, (4, 1)))[0, :, 2] == np.arange(256)).all()


def test_16_bit_pgm_is_scaled():
    values = np.linspace(0, 65535, 256).round().astype(">u2")
    assert (pixels(b"P5 256 1 65535\n" + values.tobytes())[0, :, 0] == np.arange(256)).all()


def suited(*items: object) -> ImageInput:
    """An input as it suits a data set of these pictures."""
    plain = ImageInput(8, HALF, HALF)
    return plain.suited([plain.survey(item) for item in items])


@pytest.mark.parametrize(
    ("values", "kind", "ends"),
    [
        (np.linspace(0, 1, 256, dtype=np.float32), "float", (0, 1)),
        (np.linspace(0, 255, 256, dtype=np.float32), "float", (0, 255)),
        (np.linspace(0, 0.01, 256, dtype=np.float32), "float", (0, np.float32(0.01))),
        (np.linspace(190, 330, 256, dtype=np.float32), "float", (190, 330)),
        (np.linspace(-3e5, 1e6, 256, dtype=np.float32), "float", (-3e5, 1e6)),
        (np.arange(256, dtype=np.int32), "int", (0, 255)),
        (np.linspace(-100000, 100000, 256).astype(np.int32), "int", (-100000, 100000)),
        (np.linspace(0, 4095, 256).round().astype(np.uint16), "uint16", (0, 4095)),
        (np.linspace(30000, 31000, 256).round().astype(np.uint16), "uint16", (30000, 31000)),
    ],
)
def test_deep_pixels_keep_their_gradient_in_the_range_of_the_data(values, kind, ends):
    file = saved(Image.fromarray(values[None]), "TIFF")
    for item in (file, values[None], np.repeat(values[None, :, None], 3, axis=2)):
        inputs = suited(item)
        assert inputs.ranges == {kind: ends}
        row = np.asarray(inputs.picture(item))[0, :, 0]
        assert np.abs(row.astype(int) - np.arange(256)).max() <= 1


def test_the_range_is_one_for_all_files_whatever_each_holds():
    warm = np.linspace(280, 320, 64, dtype=np.float32).reshape(8, 8)
    cold = np.linspace(200, 240, 64, dtype=np.float32).reshape(8, 8)
    inputs = suited(saved(Image.fromarray(warm), "TIFF"), saved(Image.fromarray(cold), "TIFF"))
    assert inputs.ranges == {"float": (200, 320)}
    assert inputs.encode(warm).min() > inputs.encode(cold).max()
    assert len(np.unique(inputs.encode(cold))) > 60
    for odd, clipped in ((-50.0, 0), (1000.0, 255)):
        assert (
            inputs.encode(np.full((8, 8), odd, np.float32)).tolist() == np.full((3, 8, 8), clipped).tolist()
        )
    assert ImageInput.from_json(json.loads(json.dumps(inputs.to_json()))) == inputs
    assert inputs.suited([{"float": [0, 1]}]) == inputs  # what was found stays


def test_eight_bits_have_no_range_and_keep_their_keys(photo):
    inputs = suited(saved(photo, "JPEG"), np.zeros((4, 4), np.uint8), b"broken")
    assert inputs == ImageInput(8, HALF, HALF)
    assert "ranges" not in inputs.to_json()


def test_what_has_no_range_is_refused():
    dim = np.array([[0.0, 0.2]], np.float32)
    with pytest.raises(DataError, match="float pixels, whose range isn't known"):
        decode(saved(Image.fromarray(dim), "TIFF"))
    assert np.asarray(decode(dim))[0, :, 0].tolist() == [0, 51]
    with pytest.raises(DataError, match=r"float pixels from 0 to 255, whose range isn't known.*from 0 to 1"):
        decode(np.array([[0.0, 255.0]]))
    for kind in (np.int64, np.int16, np.uint32):  # by which range would 0 to 255 be told from 16 bits?
        with pytest.raises(DataError, match=r"integer pixels, whose range isn't known.*; as uint8"):
            decode(np.full((3, 3), 200, kind))


@pytest.mark.parametrize("ends", [(1, 0), (0, float("nan")), "ab", (0, 1, 2), 7])
def test_impossible_ranges(ends):
    with pytest.raises((ValueError, TypeError)):
        ImageInput(8, HALF, HALF, ranges={"float": ends})


def test_pixels_that_are_no_numbers():
    values = np.array([[np.nan, 0.5, 1.0, 0.0, np.inf, 3e38]], np.float32)
    file = saved(Image.fromarray(values), "TIFF")
    inputs = suited(file)
    assert inputs.ranges == {"float": (0, 1)}
    assert np.asarray(inputs.picture(file))[0, :, 0].tolist() == [0, 128, 255, 0, 0, 0]
    with pytest.raises(DataError, match="finite"):
        inputs.picture(saved(Image.fromarray(values * np.nan), "TIFF"))


def test_an_odd_exif_block_keeps_its_orientation_or_the_picture():
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0x9204] = (-1, 0)
    data = saved(quarters(), "JPEG", exif=exif.tobytes())
    assert min(pixels(data).shape[:2]) == 24


def test_cmyk_jpeg():
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red
    assert np.abs(pixels(saved(cmyk, "JPEG", quality=95)).astype(int) - [255, 0, 0]).max() < 12


def test_palette_with_alpha_is_laid_on_white():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    data = saved(image, "PNG", transparency=bytes([255, 0]))
    assert Image.open(io.BytesIO(data)).mode == "P"
    assert pixels(data)[0].tolist() == [[255, 0, 0], [255, 255, 255]]


def test_plain_palette_grey_and_black_and_white():
    palette = quarters().convert("P", palette=Image.Palette.ADAPTIVE)
    assert (pixels(saved(palette, "PNG")) == np.asarray(quarters())).all()
    assert pixels(saved(Image.new("L", (3, 3), 77), "PNG")).tolist() == [[[77] * 3] * 3] * 3
    assert pixels(saved(Image.new("1", (2, 2), 1), "PNG")).min() == 255


def test_alpha_is_laid_on_white():
    rgba = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    rgba.putpixel((1, 0), (200, 0, 0, 128))
    assert np.abs(pixels(saved(rgba, "PNG"))[0].astype(int) - [[255, 255, 255], [227, 127, 127]]).max() <= 1
    assert pixels(saved(Image.new("LA", (1, 1), (10, 0)), "PNG")).tolist() == [[[255] * 3]]
    keyed = saved(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG", transparency=(9, 8, 7))
    assert pixels(keyed).tolist() == [[[255] * 3]]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_give_their_first_frame(kind):
    frames = [Image.new("RGB", (20, 10), color) for color in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert (pixels(data) == [255, 0, 0]).all()


def test_multi_picture_jpeg_of_a_phone(photo):
    data = saved(photo, "MPO", save_all=True, append_images=[photo.convert("L").convert("RGB")])
    assert pixels(data).std(axis=2).mean() > 5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "JPEG2000"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_truncated_files_are_broken(photo, kind, share):
    data = saved(photo.resize((320, 213)), kind)
    with pytest.raises(DataError):
        decode(data[: int(len(data) * share)])


def test_flipped_bytes_never_give_another_error(photo):
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "ICO"):
        data = saved(photo.resize((64, 64)), kind)
        for _ in range(40):
            damaged = bytearray(data)
            for position in rng.integers(0, min(len(data), 400), size=6):
                damaged[position] = int(rng.integers(256))
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    decode(bytes(damaged))
            except DataError:
                continue


def test_reasons_are_short_and_say_what(tmp_path):
    for content, reason in {
        b"": "empty",
        b"<!DOCTYPE html><html>404</html>": "HTML",
        b"\xef\xbb\xbf\n <html>": "HTML",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n": "no known picture format",
        b"\0\0\0\x18ftypheic" + bytes(40): "HEIC.* save it as JPEG",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n": "pointer of Git LFS",
        os.urandom(64): "no known picture format",
    }.items():
        path = tmp_path / "x.jpg"
        path.write_bytes(content)
        with pytest.raises(DataError, match=reason) as caught:
            decode(path)
        assert str(path) not in caught.value.message
        assert len(caught.value.message) < 100


def bomb(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    packed = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize("side", [10_000, 20_000])
@pytest.mark.parametrize("action", ["ignore", "error"])
def test_decompression_bombs_are_refused_before_pixels_are_allocated(monkeypatch, side, action):
    monkeypatch.setattr(decoding, "as_rgb", lambda image: pytest.fail("decoded"))
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        with pytest.raises(DataError, match="pixels"):
            decode(bomb(side, side))


def test_pillow_warns_nobody_who_has_not_asked_for_it(tmp_path, photo):
    palette = photo.convert("P")
    palette.save(tmp_path / "palette.png", transparency=bytes(range(200)))
    for number, exif in enumerate((b"II*\0\x08\0\0\0\xff\0", b"II*\0\x08\0\0\0\2\0\x12\1\3\0\1\0\0\0\6\0")):
        photo.save(tmp_path / f"{number}.jpg", exif=b"Exif\0\0" + exif)
    (tmp_path / "bomb.png").write_bytes(bomb(10_000, 10_000))
    code = """
import sys
from pathlib import Path
from tlsearch.images.decoding import Unreadable, decode
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        decode(path)
    except Unreadable as error:
        print(path.name, error)
"""
    for options, warned in ((), False), (("-W", "default"), True):
        command = [sys.executable, *options, "-c", code, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.startswith("bomb.png has 10000 x 10000 pixels")
        assert ("Warning" in done.stderr) is warned


def test_what_is_no_file(tmp_path):
    fifo, link = tmp_path / "fifo", tmp_path / "loop"
    os.mkfifo(fifo)
    link.symlink_to(link)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for path, reason in {
            fifo: "a FIFO",
            tmp_path: "a directory",
            Path("/dev/zero"): "a device",
            tmp_path / "socket": "a socket",
            tmp_path / "none": "no such file",
            link: "symbolic links",
            Path("nul\0"): "null",
        }.items():
            with pytest.raises(DataError, match=reason):
                decode(path)


def test_arrays():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert (pixels(grey) == grey[..., None]).all()
    assert (pixels(grey[..., None]) == grey[..., None]).all()
    assert (pixels(np.asarray(quarters())[:, ::-1]) == np.asarray(quarters())[:, ::-1]).all()
    assert pixels(np.zeros((2, 2, 4), np.uint8)).min() == 255  # nothing but transparency
    assert pixels(np.full((2, 2, 3), 32896, np.uint16)).max() == 128


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 3), bool),
        np.zeros((3, 3, 2), np.uint8),
        np.zeros(3, np.uint8),
        np.zeros((0, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(array):
    with pytest.raises(DataError, match=r"array|has 2 channels"):
        decode(array)


def test_half_floats_are_read_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.asarray(decode(np.array([[0, 1], [0.5, np.inf]], np.float16))).max() == 255


def test_other_items_are_refused():
    with pytest.raises(DataError, match="str"):
        decode("a/path.jpg")  # type: ignore[arg-type]
    assert decoding.as_rgb(Image.new("HSV", (1, 1))).mode == "RGB"


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("size", "crop"), [(64, 0.875), (96, 1.0)])
@pytest.mark.parametrize("turn", [False, True])
def test_encode_is_resize_then_centre_crop(photo, interpolation, size, crop, turn):
    image = photo.transpose(Image.Transpose.ROTATE_90) if turn else photo
    spec = ImageInput(size, HALF, HALF, interpolation, crop)
    resized = reference.resize(
        image, [round(size / crop)], interpolation=getattr(reference.InterpolationMode, interpolation.upper())
    )
    expected = np.asarray(reference.center_crop(resized, [size, size])).transpose(2, 0, 1)
    encoded = spec.encode(saved(image, "PNG"))
    assert encoded.shape == spec.shape == (3, size, size)
    assert encoded.dtype == spec.dtype
    assert np.abs(encoded.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("shape", [(60, 100), (100, 60), (33, 90), (48, 48), (7, 5)])
@pytest.mark.parametrize(("resize", "mode"), [("pad", "border"), ("squash", "squash")])
def test_pad_and_squash_cut_nothing_off_as_timm_does_it(photo, shape, resize, mode):
    image = photo.resize(shape)
    spec = ImageInput(48, (0.1, 0.5, 0.9), HALF, "bilinear", resize=resize)
    transform = create_transform(
        48, crop_pct=1.0, crop_mode=mode, interpolation="bilinear", mean=spec.mean, std=HALF, normalize=False
    )
    expected = transform(image).numpy()
    encoded = spec.encode(saved(image, "PNG"))
    assert np.abs(encoded.astype(int) - expected).max() <= 1
    assert ImageInput.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert spec != spec.resized("crop")
    assert "resize" not in spec.resized("crop").to_json()  # what was stored before keeps its key


def test_a_strip_keeps_a_pixel_of_its_short_side():
    strip = np.full((1, 10_000), 9, np.uint8)
    for resize, most in (("pad", 128), ("squash", 9)):
        assert ImageInput(32, HALF, HALF, resize=resize).encode(strip).max() == most


def test_encode_takes_tiny_and_stretched_pictures():
    spec = ImageInput(32, HALF, HALF)
    assert spec.encode(np.full((1, 1), 9, np.uint8)).tolist() == np.full((3, 32, 32), 9).tolist()
    assert spec.encode(np.full((1, 200_000), 9, np.uint8)).max() == 9
    nearest = ImageInput(4, HALF, HALF, "nearest").encode(np.array([[0, 255], [255, 0]], np.uint8))
    assert nearest[0].tolist() == [[0, 0, 255, 255]] * 2 + [[255, 255, 0, 0]] * 2


def test_to_model():
    spec = ImageInput(8, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    batch = spec.example(5)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (spec.mean, spec.std))
    before = batch.clone()
    result = spec.to_model(batch)
    torch.testing.assert_close(result, (batch / 255 - mean) / std)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch, before)


def test_json_round_trip():
    spec = ImageInput(64, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear", 0.9)
    assert ImageInput.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    "wrong", [{"size": 0}, {"crop": 0.0}, {"crop": 1.5}, {"interpolation": "cubic"}, {"resize": "tall"}]
)
def test_impossible_inputs(wrong):
    with pytest.raises(ValueError):
        ImageInput(**{"size": 8, "mean": HALF, "std": HALF} | wrong)


@pytest.fixture(scope="module")
def batch(photo) -> torch.Tensor:
    spec = ImageInput(48, HALF, HALF)
    data = np.asarray(photo)
    return torch.stack(
        [torch.from_numpy(spec.encode(data[:, i * 5 : 300 + i * 5].copy())) for i in range(40)]
    )


@pytest.mark.parametrize("policy", ["light", "randaugment"])
def test_augmentation_depends_on_seed_and_row_alone(batch, policy):
    spec = ImageInput(48, HALF, HALF)
    draws = spec.draw(policy, 40, seed=3, mirror=True)
    assert torch.equal(draws, spec.draw(policy, 40, seed=3, mirror=True))
    assert not torch.equal(draws, spec.draw(policy, 40, seed=4, mirror=True))
    assert draws.dtype == torch.float32
    before = batch.clone()
    whole = spec.augment(batch, policy, draws)
    assert whole.dtype == torch.uint8
    assert whole.shape == batch.shape
    assert torch.equal(batch, before)
    for some in (torch.tensor([7]), torch.tensor([30, 2, 11]), torch.arange(39, 10, -1)):
        assert torch.equal(spec.augment(batch[some], policy, draws[some]), whole[some])
    changed = (whole != batch).flatten(1).any(1).float().mean()
    assert changed > 0.8
    # Still the same pictures: closer to their own original than to nothing at all.
    assert (whole.float() - batch.float()).abs().mean() < 80


def test_light_keeps_content_brightness_and_range(batch):
    spec = ImageInput(48, HALF, HALF)
    changed = spec.augment(batch, "light", spec.draw("light", 40, seed=0, mirror=False)).float()
    ratio = changed.mean((1, 2, 3)) / batch.float().mean((1, 2, 3))
    assert 0.7 < ratio.min() < 0.95 < 1.05 < ratio.max() < 1.35


def test_identity_parameters_change_nothing(batch):
    spec = ImageInput(48, HALF, HALF)
    row = torch.tensor([1.0, 0, 0, 0, 1, 0, 1, 1]).expand(40, 8)
    assert torch.equal(spec.augment(batch, "light", row), batch)
    mirrored = torch.tensor([-1.0, 0, 0, 0, 1, 0, 1, 1]).expand(40, 8)
    assert torch.equal(spec.augment(batch, "light", mirrored), batch.flip(-1))


def test_flips_only_where_mirroring_is_allowed():
    spec = ImageInput(48, HALF, HALF)
    assert (spec.draw("light", 500, seed=0, mirror=False)[:, 0] > 0).all()
    assert 0.4 < (spec.draw("light", 500, seed=0, mirror=True)[:, 0] < 0).float().mean() < 0.6
    assert (spec.draw("randaugment", 500, seed=0, mirror=False)[:, 4] == 0).all()
    assert 0.4 < spec.draw("randaugment", 500, seed=0, mirror=True)[:, 4].mean() < 0.6


def test_every_operation_of_randaugment(batch):
    unchanged = {"identity"}
    for number, name in enumerate(augmentation.OPERATIONS):
        row = torch.tensor([[number, 0.3, 0, 0.3, 0]])
        result = ImageInput(48, HALF, HALF).augment(batch[:1], "randaugment", row)
        assert torch.equal(result, batch[:1]) == (name in unchanged), name


def test_dihedral_moves_pictures_maps_and_points_alike():
    """One bright pixel ends where its point does, in each of a square's eight symmetries."""
    spec = ImageInput(5, HALF, HALF)
    batch = torch.zeros(64, 3, 5, 5, dtype=torch.uint8)
    batch[:, :, 0, 1] = 255
    points = torch.tensor([[(1 + 0.5) / 5, (0 + 0.5) / 5]]).expand(64, 1, 2)
    draws = spec.draw("dihedral", 64, seed=0, mirror=True)
    moved = spec.augment(batch, "dihedral", draws)
    assert torch.equal(spec.move(batch[:, 0], "dihedral", draws, unknown=9), moved[:, 0])
    places = ((spec.place(points, "dihedral", draws)[:, 0] * 5) - 0.5).round().long()
    for picture, (column, row) in zip(moved, places.tolist(), strict=True):
        assert picture[0, row, column] == 255
        assert int((picture > 0).sum()) == 3
    assert len({tuple(place) for place in places.tolist()}) == 8
    assert len({tuple(row) for row in draws.tolist()}) == 8
    turned = spec.draw("dihedral", 64, seed=0, mirror=False)
    assert len({tuple(row) for row in turned.tolist()}) == 4, "pictures that may not be mirrored are turned"


def test_policies():
    spec = ImageInput(8, HALF, HALF)
    assert spec.draw("none", 3, seed=0, mirror=True) is None
    with pytest.raises(ValueError, match="heavy"):
        spec.draw("heavy", 3, seed=0, mirror=True)
    with pytest.raises(ValueError, match="heavy"):
        spec.augment(spec.example(1), "heavy", torch.zeros(1, 8))


def test_words_of_the_command_line_are_files_and_folders_of_them(tmp_path):
    inputs = ImageInput(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    (tmp_path / "ants" / "deep").mkdir(parents=True)
    for name in ("b.png", "ants/a.png", "ants/deep/c.png"):
        (tmp_path / name).touch()
    assert inputs.find(str(tmp_path / "b.png")) == [(str(tmp_path / "b.png"), tmp_path / "b.png")]
    inside = [tmp_path / "ants" / "a.png", tmp_path / "ants" / "deep" / "c.png"]
    assert inputs.find(str(tmp_path / "ants")) == [(str(path), path) for path in inside]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="There is no picture in"):
        inputs.find(str(tmp_path / "empty"))
    with pytest.raises(DataError, match=r"There is no file .*none\.png"):
        inputs.find(str(tmp_path / "none.png"))
    with pytest.raises(DataError, match=r"An item is a URL \(https://\.\.\.\)"):
        inputs.find("https://me:secret@example.org/a.png")
    for odd in ("x" * 5000, "nul\0"):
        with pytest.raises(DataError, match="There is no file"):
            inputs.find(odd)
