"""Inputs and outputs behind URLs: files of object stores (``s3://``, ``gs://``, ``az://``) and of web servers."""
