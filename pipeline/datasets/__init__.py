"""Adapters that turn public data sets into exposure, click and purchase logs."""
