import threading

import pytest
import ray

from sscm.polling import polling


def test_it_looks_while_the_block_runs_and_once_after():
    seen = threading.Event()
    calls = []

    def look():
        calls.append(threading.current_thread().name)
        seen.set()

    with polling(look, 0.001):
        assert seen.wait(5)
    assert calls[0] == "polling" and calls[-1] == threading.current_thread().name


def test_a_lost_actor_is_passed_over_and_other_faults_are_not():
    def lost():
        raise ray.exceptions.RayActorError()

    with polling(lost, 10):
        pass

    def wrong():
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"), polling(wrong, 10):
        pass
