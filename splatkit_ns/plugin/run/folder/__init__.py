"""A run's folder with its ``config.yml`` and checkpoint files, and the commands that open it."""
