"""Texts for tlsearch: the sentence encoder all-MiniLM-L6-v2 as a backbone, and tables of labelled texts."""

from tlsearch_text.backbone import MiniLM
from tlsearch_text.inputs import TextInput
from tlsearch_text.table import TextTable

__all__ = ["MiniLM", "TextInput", "TextTable"]
