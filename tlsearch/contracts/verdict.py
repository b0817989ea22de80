"""Whether a prediction can be relied on, in the words that users read."""

from __future__ import annotations

SURE, UNSURE, NONE = "sure", "unsure", "none of these"
VERDICTS = (SURE, UNSURE, NONE)
"""In the order of the numbers that exports put out."""
ABSTENTION = "abstention"
"""Where a model's calibration has what verdicts are told by."""
