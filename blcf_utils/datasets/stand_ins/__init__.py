"""Rehearsals: the study at a benchmark's true size, on pictures that stand in for its own."""
