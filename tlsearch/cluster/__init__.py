"""Ray Jobs: submit, follow, stop."""
