"""Exact nearest neighbours of rows in memory and in files."""
