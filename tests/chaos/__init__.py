"""Faults, injected for real into real searches, and what must hold after each of them."""
