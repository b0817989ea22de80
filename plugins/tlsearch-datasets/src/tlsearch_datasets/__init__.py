"""Hugging Face data sets and WebDataset shards as sources of tlsearch."""
