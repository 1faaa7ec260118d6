"""How well images are found across sensors.

Here is the pure core: metrics, protocols, figures. :mod:`sscm.evaluation.evaluate` measures the index of a workspace,
:mod:`sscm.evaluation.report` and :mod:`sscm.evaluation.gallery` show what came out.
"""

from sscm.evaluation.figures import Evaluation, Figure
from sscm.evaluation.metrics import (
    cover_distance,
    f1_of_means,
    mean_average_precision,
    mean_pair_f1,
    median_rank,
    modality_gap,
    partner_ranks,
    precision_at_k,
    recall_at,
    top_k,
)
from sscm.evaluation.protocols import Direction, Metric, Protocol, directions

__all__ = [
    "Direction",
    "Evaluation",
    "Figure",
    "Metric",
    "Protocol",
    "cover_distance",
    "directions",
    "f1_of_means",
    "mean_average_precision",
    "mean_pair_f1",
    "median_rank",
    "modality_gap",
    "partner_ranks",
    "precision_at_k",
    "recall_at",
    "top_k",
]
