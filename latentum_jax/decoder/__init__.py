"""z_q -> pixels: MMDiT-X, the VAE, flow matching and its Euler sampler (section 3.1.4)."""
