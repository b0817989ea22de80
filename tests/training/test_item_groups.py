"""Items of one folder, series or expression stay together; names and cameras tell of series."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlsearch.contracts import Samples
from tlsearch.errors import DataError, SpecError, TlsearchError
from tlsearch.spec import DataSpec
from tlsearch.training import sources
from tlsearch.training.item_groups import SERIES, Series, grouped, suggested
from tlsearch.training.listed import fingerprint
from tlsearch.training.splits import split

KINDS = ("oak", "elm")


def _samples(names: list[str]) -> Samples:
    return Samples(
        items=[name.encode() for name in names],
        targets=[KINDS.index(name.partition("/")[0]) for name in names],
        spec=KINDS,
        names=names,
    )


TREES = _samples(
    [f"{kind}/tree{tree}_{shot}.jpg" for kind in KINDS for tree in range(12) for shot in range(3)]
)


def _kinds(samples: Samples) -> list[tuple[int, ...]]:
    return [(int(target),) for target in samples.targets]


@pytest.mark.parametrize(
    ("how", "names", "groups"),
    [
        ("folder", ["oak/a/1.jpg", "oak/a/2.jpg", "elm/b/1.jpg"], ["oak/a", "oak/a", "elm/b"]),
        (r"/(t\d+)", ["oak/t1_a.jpg", "elm/t1_b.jpg", "elm/t2.jpg", "oak/x.jpg"], ["t1", "t1", "t2", ""]),
        (SERIES, ["oak/2024-05-01 (7).jpg", "oak/t07_2.jpg", "elm/t08-c3.png", "elm/12.png"], None),
    ],
)
def test_groups_are_what_is_asked_for(how: str, names: list[str], groups: list[str] | None) -> None:
    found = grouped(_samples(names), how)
    assert found.groups == (groups or ["", "t07", "t08", ""])
    assert "no split cuts in two" in found.notes[-1]


def test_no_split_cuts_a_series_in_two() -> None:
    from tlsearch import registry

    samples, task = grouped(TREES, SERIES), registry.task("classification")
    _, hashes = fingerprint(samples, task)
    strata = task.strata(np.asarray(samples.targets), samples.spec)
    parts = split(samples, hashes, strata, val=0.25, test=0.25, stop=0.1, seed=0)
    homes: dict[str, set[str]] = {}
    for name, indices in parts.items():
        for index in indices:
            homes.setdefault(samples.groups[index], set()).add(name)
    assert all(len(home) == 1 for home in homes.values())
    assert all(len(indices) for indices in parts.values())


@pytest.mark.parametrize(
    ("how", "message", "error"),
    [
        ("(", "is no regular expression", SpecError),
        (r"tree\d", "has no group in parentheses", SpecError),
        ("(x)" * 100, "at most 200 characters", SpecError),
        ("(bush)", "no item belongs to a group", DataError),
        ("(tree)", "all items belong to one group", DataError),
        ("exif", "no item belongs to a group", DataError),
    ],
)
def test_what_cannot_be_says_what_would_be_right(how: str, message: str, error: type[TlsearchError]) -> None:
    with pytest.raises(error, match=message) as raised:
        grouped(TREES, how, section="source_data")
    assert raised.value.message.startswith("source_data.groups")
    assert "Right is `folder`" in str(raised.value.hint)


def test_groups_of_the_data_are_not_overruled() -> None:
    own = grouped(TREES, SERIES)
    with pytest.raises(SpecError, match="groups of its own"):
        grouped(own, "folder")


@pytest.mark.parametrize(
    ("names", "how", "doubt"),
    [
        (list(TREES.names), SERIES, ""),
        ([f"{kind}/{kind}1_{n}.jpg" for kind in KINDS for n in range(40)], None, ""),  # one name a class
        ([f"{kind}/{n:04d}.jpg" for kind in KINDS for n in range(40)], None, ""),
        ([f"{kind}/t{tree}_0.jpg" for kind in KINDS for tree in range(40)], SERIES, ""),  # t1 of both kinds
        (
            [f"{kind}/exp{part}_num_{n}.jpg" for kind in KINDS for part in range(7) for n in range(20)],
            SERIES,
            'too few to make splits of, such as the 40 items of "exp0_num"',
        ),
        (
            [f"{kind}/{kind}{tree}_{n}.jpg" for kind in KINDS for tree in range(3) for n in range(9)],
            SERIES,
            "too few to make splits of",
        ),
        (
            [
                f"{kind}/t{tree}_{n}.jpg"
                for kind in KINDS
                for tree in range(20)
                for n in range(1 + 60 // 3**tree)
            ],
            SERIES,
            '"t0" has 122 of',
        ),
        (
            [f"oak/t{tree}_{n}.jpg" for tree in range(20) for n in range(5)]
            + [f"elm/t{tree}_{n}.jpg" for tree in range(30, 33) for n in range(5)],
            SERIES,
            "of some kind fewer than 6",
        ),
    ],
)
def test_series_are_proposed_where_splits_can_be_made_of_them(
    names: list[str], how: str | None, doubt: str
) -> None:
    samples = _samples(names)
    found = suggested(samples, _kinds(samples))
    assert (found.how if found else None) == how
    assert doubt in (found.doubt if found else "")
    assert bool(doubt) == bool(found and found.doubt)


def _photographs(root: Path, *, apart: timedelta) -> Path:
    """Of each kind eight scenes of three shots, a second from each other."""
    random, moment = np.random.default_rng(0), datetime(2024, 5, 1, 12)
    for kind in KINDS:
        (root / kind).mkdir(parents=True)
        for number in range(24):
            if number % 3 == 0:
                moment += apart
            moment += timedelta(seconds=1)
            picture = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
            exif = picture.getexif()
            exif[0x0110] = "Camera 5"
            exif.get_ifd(0x8769)[0x9003] = moment.strftime("%Y:%m:%d %H:%M:%S")
            picture.save(root / kind / f"{chr(97 + number)}.jpg", exif=exif)
    return root


def test_pictures_taken_within_seconds_are_of_one_series(tmp_path: Path) -> None:
    root = _photographs(tmp_path / "trees", apart=timedelta(minutes=2))
    listed = sources.listing(DataSpec(source="folder", path=str(root), groups="exif"))
    assert len(set(listed.samples.groups)) == 16
    plain = sources.listing(DataSpec(source="folder", path=str(root)))
    assert suggested(plain.samples, _kinds(plain.samples)) == Series("exif", "cameras took them in 16 series")


def test_pictures_taken_one_after_the_other_are_no_series(tmp_path: Path) -> None:
    root = _photographs(tmp_path / "trees", apart=timedelta(0))
    plain = sources.listing(DataSpec(source="folder", path=str(root)))
    assert suggested(plain.samples, _kinds(plain.samples)) is None
