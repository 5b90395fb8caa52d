"""Engines that are PyTorch's own code."""
