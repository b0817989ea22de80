"""Built-in strategies; they come through the same entry points as anyone's."""
