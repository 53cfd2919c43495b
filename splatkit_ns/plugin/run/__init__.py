"""The run around the steps: its folder, checkpoints, modules, hooks, log, signals and errors."""
