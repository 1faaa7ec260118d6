import pickle

import pytest

from sscm import errors
from sscm.errors import BandMismatchError, PairError, SscmError


def test_every_error_is_drawn_in_the_tree():
    found = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, SscmError)]
    assert len(found) > 10
    for error in found:
        assert error.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize(
    "error",
    [PairError("a.tif", "3 bands", "2 bands", pair_id="p"), BandMismatchError(["VH"], ["VV", "VH"], "a.tif")],
)
def test_errors_survive_the_way_between_processes(error):
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert vars(again) == vars(error)
