"""Checkpoints elsewhere: opened from their headers by ranged reads, from the Hub (`hf:`) or any file system that fsspec knows (`s3://` ...)."""

from weightspace.remote.opening import is_remote, open_remote

__all__ = ["is_remote", "open_remote"]
