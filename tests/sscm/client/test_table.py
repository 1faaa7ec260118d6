from __future__ import annotations

import io

from rich.console import Console

from sscm.client.answers import Hit, read_answers
from sscm.client.table import print_answers


def printed(answer):
    console = Console(width=160, record=True, file=io.StringIO())
    print_answers(read_answers(answer, Hit), console)
    return console.export_text()


def line_of(text, word):
    return next(line for line in text.splitlines() if word in line)


def test_answers_are_printed_with_rank_id_score_labels_time_and_place(answer):
    answer["sscm"] |= {"simulated": False, "complete": True}
    del answer["features"][1]
    text = printed(answer)
    assert "1 of 1,234 s2 images" in text
    for part in ("1", "0.9877", "Pastures", "2018-06-01T10:00:00Z", "2.500° S, 0.750° W"):
        assert part in line_of(text, "p[1]")
    assert "image" not in text.splitlines()[2] and "simulated" not in text and "did not answer" not in text


def test_of_several_modalities_each_answer_says_its_own(answer):
    text = printed(answer)
    assert "2 of 1,234 s2 and s1 images" in text
    assert "s2" in line_of(text, "p[1]") and "s1" in line_of(text, "p/2")
    assert "simulated: nothing here was observed" in text
    assert "Some index shards did not answer" in text


def test_nothing_found_is_an_empty_table(answer):
    answer["features"] = []
    assert "0 of 1,234 images" in printed(answer)


def test_a_place_across_the_antimeridian_is_there(answer):
    answer["features"][0]["bbox"] = [179.0, 10.0, -178.0, 12.0]
    assert "11.000° N, 179.500° W" in printed(answer)
