"""The order in which images are drawn, dealt to ranks and stored in checkpoints."""
