"""Calls of one index shard over real sockets: in batches, in time, and to a replica that answers if there is one."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import pickle
import socket
import threading
import time

import numpy as np
import pytest
from ray.dag.py_obj_scanner import _PyObjScanner
from ray.serve.handle import DeploymentHandle

from serve import fanout
from serve.api import HttpProblem
from serve.calls import Lost
from serve.channel import Busy, ChannelServer
from serve.fanout import FLIGHTS, MAX_QUERIES, ShardClient
from serve.messages import ShardAnswer, ShardHit, ShardQuery, pack_answers, unpack_queries
from sscm.errors import GenerationError, QueryError, ServiceError

pytestmark = pytest.mark.timeout(60)

SECRET = "s" * 64


class Replica:
    """A replica that answers a query with its number: the first component of its vector.

    Args:
        name: in the answers, too.
        delay: seconds that a call takes.
        raises: raised by every call.
        holding: calls wait until :attr:`go` is set.
    """

    def __init__(self, name="a", delay=0.0, raises=None, holding=False):
        self.name, self.delay, self.raises = name, delay, raises
        self.go = threading.Event()
        if not holding:
            self.go.set()
        self.frames, self.ended = [], 0
        self.server = ChannelServer("127.0.0.1", SECRET, self.answer)

    @property
    def address(self):
        return self.server.address

    @property
    def sizes(self):
        return [len(numbers) for _, _, numbers in self.frames]

    async def answer(self, method, arguments, seconds):
        generation, *rest = arguments
        queries = unpack_queries(rest[0]) if method == "search" else []
        self.frames.append((method, generation, [int(query.vector[0]) for query in queries]))
        try:
            while not self.go.is_set():
                await asyncio.sleep(0.005)
            await asyncio.sleep(self.delay)
        finally:
            self.ended += 1
        if self.raises is not None:
            raise self.raises
        if method != "search":
            return [self.name, method, *arguments]
        return pack_answers([self._one(generation, query) for query in queries])

    def _one(self, generation, query):
        number = int(query.vector[0])
        if number < 0:
            return QueryError(f"query {number}")
        return ShardAnswer([ShardHit(f"{self.name} {generation} {number}", 0.5, b"{}")], generation)


@pytest.fixture
def replica():
    """Makes replicas that are stopped at the end."""
    with contextlib.ExitStack() as stack:

        def make(*args, **options):
            made = Replica(*args, **options)
            stack.callback(made.server.stop)
            return made

        yield make


def query(number, k=3):
    return ShardQuery(vector=np.float32([number, 0]), target="s2", k=k)


def client_of(*replicas):
    client = ShardClient(SECRET)
    client.follow({replica.name: replica.address for replica in replicas})
    return client


async def searched(client, number, generation=1, seconds=10.0, k=3):
    """Pair that is found, and the size of the batch."""
    answer, batch = await client.search(generation, query(number, k), seconds)
    return answer.hits[0].pair_id, batch


async def eventually(holds, seconds=5.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "did not become so in time"
        await asyncio.sleep(0.005)


def sockets():
    """Sockets of this process."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{name}").startswith("socket:"))
    return sum(found)


def run(scenario, client):
    """Run a scenario; then no task, no socket and no complaint may be left of it."""
    told = []

    async def whole():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        before = sockets()
        async with asyncio.timeout(30):
            value = await scenario
        client.close()
        await eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()})
        assert client.waiting == 0
        await eventually(lambda: sockets() <= before)  # those of the callers, and of the servers that took them
        return value

    value = asyncio.run(whole())
    gc.collect()
    assert told == []
    return value


def test_queries_that_wait_go_in_one_call_while_others_are_answered(replica):
    one = replica(holding=True)
    client = client_of(one)

    async def scenario():
        asked = [asyncio.create_task(searched(client, number)) for number in range(100)]
        await eventually(lambda: len(one.frames) == FLIGHTS)
        assert one.sizes == [1, 1]  # the first does not wait for company
        assert client.waiting == 98
        one.go.set()
        found = await asyncio.gather(*asked)
        assert [pair_id for pair_id, _ in found] == [f"a 1 {number}" for number in range(100)]
        assert one.sizes == [1, 1, MAX_QUERIES, 34]
        assert [batch for _, batch in found] == [1, 1, *[MAX_QUERIES] * 64, *[34] * 34]

    run(scenario(), client)


