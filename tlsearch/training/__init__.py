"""What runs on a worker: data, caches, the training loop. Knows neither Ray nor the database."""
