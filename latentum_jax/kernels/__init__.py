"""Kernels in Pallas, one body for GPU (Triton) and TPU (Mosaic), each beside its twin in plain JAX.

`dispatch` has the one rule of which of the two a program uses.
"""