def test_a_batch_is_of_one_generation(replica):
    one = replica(holding=True)
    client = client_of(one)
    generations = [1, 1, 1, 1, 2, 2, 1, 3, 3, 3]

    async def scenario():
        asked = [asyncio.create_task(searched(client, n, generation)) for n, generation in enumerate(generations)]
        await eventually(lambda: len(one.frames) == FLIGHTS)
        one.go.set()
        found = await asyncio.gather(*asked)
        assert [pair_id for pair_id, _ in found] == [f"a {g} {n}" for n, g in enumerate(generations)]
        frames = [(generation, numbers) for _, generation, numbers in one.frames]
        assert frames == [(1, [0]), (1, [1]), (1, [2, 3]), (2, [4, 5]), (1, [6]), (3, [7, 8, 9])]

    run(scenario(), client)


def test_a_call_asks_for_no_more_answers_than_a_message_holds(replica, monkeypatch):
    monkeypatch.setattr(fanout, "MAX_ANSWERS", 25)
    one = replica(holding=True)
    client = client_of(one)

    async def scenario():
        wanted = [10, 10, 10, 10, 10, 1000, 5, 5]
        asked = [asyncio.create_task(searched(client, n, k=k)) for n, k in enumerate(wanted)]
        await eventually(lambda: len(one.frames) == FLIGHTS)
        one.go.set()
        await asyncio.gather(*asked)
        assert [numbers for _, _, numbers in one.frames] == [[0], [1], [2, 3], [4], [5], [6, 7]]

    run(scenario(), client)


def test_a_query_that_is_wrong_leaves_the_others_of_its_batch_alone(replica):
    one = replica(holding=True)
    client = client_of(one)

    async def scenario():
        asked = [asyncio.create_task(searched(client, number)) for number in (0, 1, 2, -3, 4)]
        await eventually(lambda: len(one.frames) == FLIGHTS)
        one.go.set()
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert one.sizes == [1, 1, 3]
        assert isinstance(outcomes[3], QueryError)
        assert str(outcomes[3]) == "query -3"
        assert [outcomes[n][0] for n in (0, 1, 2, 4)] == ["a 1 0", "a 1 1", "a 1 2", "a 1 4"]

    run(scenario(), client)


def test_who_leaves_does_not_harm_the_others_and_is_not_asked_for_if_he_still_waited(replica):
    one = replica(holding=True)
    client = client_of(one)

    async def scenario():
        asked = [asyncio.create_task(searched(client, number)) for number in range(10)]
        await eventually(lambda: len(one.frames) == FLIGHTS)
        for gone in (1, 4, 9):  # the first of these is on its way
            asked[gone].cancel()
        await asyncio.sleep(0)
        one.go.set()
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [isinstance(outcome, asyncio.CancelledError) for outcome in outcomes] == [
            number in (1, 4, 9) for number in range(10)
        ]
        assert [numbers for _, _, numbers in one.frames] == [[0], [1], [2, 3, 5, 6, 7, 8]]

    run(scenario(), client)


def test_all_may_leave_and_the_next_is_answered(replica):
    one = replica(holding=True)
    client = client_of(one)

    async def scenario():
        asked = [asyncio.create_task(searched(client, number)) for number in range(10)]
        await eventually(lambda: len(one.frames) == FLIGHTS)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        one.go.set()
        assert (await searched(client, 11))[0] == "a 1 11"

    run(scenario(), client)


def test_one_with_little_time_left_does_not_cost_the_others_of_its_batch_theirs(replica):
    one = replica(delay=0.3)
    client = client_of(one)

    async def scenario():
        first = [asyncio.create_task(searched(client, number)) for number in range(FLIGHTS)]
        await eventually(lambda: len(one.frames) == FLIGHTS)
        hurried = asyncio.create_task(searched(client, 10, seconds=0.4))
        others = [asyncio.create_task(searched(client, number)) for number in (11, 12)]
        outcomes = await asyncio.gather(*first, hurried, *others, return_exceptions=True)
        assert one.frames[-1][2] == [10, 11, 12]
        assert isinstance(outcomes[FLIGHTS], Lost)
        assert (outcomes[FLIGHTS].status, outcomes[FLIGHTS].why) == (504, "no answer within 0.4 s")
        assert [outcome[0] for outcome in outcomes[FLIGHTS + 1 :]] == ["a 1 11", "a 1 12"]

    run(scenario(), client)


