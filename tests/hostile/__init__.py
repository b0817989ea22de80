"""Input made to break things, and what must come of it: an error with a sentence, and nothing else."""
