from xml.etree import ElementTree

import pytest

from sscm.evaluation.curves import training_curves

EPOCHS = [
    {
        "epoch": n,
        "loss": 4.0 / n,
        "mim": 3.0 / n,
        "mde": 0.5,
        "isp": -0.1 * n,
        "validation": {"s1->s2": {"recall@10": 0.1}},
    }
    for n in (1, 2, 3)
]


def test_panels():
    curves = training_curves(EPOCHS)
    assert [c.title.split(",")[0] for c in curves] == [
        "Joint loss",
        "L_MIM",
        "L_MDE",
        "L_ISP",
        "Partner recall@10 on the validation split",
    ]
    for curve in curves:
        root = ElementTree.fromstring(curve.svg)
        assert root.tag.endswith("svg")
    assert "s1→s2" in curves[-1].svg


@pytest.mark.parametrize("epochs", [1, 3])
def test_each_epoch_has_its_marker(epochs):
    (joint, *_) = training_curves(EPOCHS[:epochs])
    assert joint.svg.count('<use xlink:href="#') >= epochs


def test_nothing_to_draw():
    assert training_curves([]) == []
    without = [{**epoch, "validation": {}} for epoch in EPOCHS]
    assert len(training_curves(without)) == 4


def test_the_same_curves_are_the_same_bytes():
    assert training_curves(EPOCHS) == training_curves(EPOCHS)
