"""What runs on the driver: spaces, sampling, budgets, the Ray Tune run, a study from start to finish."""
