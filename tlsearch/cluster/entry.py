"""What a job on a cluster runs: the driver of one study, started again where it dies.

Ray's jobs know no retry of their own. A driver that was killed (no memory left, a crash below Python) is
replaced a few times; it goes on where the last one was, since the database knows all of it. One that ended by
itself has said why, and one that was asked to stop isn't started again.

    python -m tlsearch.cluster.entry STUDY.yaml
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

RESTARTS = 3
"""How often at most."""
PAUSE_SECONDS = 5.0
"""Before each: what the dead driver left on its node needs a moment to end."""


def main(arguments: Sequence[str]) -> int:
    """Run the driver to its end; answers its exit code."""
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        # Only noted: Ray signals every process of a job, and a driver that hears it twice ends at once.
        signal.signal(number, lambda number, frame: stopped.append(number))
    for attempt in range(RESTARTS + 1):
        again = ["--again"] if attempt else []
        command = [sys.executable, "-m", "tlsearch", "run", *arguments, "--address", "auto", *again]
        code = subprocess.Popen(command).wait()
        if code >= 0:
            return code
        told = f"The driver was ended by {signal.Signals(-code).name}"
        if stopped or attempt == RESTARTS:
            print(f"{told}: it isn't started again.", flush=True)
            return 128 - code
        print(f"{told}: restart {attempt + 1} of {RESTARTS}.", flush=True)
        time.sleep(PAUSE_SECONDS)
        if stopped:
            break
    return 128 + signal.SIGTERM


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main(sys.argv[1:]))
