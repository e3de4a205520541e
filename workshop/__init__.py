"""The trainings that made what is in ``data/embedded``; the study itself imports none of it.

They are run from the repository's folder: ``python -m workshop.saliency_training NAME``,
``python -m workshop.words_learning NAME``.
"""
