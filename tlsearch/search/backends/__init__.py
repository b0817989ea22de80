"""Who runs trials: `trial_backend` says what a backend does, every other file is one."""
