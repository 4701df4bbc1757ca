"""Generation: every loop is one compiled program, with the KV cache in its carry."""