def test_a_replica_that_dies_in_mid_call_costs_a_retry(replica):
    dying, other = replica("a", holding=True), replica("b")
    client = client_of(dying, other)

    async def scenario():
        asked = [asyncio.create_task(searched(client, number)) for number in range(3)]
        calls = [asyncio.create_task(client.call("find", [1, "x"], 10)) for _ in range(3)]
        await eventually(lambda: dying.frames)
        await asyncio.to_thread(dying.server.stop)
        assert [pair_id for pair_id, _ in await asyncio.gather(*asked)] == [f"b 1 {number}" for number in range(3)]
        assert await asyncio.gather(*calls) == [["b", "find", 1, "x"]] * 3
        begun = time.monotonic()
        for number in range(20):
            assert (await searched(client, number))[0] == f"b 1 {number}"
        assert time.monotonic() - begun < 2  # the dead one is not asked each time

    run(scenario(), client)


def test_a_replica_that_was_lost_and_is_back_is_asked_again(replica, monkeypatch):
    monkeypatch.setattr(fanout, "SHUNNED_S", 0.3)
    one, other = replica("a"), replica("b")
    client = client_of(one, other)

    async def scenario():
        assert (await searched(client, 0))[0] == "a 1 0"
        client._replicas["a"]._connection._transport.abort()  # the network does that
        await asyncio.sleep(0.01)
        one.go.clear()
        with pytest.raises(Lost):  # connected anew, it does not answer in time
            await searched(client, 1, seconds=0.2)
        one.go.set()
        assert (await searched(client, 2))[0] == "a 1 2"
        client._replicas["a"]._shunned_until = time.monotonic() + fanout.SHUNNED_S
        assert (await searched(client, 3))[0] == "b 1 3"
        await asyncio.sleep(0.4)
        assert (await searched(client, 4))[0] == "a 1 4"

    run(scenario(), client)


def test_without_a_replica_that_lives_the_shard_is_lost_at_once(replica):
    dead = [replica(name) for name in "ab"]
    client = client_of(*dead)
    for one in dead:
        one.server.stop()

    async def scenario():
        begun = time.monotonic()
        outcomes = await asyncio.gather(
            *(searched(client, number) for number in range(200)),
            *(client.call("find", [1, "x"], 10) for _ in range(20)),
            return_exceptions=True,
        )
        assert {(type(o), o.status, o.why) for o in outcomes} == {(Lost, 503, "its replica died")}
        assert time.monotonic() - begun < 5

    run(scenario(), client)


def test_a_shard_without_replicas_is_lost():
    client = ShardClient(SECRET)

    async def scenario():
        with pytest.raises(Lost):
            await searched(client, 1)
        with pytest.raises(Lost):
            await client.call("find", [1, "x"], 10)

    run(scenario(), client)


def test_a_slow_replica_is_lost_within_the_time_and_not_twice_that(replica):
    slow, other = replica("a", holding=True), replica("b", holding=True)
    client = client_of(slow, other)

    async def scenario():
        begun = time.monotonic()
        outcomes = await asyncio.gather(
            *(searched(client, number, seconds=0.3) for number in range(100)),
            *(client.call("find", [1, "x"], 0.3) for _ in range(10)),
            return_exceptions=True,
        )
        assert 0.25 < time.monotonic() - begun < 1.5
        assert {(type(o), o.status, o.why) for o in outcomes} == {(Lost, 504, "no answer within 0.3 s")}
        slow.go.set()
        other.go.set()
        assert (await searched(client, 7))[1] == 1
        await eventually(lambda: slow.ended == len(slow.frames) and other.ended == len(other.frames))

    run(scenario(), client)


