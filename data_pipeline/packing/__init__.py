"""Images from where they lie to shards: sources (folders, ImageNet's tars, tables) and the writing of a data set."""
