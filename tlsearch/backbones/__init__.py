"""Built-in backbone families; they come through the same entry points as anyone's."""
