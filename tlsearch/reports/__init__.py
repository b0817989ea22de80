"""Read-only views of the study database."""
