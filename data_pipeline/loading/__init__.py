"""Samples' bytes, proven and in memory before their turn, and the batches made of them."""
