"""Scripts that exports carry along: plain Python that never imports tlsearch."""
