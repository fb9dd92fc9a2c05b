"""Data, from a bucket to a batch.

    storage/    objects under a url: a bucket or a folder
    shards/     tar shards: their labels, their index, the data set it opens
    packing/    images, wherever they lie, into shards
    order, feistel, geometry    which sample is item i of a run
    loading/    samples' bytes, proven, in memory before their turn; batches
    pixels/     from an image's bytes to its pixels

Knows webdataset and boto3. Knows nothing of models, workers or runs. Importing this package loads none of
them: import the module you need (`data_pipeline.storage`, `data_pipeline.shards.dataset`, ...).
"""
