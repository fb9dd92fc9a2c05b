"""Loaders that make the same batches: uint8 [64, 224, 224, 3] of random resized crops, mirrored by chance, shuffled, without end.

One file each, run as `python -m benchmarks.data.competitors.NAME FOLDER FILTER`, FOLDER being that of the pictures and FILTER bilinear or
bicubic. What a peer needs in a format of its own it makes there first (`PREPARE` instead of FILTER). One thread, no worker processes.
"""
