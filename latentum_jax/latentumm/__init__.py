"""LatentUMM (arXiv 2605.17766): one latent space for what a model reads and what it draws."""
