"""Saliency models: from a photograph to a map of where people look. One model a file."""
