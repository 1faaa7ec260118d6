"""Experiments: runs compared on the same data, budget and seeds, from one file to one table and one plot.

Here is what an experiment says and what its trials compute; :mod:`sscm.experiment.launch` runs it on Ray,
:mod:`sscm.experiment.table` and :mod:`sscm.experiment.plot` show what came out.
"""

from sscm.experiment.spec import Baselines, Expectation, Experiment, Run, parse_experiment, read_experiment
from sscm.experiment.trials import Trial, plan_trials

__all__ = [
    "Baselines",
    "Expectation",
    "Experiment",
    "Run",
    "Trial",
    "parse_experiment",
    "plan_trials",
    "read_experiment",
]
