"""Tar shards and what is known of them: reading tars strictly, labels, the index and its building, verifying.

Nothing here decodes for training or decides an order; `dataset.Dataset` is what the rest of the pipeline opens.
"""
