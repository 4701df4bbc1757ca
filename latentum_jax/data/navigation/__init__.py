"""A small world to walk through, and trajectories of frames and poses on disk (appendix D)."""
