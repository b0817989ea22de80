"""``make check-gpu``: all that a CPU can't prove, on a machine that has a GPU.

Mixed precision, memory shares, stored outputs on the device, pinned batches that are loaded beforehand, out
of memory, ONNX from the GPU. Exit code 0: all of it holds; 1: something doesn't; 2: nothing was checked.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import torch

NOTHING = 5
"""pytest's exit code where no test was chosen."""


def main(arguments: Sequence[str]) -> int:
    """Run the tests marked ``gpu``; further arguments are pytest's."""
    if not torch.cuda.is_available():
        print(f"No GPU that torch {torch.__version__} can use: nothing was checked.", file=sys.stderr)
        print("Run it on a machine with one: `nvidia-smi` there lists it.", file=sys.stderr)
        return 2
    print(
        f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}, CUDA {torch.version.cuda}", flush=True
    )
    words = ["-m", "gpu", "-rA", "-q", "tests", "plugins", *arguments]
    code = subprocess.run([sys.executable, "-m", "pytest", *words], check=False).returncode
    return 2 if code == NOTHING else min(code, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
