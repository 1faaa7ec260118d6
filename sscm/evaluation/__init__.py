"""How well images are found across sensors.

Here is the pure core: metrics, protocols, figures. :mod:`sscm.evaluation.evaluate` measures the index of a workspace,
:mod:`sscm.evaluation.report` and :mod:`sscm.evaluation.gallery` show what came out.
"""

from sscm.evaluation.figures import Evaluation, Figure
from sscm.evaluation.geometry import alignment, modality_gap, uniformity
from sscm.evaluation.metrics import mean_average_precision, median_rank, partner_ranks, recall_at, top_k
from sscm.evaluation.protocols import Direction, Metric, Protocol, choose_protocol, directions
from sscm.evaluation.relevance import (
    average_precision_at_k,
    cover_distance,
    f1_at_rank,
    f1_of_means,
    mean_pair_f1,
    precision_at_k,
)

__all__ = [
    "Direction",
    "Evaluation",
    "Figure",
    "Metric",
    "Protocol",
    "alignment",
    "average_precision_at_k",
    "choose_protocol",
    "cover_distance",
    "directions",
    "f1_at_rank",
    "f1_of_means",
    "mean_average_precision",
    "mean_pair_f1",
    "median_rank",
    "modality_gap",
    "partner_ranks",
    "precision_at_k",
    "recall_at",
    "top_k",
    "uniformity",
]
