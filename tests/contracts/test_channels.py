"""Pictures that aren't 8-bit RGB: how their files are read, encoded, augmented and shown."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from tlsearch.contracts.images import ImageInput, decode
from tlsearch.errors import DataError
from tlsearch.images import array_files

FULL = {"uint16": (0.0, 65535.0)}
FIVE = np.random.default_rng(0).integers(0, 65536, (20, 30, 5), dtype=np.uint16)


def inputs_of(channels: int, bits: int = 16, **more) -> ImageInput:
    """Such that a picture of 20 x 20 pixels is its own square."""
    given = {"size": 20, "mean": (0.5,) * channels, "std": (0.25,) * channels, "interpolation": "nearest"}
    return ImageInput(**{**given, "channels": channels, "bits": bits, "ranges": FULL, **more})


def tiff(pixels, **how) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **how)
    return file.getvalue()


def npy(pixels) -> bytes:
    file = io.BytesIO()
    np.save(file, pixels)
    return file.getvalue()


SQUARE = FIVE[:, 5:25]
FIRST = np.ascontiguousarray(np.moveaxis(SQUARE, -1, 0))
FILES = {
    "chunky": tiff(SQUARE, photometric="minisblack", planarconfig="contig"),
    "planar": tiff(FIRST, photometric="minisblack", planarconfig="separate"),
    "lzw": tiff(SQUARE, photometric="minisblack", planarconfig="contig", compression="lzw", predictor=True),
    "imagej": tiff(FIRST, imagej=True, metadata={"axes": "CYX"}),
    "pages": tiff(FIRST, photometric="minisblack"),
    "channels last": npy(SQUARE),
    "channels first": npy(FIRST),
}


@pytest.mark.parametrize("kind", FILES)
def test_every_channel_of_a_file_keeps_its_16_bits(kind):
    encoded = inputs_of(5).encode(FILES[kind])
    assert encoded.dtype == np.uint16
    assert np.array_equal(encoded, FIRST)


def test_arrays_are_read_as_files_are():
    assert np.array_equal(inputs_of(5).encode(SQUARE), FIRST)
    assert np.array_equal(inputs_of(2).encode(SQUARE[:, :, :2]), FIRST[:2])


def test_rgb_of_16_bits_keeps_them_where_pillow_has_8():
    rgb = SQUARE[:, :, :3].copy()
    for content in (tiff(rgb, photometric="rgb"), imagecodecs.png_encode(rgb)):
        assert np.array_equal(inputs_of(3).encode(content), FIRST[:3])
        eight = ImageInput(20, (0.5,) * 3, (0.5,) * 3, "nearest").encode(content)
        assert np.array_equal(eight, FIRST[:3] >> 8)


def test_16_bits_of_grey_and_8_bits_of_another_file_have_one_scale():
    deep = io.BytesIO()
    Image.fromarray(SQUARE[:, :, 0]).save(deep, "PNG")
    assert np.array_equal(inputs_of(3).encode(deep.getvalue()), np.stack([FIRST[0]] * 3))
    shallow = io.BytesIO()
    Image.fromarray((SQUARE[:, :, :3] >> 8).astype(np.uint8)).save(shallow, "PNG")
    assert np.array_equal(inputs_of(3).encode(shallow.getvalue()), (FIRST[:3] >> 8) * 257)


def test_one_channel_is_grey_whatever_the_file_has():
    colours = (SQUARE[:, :, :3] >> 8).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(colours).save(file, "PNG")
    grey = np.asarray(Image.fromarray(colours).convert("L"))
    encoded = inputs_of(1, bits=8).encode(file.getvalue())
    assert encoded.shape == (1, 20, 20)
    assert np.abs(encoded[0].astype(int) - grey).max() <= 1  # Pillow weighs in integers


def test_a_file_of_other_channels_is_refused_with_both_numbers():
    with pytest.raises(DataError, match="has 5 channels, and the data has 4"):
        inputs_of(4).encode(FILES["chunky"])
    with pytest.raises(DataError, match=r"has 5 channels; `data.channels: 5` takes such"):
        decode(FILES["chunky"])
    with pytest.raises(DataError, match="can't be decoded"):
        inputs_of(5).encode(FILES["lzw"][:900])


def test_a_file_that_says_it_is_huge_is_refused_before_memory_is_used():
    file = io.BytesIO()
    header = {"descr": "<u2", "fortran_order": False, "shape": (100_000, 100_000, 5)}
    np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(DataError, match="has 100000 x 100000 x 5 numbers; at most"):
        inputs_of(5).encode(file.getvalue())


@pytest.mark.parametrize("missing", ["tifffile", "pydicom"])
def test_a_package_that_is_not_installed_is_named_with_its_extra(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    content, extra = (FILES["lzw"], "tiff") if missing == "tifffile" else (b"\0" * 128 + b"DICM", "dicom")
    with pytest.raises(DataError, match=rf"{missing} \(pip install 'tlsearch\[{extra}\]'\)"):
        inputs_of(5).encode(content)


def test_headers_tell_channels_and_depth(tmp_path):
    def header(content: bytes) -> tuple[int | None, bool]:
        kind = array_files.kind_of(content[: array_files.HEAD])
        found = array_files.header(io.BytesIO(content), kind)
        assert (found.width, found.height) == (20, 20)
        return found.channels, found.deep

    for kind in set(FILES) - {"pages"}:
        assert header(FILES[kind]) == (5, True)
    assert header(FILES["pages"]) == (None, True)  # pages may be anything: slices, moments
    eight = (SQUARE >> 8).astype(np.uint8)
    extra = {"photometric": "rgb", "planarconfig": "contig"}
    assert header(tiff(eight[:, :, :4], extrasamples=["unspecified"], **extra)) == (4, False)
    assert header(tiff(eight[:, :, :4], extrasamples=["unassalpha"], **extra)) == (None, False)
    assert header(tiff(eight[:, :, :3], **extra)) == (None, False)


@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
def test_squares_of_many_channels_are_those_of_each_alone(resize):
    inputs = inputs_of(5, size=16, interpolation="bicubic", resize=resize)
    one = inputs_of(1, size=16, interpolation="bicubic", resize=resize)
    alone = [one.encode(FIVE[:, :, channel]) for channel in range(5)]
    assert np.array_equal(inputs.encode(FIVE), np.concatenate(alone))


def test_squares_of_rgb_are_those_of_8_bits_but_for_rounding():
    eight = (80 + (FIVE[:, :, :3] >> 10)).astype(np.uint8)  # nothing overshoots, which 8 bits clip on the way
    how = {"size": 16, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    deep = ImageInput(**how, bits=16).encode(eight).astype(float) / 257
    assert np.abs(deep - ImageInput(**how).encode(eight)).max() < 1


def test_mean_and_deviation_are_those_of_the_training_items():
    rng = np.random.default_rng(1)
    encoded = (rng.normal([[[20000]], [[40000]]], [[[500]], [[3000]]], (90, 2, 20, 20))).astype(np.uint16)
    encoded[80:] = 65535
    inputs = inputs_of(2)
    fitted = inputs.fitted(encoded, np.arange(80))
    pixels = fitted.to_model(torch.from_numpy(encoded[:80]))
    assert torch.allclose(pixels.mean(dim=(0, 2, 3)), torch.zeros(2), atol=1e-3)
    assert torch.allclose(pixels.std(dim=(0, 2, 3)), torch.ones(2), atol=1e-3)
    assert fitted.encoding() == inputs.encoding() != fitted.to_json()  # what is stored keeps its key
    assert ImageInput.from_json(fitted.to_json()) == fitted
    rgb = ImageInput(20, (0.4,) * 3, (0.2,) * 3)
    assert rgb.fitted(encoded, np.arange(80)) is rgb
    flat = inputs.fitted(np.full((3, 2, 20, 20), 7, np.uint16), np.arange(3))
    assert torch.isfinite(flat.to_model(torch.zeros(1, 2, 20, 20).to(torch.uint16))).all()


def test_colours_are_changed_of_rgb_alone():
    assert inputs_of(5).policies == ("none", "flip", "dihedral", "light")
    assert inputs_of(3).policies == ("none", "flip", "dihedral", "light")
    assert "randaugment" in ImageInput(20, (0.5,) * 3, (0.5,) * 3).policies
    flat = torch.full((8, 5, 20, 20), 30000).to(torch.uint16)
    draws = inputs_of(5).draw("light", 8, seed=0, mirror=True)
    assert torch.equal(inputs_of(5).augment(flat, "light", draws), flat)  # moved, and as bright as it was
    rgb = inputs_of(3).augment(flat[:, :3], "light", draws)
    assert rgb.dtype == torch.uint16
    assert not torch.equal(rgb, flat[:, :3])


def test_three_channels_are_shown_of_many_and_the_mean_of_two():
    inputs = inputs_of(5)
    assert np.abs(np.asarray(inputs.picture(SQUARE)).astype(int) - (SQUARE[:, :, :3] >> 8)).max() <= 1
    assert np.array_equal(np.asarray(inputs.shown(inputs.encode(SQUARE))), np.asarray(inputs.picture(SQUARE)))
    two = np.asarray(inputs_of(2).picture(SQUARE[:, :, :2])).astype(float)
    assert np.ptp(two, axis=2).max() == 0
    assert np.abs(two[:, :, 0] - SQUARE[:, :, :2].mean(axis=2) / 257).max() <= 1


@pytest.mark.parametrize("wrong", [{"channels": 0}, {"channels": 4}, {"bits": 12}, {"channels": 600}])
def test_impossible_pixels(wrong):
    with pytest.raises(ValueError, match="channels"):
        ImageInput(**{"size": 8, "mean": (0.5,) * 3, "std": (0.5,) * 3, **wrong})


def dicom(path: Path, pixels: np.ndarray, kind: str = "MONOCHROME2", **tags) -> Path:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    made = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = SecondaryCaptureImageStorage, meta.MediaStorageSOPInstanceUID
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    made.PlanarConfiguration = 0
    made.PhotometricInterpretation = kind
    made.BitsAllocated = 8 * pixels.dtype.itemsize
    made.BitsStored = 12 if pixels.dtype == np.uint16 else made.BitsAllocated
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(made, name, value)
    made.save_as(path, enforce_file_format=True)
    return path


RAMP = np.arange(400, dtype=np.uint16).reshape(20, 20)


def read(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        return array_files.read(file, "dicom")


def test_dicom_is_in_the_units_of_its_modality(tmp_path):
    found = read(dicom(tmp_path / "ct", RAMP, RescaleSlope=2, RescaleIntercept=-1024))
    assert np.array_equal(found, RAMP * 2.0 - 1024)
    turned = read(dicom(tmp_path / "cr", RAMP, kind="MONOCHROME1"))
    assert np.array_equal(turned, 4095.0 - RAMP)
    signed = read(dicom(tmp_path / "mr", RAMP.astype(np.int16) - 100, kind="MONOCHROME1"))
    assert np.array_equal(signed, -1.0 - (RAMP - 100.0))


def test_dicom_goes_through_its_window(tmp_path):
    window = {"WindowCenter": [100.5, 7], "WindowWidth": [201, 2]}
    found = read(dicom(tmp_path / "ct", RAMP, RescaleSlope=1, RescaleIntercept=-100, **window))
    expected = ((RAMP - 100.0) / 200).clip(0, 1) * 65535
    assert np.abs(found - expected).max() <= 0.5
    turned = read(dicom(tmp_path / "cr", RAMP, kind="MONOCHROME1", **window))
    assert turned[0, 0] == 65535
    assert turned[-1, -1] == 0


def test_dicom_is_decoded_like_any_picture(tmp_path):
    colours = np.zeros((20, 20, 3), np.uint8) + np.array([10, 20, 30], np.uint8)
    assert decode(dicom(tmp_path / "us", colours, kind="RGB")).getpixel((0, 0)) == (10, 20, 30)
    ct = dicom(tmp_path / "ct", RAMP, RescaleSlope=1, RescaleIntercept=-100)
    with pytest.raises(DataError, match="float pixels from -100 to 299, whose range isn't known"):
        decode(ct)
    inputs = ImageInput(20, (0.5,) * 3, (0.5,) * 3, bits=16)
    known = inputs.suited([inputs.survey(ct)])
    assert known.ranges == {"float": (-100.0, 299.0)}
    assert known.encode(ct)[0, -1, -1] == 65535
    damaged = ct.read_bytes()[:-100]
    with pytest.raises(DataError, match="can't be decoded"):
        known.encode(damaged)
