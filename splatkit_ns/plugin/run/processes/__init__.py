"""The processes and machines that train one run together."""
