"""Contract tests and small fixtures for plugin authors."""
