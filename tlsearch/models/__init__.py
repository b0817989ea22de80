"""A trained model as a thing: write it, load it, predict with it."""
