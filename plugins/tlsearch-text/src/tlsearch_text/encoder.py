"""The encoder of BERT (Devlin et al. 2019, arXiv:1810.04805) with mean pooling, as plain torch modules.

Modules are named as in the published checkpoints, so that their tensors go in by name. Attention is written
out: `torch.fx` sees every step of it, and a text's result is its own, whatever else is in the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

PADDING = 0
"""Id of the token that fills up short texts."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of all-MiniLM-L6-v2 (Wang et al. 2020, arXiv:2002.10957, distilled to six layers)."""

    words: int = 30522
    width: int = 384
    layers: int = 6
    heads: int = 12
    inner: int = 1536
    positions: int = 512
    dropout: float = 0.1


class Embeddings(nn.Module):
    """Word, place and segment of each token, added up; there is one segment."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(sizes.words, sizes.width, padding_idx=PADDING)
        self.position_embeddings = nn.Embedding(sizes.positions, sizes.width)
        self.token_type_embeddings = nn.Embedding(2, sizes.width)
        self.LayerNorm = nn.LayerNorm(sizes.width, eps=1e-12)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids (B, L) as vectors (B, L, width)."""
        segment = self.token_type_embeddings.weight[0]
        places = self.position_embeddings.weight[: ids.shape[1]]
        summed: Tensor = self.word_embeddings(ids) + segment + places
        normed: Tensor = self.dropout(self.LayerNorm(summed))
        return normed


class SelfAttention(nn.Module):
    """Every token looks at every token that isn't padding."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.scale = 1 / math.sqrt(sizes.width // sizes.heads)
        self.query = nn.Linear(sizes.width, sizes.width)
        self.key = nn.Linear(sizes.width, sizes.width)
        self.value = nn.Linear(sizes.width, sizes.width)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, hidden: Tensor, hides: Tensor) -> Tensor:
        """Vectors (B, L, width); ``hides`` (B, 1, 1, L) is true at padding."""
        query, key, value = (
            layer(hidden).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = (query @ key.transpose(2, 3) * self.scale).masked_fill(hides, -math.inf)
        mixed: Tensor = (self.dropout(scores.softmax(dim=3)) @ value).transpose(1, 2).flatten(2)
        return mixed


class Joined(nn.Module):
    """What a half of a layer comes to, added to what went in, and normalized."""

    def __init__(self, width: int, sizes: Sizes) -> None:
        super().__init__()
        self.dense = nn.Linear(width, sizes.width)
        self.LayerNorm = nn.LayerNorm(sizes.width, eps=1e-12)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, made: Tensor, before: Tensor) -> Tensor:
        """Vectors (B, L, width)."""
        joined: Tensor = self.LayerNorm(self.dropout(self.dense(made)) + before)
        return joined


class Layer(nn.Module):
    """Attention, then the same small network for each token."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": SelfAttention(sizes), "output": Joined(sizes.width, sizes)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(sizes.width, sizes.inner)})
        self.output = Joined(sizes.inner, sizes)

    def forward(self, hidden: Tensor, hides: Tensor) -> Tensor:
        """Vectors (B, L, width)."""
        hidden = self.attention["output"](self.attention["self"](hidden, hides), hidden)
        widened = functional.gelu(self.intermediate["dense"](hidden))
        made: Tensor = self.output(widened, hidden)
        return made


class SentenceEncoder(nn.Module):
    """Token ids (B, L) to one vector for each text, (B, width).

    The vector is sentence-transformers' unit vector (mean of the tokens that aren't padding, scaled to length
    1) times the root of its width: the same directions, in numbers of a size that heads are used to.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.scale = math.sqrt(sizes.width)
        self.embeddings = Embeddings(sizes)
        layers = nn.ModuleList(Layer(sizes) for _ in range(sizes.layers))
        self.encoder = nn.ModuleDict({"layer": layers})

    def forward(self, ids: Tensor) -> Tensor:
        """Features (B, width)."""
        shown = ids.ne(PADDING)
        hides = shown.logical_not()[:, None, None, :]
        hidden = self.embeddings(ids)
        for layer in self.encoder["layer"]:
            hidden = layer(hidden, hides)
        counted = shown.unsqueeze(2).to(hidden.dtype)
        mean = (hidden * counted).sum(dim=1) / counted.sum(dim=1)
        return functional.normalize(mean, dim=1) * self.scale
