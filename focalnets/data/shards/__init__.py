"""Shards: files of many images, such as tar files of WebDataset and Parquet files, local or remote."""
