"""The parts of a run between its steps: modules, hooks and writers, the data and evaluations that they are given."""
