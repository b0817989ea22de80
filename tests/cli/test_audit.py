"""``tlsearch audit``, and what ``tlsearch run`` says and keeps of it.

The command runs in this process, which has imported torch already; its exit code is that of `SystemExit`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from tlsearch.cli import main
from tlsearch.search import setup
from tlsearch.spec import load


@pytest.fixture
def tainted(images, tmp_path):
    """Splits as folders; three test images are train images saved again, one of them under another label."""
    root = tmp_path / "tainted"
    for split, numbers in (("train", range(30)), ("val", range(30, 35)), ("test", range(35, 40))):
        for name in ("disc", "frame", "stripes"):
            (root / split / name).mkdir(parents=True)
            for number in numbers if name != "stripes" else list(numbers)[: len(numbers) // 3]:
                source = images / name / f"{number:03d}.png"
                (root / split / name / source.name).write_bytes(source.read_bytes())
    for name, label in (("disc", "disc"), ("frame", "frame"), ("frame", "disc")):
        picture = Image.open(root / "train" / name / "003.png")
        picture.save(root / "test" / label / f"again_{name}.jpg", quality=95, subsampling=0)
    (root / "val" / "disc" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    return root


@pytest.fixture
def ask(place, monkeypatch, capsys):
    """Run ``tlsearch audit``; answers its exit code, what it printed, and what it said besides."""
    monkeypatch.chdir(place.folder)
    for name in ("TLSEARCH_CACHE", "TLSEARCH_DB"):
        monkeypatch.setenv(name, place.env[name])

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tlsearch", "audit", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not place.database.exists()
        assert not place.artifacts.exists()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


@pytest.mark.slow
def test_wrong_labels_are_shown_in_a_page_corrected_in_a_table_and_read_back(place, images, ask, tmp_path):
    root = tmp_path / "mixed"
    for name in ("disc", "frame"):
        (root / name).mkdir(parents=True)
        for number in range(36):
            picture = images / name / f"{number:03d}.png"
            (root / name / f"{name}-{number:03d}.png").write_bytes(picture.read_bytes())
    for number in (3, 17):
        (root / "disc" / f"disc-{number:03d}.png").rename(root / "frame" / f"disc-{number:03d}.png")
    study = place.study(data={"path": str(root)})
    page = tmp_path / "out" / "page.html"
    code, told, _ = ask(study, "--labels", "-o", page)
    assert code == 0
    assert "Of 72 labels, " in told
    assert "more labels:" in told
    html = page.read_text()
    assert html.count("<img") >= 2
    assert "disc-003.png" in html
    table = page.with_suffix(".csv")
    lines = table.read_text().splitlines()
    assert lines[0] == "item,label,suggested,probability,split,corrected"
    first = [line.split(",")[0] for line in lines[1:3]]
    assert sorted(name.rpartition("/")[2] for name in first) == ["disc-003.png", "disc-017.png"]

    code, _, said = ask(study, "--labels", "-o", page)
    assert code == 2
    assert "may hold labels that somebody corrected" in said
    assert ask(study, "-o", page)[0] == 2

    table.write_text("\n".join([lines[0], *(f"{line}disc" for line in lines[1:3])]) + "\n")
    code, told, _ = ask(
        study, "--labels", "--set", f"data.corrected={table}", "-o", tmp_path / "b.html", "--json"
    )
    found = json.loads(told)
    assert code == 0
    assert not {one["name"] for one in found["doubtful"]} & set(first)
    assert found["learning_curve"]["sizes"][-1] == 58
    code, document, _ = ask(study, "--set", f"data.corrected={table}", "--json")
    assert "2 labels corrected by page.csv" in json.loads(document)["notes"]
    assert sum(split["disc"] for split in json.loads(document)["counts"].values()) == 36


def test_a_look_at_the_data(place, tainted, ask):
    study = place.study(data={"path": str(tainted)})
    code, document, _ = ask(study, "--json")
    found = json.loads(document)
    assert code == 0
    alike = found["near_duplicates"]
    assert alike["between"] == {"train-test": 3}
    assert alike["other_label"] == 1
    assert {pair["item"] for pair in alike["examples"]} == {
        "test/disc/again_disc.jpg",
        "test/frame/again_frame.jpg",
        "test/disc/again_frame.jpg",
    }
    assert found["broken"]["examples"][0].startswith("val/disc/broken.jpg: ")
    assert found["imbalance"]["proposed_metric"] == "balanced_accuracy"
    _, told, _ = ask(study, "--limit", "2")
    for words in (
        "class    train  stop  val  test",
        "Nearly the same picture in two splits (3)",
        "... and 1 more",
        "Broken, set aside (1)",
        "1 of them under another label",
        "objective: {metric: balanced_accuracy} counts every class alike",
    ):
        assert words in told


def test_a_search_says_it_before_it_begins(place, tainted):
    spec = load(place.study(data={"path": str(tainted)}))
    prepared = setup.prepare(spec, cache=Path(place.env["TLSEARCH_CACHE"]), threads=1, observe=lambda _: None)
    said = "\n".join(prepared.warnings)
    assert "with a near-duplicate in another split" in said
    assert "objective: {metric: balanced_accuracy}" in said
    assert "1 broken item set aside: val/disc/broken.jpg" in said
    assert prepared.audit["near_duplicates"]["count"] == 3


def test_good_data(place, ask):
    assert ask(place.study())[1].endswith("Warnings\n  none\n")


def test_data_that_cannot_be_searched_on_is_refused(place, images, tmp_path, ask):
    code, _, said = ask(place.study(data={"path": str(tmp_path / "nowhere")}))
    assert code == 2
    assert str(tmp_path / "nowhere") in said
    spoilt = tmp_path / "spoilt"
    for name in ("disc", "frame"):
        (spoilt / name).mkdir(parents=True)
        for number in range(10):
            content = (images / name / f"{number:03d}.png").read_bytes()
            (spoilt / name / f"{number}.png").write_bytes(content if number > 1 else content[:100])
    study = place.study(data={"path": str(spoilt)})
    code, _, said = ask(study)
    assert code == 2
    assert "4 of 20 items are broken (20.0%); up to 5% are set aside" in said
    assert "disc/0.png" in said
    assert place.here("run", study, code=2).stderr.endswith(said.partition("Error: ")[2])
    code, document, _ = ask(study, "--json", "--set", "data.max_broken=0.5")
    assert code == 0
    assert json.loads(document)["broken"]["count"] == 4


def test_findings_give_a_terminal_no_orders(place, images, tmp_path, ask):
    """Labels of a table are anybody's, and so are the names of files."""
    rows = ["image,label"]
    for name, label in (("disc", "\x1b]0;owned\x07disc"), ("frame", "frame")):
        for number in range(8):
            file = tmp_path / f"{name}\x1b[2J{number}.png"
            file.write_bytes((images / name / f"{number:03d}.png").read_bytes())
            rows.append(f"{file.name},{label}")
    rows += [rows[1].replace("\x1b]0;owned\x07disc", "frame"), "none\x1b[2J.png,frame"]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    study = place.study(data={"source": "table", "path": str(tmp_path / "list.csv"), "max_broken": 0.3})
    code, said, besides = ask(study)
    assert code == 0
    assert "Identical items with different labels" in said
    assert "Broken, set aside" in said
    assert "\x1b" not in said + besides
    assert r"\x1b]0;owned\x07disc" in said
