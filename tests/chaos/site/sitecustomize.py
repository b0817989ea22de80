"""Python imports this at its start wherever this folder is on the path; a test's environment decides."""

import os

if os.environ.get("CHAOS_ROOT"):
    import sys

    # Last, so that a process behaves as it would without: nothing of the project is shadowed.
    sys.path.append(os.environ["CHAOS_ROOT"])
    from tests.chaos import inside

    inside.install()
