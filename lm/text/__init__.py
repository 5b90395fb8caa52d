"""Texts: where they come from, their words as ids, and ids in batches."""
