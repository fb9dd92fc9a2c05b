"""Data, from a bucket to a batch: object storage, shard index, order, reading, decoding, packing.

The chain: pack (or index) writes tar shards and their index; a Dataset opens the index; the order says which
sample is item i; blocks fetches byte ranges and proves them; decode and augment make pixels; the loader hands
out micro-batches.

Knows webdataset and boto3. Knows nothing of models, workers or runs. Importing this package loads none of
them: import the module you need (`data_pipeline.storage`, `data_pipeline.index`, ...).
"""
