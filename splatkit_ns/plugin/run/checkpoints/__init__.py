"""The state of a run in checkpoints: collected and restored, saved while a run trains, and gone on from."""
