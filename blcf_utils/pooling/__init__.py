"""Pooling methods: one global vector per image. One method a file."""
