"""``splatkit doctor``: checks of the machine, and of a data set."""
