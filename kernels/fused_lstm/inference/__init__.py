"""Weights that are packed once, and CUDA graphs."""
