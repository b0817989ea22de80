"""scikit-learn's handwritten digits: 1797 grey images of 8 x 8 pixels, ten classes, nothing to download."""

from __future__ import annotations

import numpy as np

from tlsearch.contracts.dataset import DatasetSource, NoOptions, Samples


class Digits(DatasetSource[NoOptions]):
    """``sklearn.datasets.load_digits``: UCI's Optical Recognition of Handwritten Digits, its test part."""

    mirror = False

    def load(self, options: NoOptions) -> Samples:
        """All 1797 items as uint8 arrays (8, 8), their 17 grey levels spread over 0..255."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        return Samples(
            items=list(images),
            labels=[int(label) for label in digits.target],
            classes=tuple(str(name) for name in digits.target_names),
            names=[f"digit {index}" for index in range(len(images))],
        )
