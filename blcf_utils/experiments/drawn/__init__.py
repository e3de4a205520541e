"""Databases of any size: bags of words drawn from a law that photographs follow, and their cost."""
