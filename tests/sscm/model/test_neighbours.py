"""The rules by which neighbours are found, against loops."""

import pytest
import torch
from torch.nn import functional as F

from sscm.config import ObjectiveConfig
from sscm.model.gather import Layout
from sscm.model.neighbours import NeighbourQueue, key_of, mutual, nearest_agreed, nearest_other, neighbours_of


def unit(rows, dimension, seed):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dimension, generator=generator, dtype=torch.float64), dim=1)


def best_other(similarity, row):
    return max((float(value), j) for j, value in enumerate(similarity[row]) if j != row)[1]


@pytest.mark.parametrize("elements", [2**24, 12 * 2, 1])
def test_nearest_other_against_a_loop_and_never_itself(elements):
    batch = unit(12, 4, 0)
    batch[5] = batch[3]  # a duplicate is a neighbour, the image itself is not
    for start in (0, 4, 8):
        found = nearest_other(batch[start : start + 4], batch, start, elements)
        for row in range(4):
            others = [(float(batch[start + row] @ batch[j]), j) for j in range(12) if j != start + row]
            assert float(batch[start + row] @ batch[found[row]]) == pytest.approx(max(others)[0])
            assert int(found[row]) != start + row
    assert int(nearest_other(batch[3:4], batch, 3)[0]) == 5
    assert nearest_other(batch[:0], batch, 0).shape == (0,)


def test_agreed_neighbours_are_nearest_by_the_mean_over_modalities():
    first, second = unit(10, 4, 0), unit(10, 6, 1)
    similarity = (first @ first.T + second @ second.T) / 2
    found = nearest_agreed([first, second], [first, second], 0)
    assert found.tolist() == [best_other(similarity, row) for row in range(10)]
    chosen = neighbours_of({"s1": first, "s2": second[:, :4]}, Layout((10,)), ObjectiveConfig(neighbours="agreed"))
    rows = nearest_agreed([first, second[:, :4]], [first, second[:, :4]], 0)
    assert torch.equal(chosen["s1"].embeddings, first[rows])  # one neighbour for all modalities
    assert torch.equal(chosen["s2"].embeddings, second[rows, :4])


def test_mutual_neighbours_choose_one_another():
    batch = unit(10, 3, 0)
    rows = nearest_other(batch, batch, 0)
    both = mutual(rows, Layout((10,)))
    assert both.tolist() == [int(rows[rows[i]]) == i for i in range(10)]
    assert 0 < int(both.sum()) < 10
    neighbours = neighbours_of({"s1": batch}, Layout((10,)), ObjectiveConfig(neighbours="mutual"))
    assert torch.equal(neighbours["s1"].found, both)


@pytest.mark.parametrize("stop", [True, False])
def test_the_gradient_stops_at_neighbours_if_told_so(stop):
    batch = unit(6, 3, 0).requires_grad_()
    config = ObjectiveConfig(isp_stop_gradient=stop)
    assert neighbours_of({"s1": batch}, Layout((6,)), config)["s1"].embeddings.requires_grad is not stop


@pytest.mark.parametrize("rule", ["batch", "mutual", "agreed"])
def test_one_image_has_no_neighbour(rule):
    found = neighbours_of({"s1": unit(1, 3, 0)}, Layout((1,)), ObjectiveConfig(neighbours=rule))["s1"].found
    assert found.tolist() == [False]


def test_the_queue_holds_the_newest_and_never_gives_the_image_itself():
    queue = NeighbourQueue(6)
    images = unit(8, 4, 0)
    queue.push({"s1": images[:4]}, torch.arange(4))
    queue.push({"s1": images[4:]}, torch.arange(4, 8))  # 0 and 1 stay of the first four
    queries = images[[0, 2, 4]]
    found = queue.nearest("s1", queries, torch.tensor([0, 2, 4]))
    held = [4, 5, 6, 7, 0, 1]
    for row, number in enumerate((0, 2, 4)):
        expected = max(held, key=lambda j: float(queries[row] @ images[j]) if j != number else -2.0)
        assert torch.equal(found.embeddings[row], images[expected])
    assert found.found.all() and not found.embeddings.requires_grad


def test_an_empty_queue_and_one_of_nothing_but_itself_have_no_neighbour():
    queue, images = NeighbourQueue(4), unit(2, 3, 0)
    assert not queue.nearest("s1", images, torch.arange(2)).found.any()
    queue.push({"s1": images[:1]}, torch.tensor([0]))
    assert queue.nearest("s1", images, torch.arange(2)).found.tolist() == [False, True]


def test_a_queue_goes_on_from_its_state(tmp_path):
    queue, again = NeighbourQueue(4), NeighbourQueue(4)
    queue.push({"s1": unit(3, 3, 0)}, torch.arange(3))
    torch.save(queue.state_dict(), tmp_path / "state.pt")
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    query = (unit(2, 3, 5), torch.tensor([7, 8]))
    assert torch.equal(queue.nearest("s1", *query).embeddings, again.nearest("s1", *query).embeddings)


def test_keys_of_pairs_are_the_same_everywhere():
    assert key_of(["pair_0001", ""]) == [-3981631322102307634, key_of([""])[0]]
    assert len(set(key_of([f"pair_{i}" for i in range(10000)]))) == 10000
