"""FrozenLake: mazes, their pictures, questions about them, interleaved samples."""
