"""One file a schema version, numbered in order; ``schema.REVISIONS`` lists them."""
