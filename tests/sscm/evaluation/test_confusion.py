import dataclasses

import numpy as np
import pytest

from sscm.evaluation.collection import Collection
from sscm.evaluation.confusion import (
    MOST_CLASSES,
    NOTHING,
    OTHER,
    confusion,
    confusion_counts,
    confusion_panel,
)
from sscm.evaluation.protocols import Direction, Protocol

CROSS = Direction("s1", "s2")
APART = Protocol(query_split="validation", archive_split="test", ks=(1,))


def collection(labels, classes, **changes):
    images = len(labels)
    vectors = np.eye(images, dtype=np.float32)
    made = Collection(
        ids=[f"p{i}" for i in range(images)],
        vectors={"s1": vectors, "s2": vectors},
        present={name: np.ones(images, bool) for name in ("s1", "s2")},
        labels=np.array(labels, bool),
        classes=classes,
    )
    return dataclasses.replace(made, **changes)


def test_counts_equal_the_obvious_loop():
    rng = np.random.default_rng(0)
    of_queries, of_archive = rng.random((7, 5)) < 0.5, rng.random((9, 5)) < 0.5
    answers = rng.integers(9, size=(7, 3))
    expected = np.zeros((5, 6))
    for query, row in zip(of_queries, answers, strict=True):
        for answer in row:
            asked, found = set(np.flatnonzero(query)), set(np.flatnonzero(of_archive[answer]))
            for label in asked:
                if label in found:
                    expected[label, label] += 1
                elif found - asked:
                    for other in found - asked:
                        expected[label, other] += 1 / len(found - asked)
                else:
                    expected[label, 5] += 1
    counts = confusion_counts(of_queries, of_archive, answers)
    assert counts == pytest.approx(expected)
    assert counts.sum(axis=1) == pytest.approx(3 * of_queries.sum(axis=0))


def test_the_same_labels_give_a_diagonal():
    images = collection([[1, 1, 0], [0, 1, 1], [1, 0, 0]], ("a", "b", "c"))
    found = confusion(images, images, CROSS, APART)
    assert found.rows == ("a", "b", "c") and found.columns == ("a", "b", "c", NOTHING)
    assert np.array_equal(found.shares, np.eye(3, 4))


def test_the_own_pair_and_images_that_take_no_part():
    labels = [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]]
    images = collection(labels, ("a", "b", "c"))
    same = dataclasses.replace(APART, query_split="test")
    vectors = np.array([[1, 0, 0], [0, 1, 0], [0.9, 0, 0.4], [0, 1, 0]], np.float32)
    images = dataclasses.replace(images, vectors={"s1": vectors, "s2": vectors})
    found = confusion(images, images, CROSS, same)
    # The image without labels is nearest to the second, which so finds the first: nobody else has b.
    assert found.rows == ("a", "b") and found.columns == ("a", "b", NOTHING)
    assert found.shares.tolist() == [[1, 0, 0], [1, 0, 0]]


def test_nothing_without_labels_names_or_images():
    images = collection([[1, 0], [0, 1]], ("a", "b"))
    assert confusion(dataclasses.replace(images, labels=None), images, CROSS, APART) is None
    assert confusion(dataclasses.replace(images, classes=()), images, CROSS, APART) is None
    assert confusion(images, images, CROSS, dataclasses.replace(APART, ks=(3,))) is None


def test_rare_classes_share_a_row():
    classes = tuple(f"class {i:02d} of a very long name indeed" for i in range(30))
    images = collection(np.eye(30, dtype=bool), classes)
    found = confusion(images, images, CROSS, APART)
    assert len(found.rows) == MOST_CLASSES and found.rows[-1] == OTHER
    assert found.columns[-2:] == (OTHER, NOTHING)
    assert np.array_equal(found.shares, np.eye(MOST_CLASSES, MOST_CLASSES + 1))
    panel = confusion_panel(found, "A → B", 1)
    assert 'role="img"' in panel.svg and "class 00 of a very long nam…" in panel.svg
    assert "Confusion of classes, A → B, first 1 answers: class 00 of a very long name indeed 100%" in panel.svg