@contextlib.contextmanager
def deaf():
    """An address that neither answers nor refuses: its queue of connections is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening, contextlib.ExitStack() as stack:
        for _ in range(4):
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(listening.getsockname())
        yield listening.getsockname()


def test_all_who_wait_for_a_connection_wait_for_the_same_one(replica, monkeypatch):
    monkeypatch.setattr(fanout, "CONNECT_S", 0.5)
    other = replica("b")
    client = ShardClient(SECRET)

    async def scenario(address):
        client.follow({"a": address, "b": other.address})
        begun = time.monotonic()
        found = await asyncio.gather(*(client.call("find", [1, n], 10) for n in range(20)))
        assert found == [["b", "find", 1, n] for n in range(20)]
        assert time.monotonic() - begun < 2  # half a second each, one after the other, were ten
        client.follow({"a2": address})
        begun = time.monotonic()
        outcomes = await asyncio.gather(*(client.call("find", [1, n], 0.2) for n in range(20)), return_exceptions=True)
        assert {outcome.status for outcome in outcomes} == {504}
        assert time.monotonic() - begun < 1
        await eventually(lambda: len(asyncio.all_tasks()) == 1)

    with deaf() as address:
        run(scenario(address), client)


def test_one_who_gives_up_connecting_leaves_the_connection_to_the_others(replica):
    one = replica()
    client = client_of(one)

    async def scenario():
        first, second = (asyncio.create_task(client.call("find", [1, n], 10)) for n in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == ["a", "find", 1, 1]

    run(scenario(), client)


@pytest.mark.parametrize("raises", [Busy(), GenerationError("generation 1 is not loaded here")])
def test_another_replica_is_asked_where_one_refuses(replica, raises):
    refusing, other = replica("a", raises=raises), replica("b")
    client = client_of(refusing, other)

    async def scenario():
        assert (await searched(client, 5))[0] == "b 1 5"
        assert await client.call("find", [1, "x"], 10) == ["b", "find", 1, "x"]
        assert len(refusing.frames) == 2  # it was asked first, and again: it is not lost

    run(scenario(), client)


def test_where_all_have_too_much_to_do_the_request_is_told_to_come_back(replica):
    client = client_of(replica("a", raises=Busy()), replica("b", raises=GenerationError("not yet")))

    async def scenario():
        for asked in (searched(client, 5), client.call("find", [1, "x"], 10)):
            with pytest.raises(HttpProblem) as told:
                await asked
            assert (told.value.status, told.value.headers) == (503, {"Retry-After": "1"})

    run(scenario(), client)


def test_where_none_has_the_generation_the_shard_is_lost(replica):
    client = client_of(*(replica(name, raises=GenerationError("not here")) for name in "ab"))

    async def scenario():
        with pytest.raises(Lost) as told:
            await searched(client, 5)
        assert (told.value.status, told.value.why) == (503, "its replicas have another generation")

    run(scenario(), client)


def test_what_a_shard_raises_is_raised_and_not_asked_again(replica):
    one, other = replica("a", raises=ValueError("unforeseen")), replica("b")
    client = client_of(one, other)

    async def scenario():
        for asked in (searched(client, 5), client.call("find", [1, "x"], 10)):
            with pytest.raises(ServiceError, match="ValueError: unforeseen"):
                await asked
        assert other.frames == []

    run(scenario(), client)


def test_replicas_share_what_there_is_to_do(replica):
    both = [replica(name, holding=True) for name in "ab"]
    client = client_of(*both)

    async def scenario():
        asked = [asyncio.create_task(searched(client, number)) for number in range(50)]
        await eventually(lambda: sum(len(one.frames) for one in both) == 2 * FLIGHTS)
        await asyncio.sleep(0.05)
        assert [len(one.frames) for one in both] == [FLIGHTS, FLIGHTS]
        for one in both:
            one.go.set()
        await asyncio.gather(*asked)

    run(scenario(), client)


def test_a_client_in_use_can_be_copied_as_serve_does_when_its_controller_starts_anew(replica):
    """A gateway whose arguments cannot be copied then would be stopped: all gateways at once."""

    async def calls():
        client = client_of(replica("a"))
        await searched(client, 1)
        scanner = _PyObjScanner(source_type=DeploymentHandle)
        assert scanner.find_nodes(((), {"shards": [client]})) == []
        scanner.clear()
        copy = pickle.loads(pickle.dumps(client))
        assert copy.waiting == 0
        with pytest.raises(Lost):  # it knows the secret, and no replicas yet
            await searched(copy, 1)
        client.close()

    asyncio.run(calls())


def test_replicas_come_and_go(replica):
    first, second = replica("a", holding=True), replica("b")
    client = client_of(first)

    async def scenario():
        asked = [asyncio.create_task(searched(client, number)) for number in range(5)]
        await eventually(lambda: first.frames)
        client.follow({"b": second.address})  # it has left while it was asked
        assert [pair_id for pair_id, _ in await asyncio.gather(*asked)] == [f"b 1 {number}" for number in range(5)]
        client.follow({"a": first.address, "b": second.address})
        first.go.set()
        assert {(await searched(client, number))[0][0] for number in range(4)} == {"a"}
        client.follow({})
        with pytest.raises(Lost):
            await searched(client, 1)

    run(scenario(), client)


def test_a_replica_that_leaves_while_it_is_connected_to_leaves_no_connection(replica):
    one = replica()
    client = client_of(one)

    async def scenario():
        asked = asyncio.create_task(searched(client, 1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        client.follow({})
        with pytest.raises(Lost):
            await asked
        await asyncio.sleep(0.1)
        assert not one.server._peers

    run(scenario(), client)
