"""Writes `test_golden`'s values anew: where a change of them is meant."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch

from tests.golden import values

if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = values.found(Path(folder))
    text = json.dumps(found, indent=1, sort_keys=True)
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("values.json")
    place.write_text(text + "\n")
