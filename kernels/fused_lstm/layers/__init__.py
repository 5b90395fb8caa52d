"""Layers: torch.nn's modules on this library's engines, cells of one's own, streams."""
