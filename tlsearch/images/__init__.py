"""Pictures: files and arrays as RGB, and random changes of them."""
