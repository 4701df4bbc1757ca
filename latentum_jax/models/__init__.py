"""The architecture of LatentUM (section 3.1): pure functions of (params, inputs)."""
