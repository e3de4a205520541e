"""Pictures of the study: photographs and rankings, maps and words, curves and comparisons.

Every function returns a closed matplotlib Figure, so that a notebook cell that ends with the call
shows it once, and a script can save it.
"""

from blcf_utils.plots.comparison import (
    plot_costs,
    plot_dimensions,
    plot_region_shares,
    show_pooling,
    show_position_weights,
    show_regions,
    show_rmac_weights,
)
from blcf_utils.plots.conclusion import plot_claims, plot_ladder, plot_networks
from blcf_utils.plots.curves import (
    plot_codebook_sizes,
    plot_curves,
    plot_kmeans,
    plot_paired_queries,
    plot_precision_recall,
    plot_variances,
    plot_word_frequencies,
)
from blcf_utils.plots.finetuning import draw_networks, plot_mining, plot_training, show_triplets
from blcf_utils.plots.inverted import draw_inverted_file
from blcf_utils.plots.keypoints import show_keypoints, show_matches
from blcf_utils.plots.localised import (
    show_found,
    show_localisations,
    show_views,
    show_windows,
)
from blcf_utils.plots.maps import (
    common_words,
    show_assignment_maps,
    show_box_words,
    show_channels,
    show_interpolation,
    show_matching_words,
    show_receptive_field,
    show_similarity,
    show_word_patches,
)
from blcf_utils.plots.photographs import show_queries, show_ranking, show_rankings
from blcf_utils.plots.pipeline import draw_pipeline
from blcf_utils.plots.saliency import (
    plot_gains,
    plot_quality,
    plot_query_gains,
    show_conspicuity,
    show_saliency,
    show_weighted_results,
    show_weighted_words,
)
from blcf_utils.plots.scaling import (
    plot_costs_by_size,
    plot_laws,
    plot_likeness,
    plot_map_by_size,
)
from blcf_utils.plots.sketches import draw_methods
from blcf_utils.plots.slopes import plot_slopes

__all__ = [
    "common_words",
    "draw_inverted_file",
    "draw_methods",
    "draw_networks",
    "draw_pipeline",
    "plot_claims",
    "plot_codebook_sizes",
    "plot_costs",
    "plot_costs_by_size",
    "plot_curves",
    "plot_dimensions",
    "plot_gains",
    "plot_kmeans",
    "plot_ladder",
    "plot_laws",
    "plot_likeness",
    "plot_map_by_size",
    "plot_mining",
    "plot_networks",
    "plot_paired_queries",
    "plot_precision_recall",
    "plot_quality",
    "plot_query_gains",
    "plot_region_shares",
    "plot_slopes",
    "plot_training",
    "plot_variances",
    "plot_word_frequencies",
    "show_assignment_maps",
    "show_box_words",
    "show_channels",
    "show_conspicuity",
    "show_found",
    "show_interpolation",
    "show_keypoints",
    "show_localisations",
    "show_matches",
    "show_matching_words",
    "show_pooling",
    "show_position_weights",
    "show_queries",
    "show_ranking",
    "show_rankings",
    "show_receptive_field",
    "show_regions",
    "show_rmac_weights",
    "show_saliency",
    "show_similarity",
    "show_triplets",
    "show_views",
    "show_weighted_results",
    "show_weighted_words",
    "show_windows",
    "show_word_patches",
]
