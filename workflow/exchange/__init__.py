"""Vectors and neighbour lists as NumPy arrays and Parquet, for other tools."""
