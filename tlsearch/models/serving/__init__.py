"""A model behind HTTP: requests are checked, images of many requests go through the network together."""
