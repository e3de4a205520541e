"""The experiments behind the tables: each function measures, writes its table and returns it.

A cell is measured by the run that writes it or says why it was not run. Tables stand in
``results/<profile>/tables``, APs of every query in ``per_query``.
"""

from blcf_utils.experiments.backbones import backbones_table, network_gains
from blcf_utils.experiments.burstiness import burstiness_table
from blcf_utils.experiments.codebook import codebook_size_table
from blcf_utils.experiments.compactness import (
    dimension_table,
    index_weights,
    quantisation_table,
)
from blcf_utils.experiments.comparison import (
    compactness_table,
    compare_methods,
    comparison_table,
    expansion_table,
    method_gains,
    state_of_the_art_table,
)
from blcf_utils.experiments.conclusion import claim_differences, search_ladder
from blcf_utils.experiments.datasets import datasets_table
from blcf_utils.experiments.distractors import distractor_curve
from blcf_utils.experiments.efficiency import efficiency_table
from blcf_utils.experiments.finetuning import (
    finetuned_instre_table,
    finetuned_oxford_table,
    finetuned_words_table,
    finetuning_gains,
    mining_table,
    projection_table,
    seen_instances_table,
    training_curves,
)
from blcf_utils.experiments.fusion import fusion_curve, fusion_table
from blcf_utils.experiments.localisation import localisation_table
from blcf_utils.experiments.measuring import gain
from blcf_utils.experiments.overview import (
    claims_table,
    complete_tables,
    intervals_table,
    summary_table,
)
from blcf_utils.experiments.pooling import pooling_table
from blcf_utils.experiments.resizing import resizing_table
from blcf_utils.experiments.saliency import quality_against_map, saliency_table
from blcf_utils.experiments.scaling import (
    among_own,
    measure_scaling,
    scaling_table,
)
from blcf_utils.experiments.search import search_table
from blcf_utils.experiments.weighting import (
    query_gains,
    weighted_sum_pooling_table,
    weighted_words_table,
    weighting_gains,
)

__all__ = [
    "among_own",
    "backbones_table",
    "burstiness_table",
    "claim_differences",
    "claims_table",
    "codebook_size_table",
    "compactness_table",
    "compare_methods",
    "comparison_table",
    "complete_tables",
    "datasets_table",
    "dimension_table",
    "distractor_curve",
    "efficiency_table",
    "expansion_table",
    "finetuned_instre_table",
    "finetuned_oxford_table",
    "finetuned_words_table",
    "finetuning_gains",
    "fusion_curve",
    "fusion_table",
    "gain",
    "index_weights",
    "intervals_table",
    "localisation_table",
    "measure_scaling",
    "method_gains",
    "mining_table",
    "network_gains",
    "pooling_table",
    "projection_table",
    "quality_against_map",
    "quantisation_table",
    "query_gains",
    "resizing_table",
    "saliency_table",
    "scaling_table",
    "search_ladder",
    "search_table",
    "seen_instances_table",
    "state_of_the_art_table",
    "summary_table",
    "training_curves",
    "weighted_sum_pooling_table",
    "weighted_words_table",
    "weighting_gains",
]
