"""The BLCF study's code: see DEVELOPERS.md for the rooms."""

from blcf_utils.ground.cores import settle_threads

settle_threads()  # before torch and NumPy are loaded
