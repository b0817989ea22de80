"""The study database: the only place with sessions."""
