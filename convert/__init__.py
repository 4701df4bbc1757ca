"""Published torch checkpoints to ours and back: one table per model, walked both ways."""
