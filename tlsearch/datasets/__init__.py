"""Built-in data set sources; they come through the same entry points as anyone's."""
