"""A table of texts and labels: CSV, TSV or Parquet."""

from __future__ import annotations

from tlsearch.contracts import DatasetSource, Samples
from tlsearch.datasets.table import RowOptions, read_rows, samples_of


class TextTableOptions(RowOptions):
    """A table of texts.

    Attributes:
        text_column: the texts.
    """

    text_column: str = "text"


class TextTable(DatasetSource[TextTableOptions]):
    """Texts in the rows of a table, in its order."""

    modality = "text"
    options = TextTableOptions
    mirror = False

    def load(self, options: TextTableOptions) -> Samples:
        """List the rows; those without a text or a label are broken.

        Raises:
            DataError: no such table or column, an unknown split, or fewer than two classes.
        """
        return samples_of(
            read_rows(options, "text", options.text_column),
            "text",
            options.path,
            refused=lambda text: None if text else "no text",
            item=str,
            named=lambda text, row: f"row {row}",
        )
