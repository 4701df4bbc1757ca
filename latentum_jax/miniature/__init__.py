"""The paper in miniature: its comparisons at tiny size, a few seeds each, in one report."""
