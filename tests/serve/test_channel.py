"""Calls over real sockets: each gets its own answer or its own error, in time, whatever others and the network do."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import socket
import struct
import sys
import threading
import time

import pytest

from serve import channel
from serve.channel import HELLO_BYTES, Busy, ChannelServer, Disconnected, connect
from serve.wire import pack
from sscm.errors import ConfigError, GenerationError, QueryError, ServiceError
from tests.plugins.hosts import ROOT, hosts, why_not
from tests.plugins.raylets import until

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning"),
]

SECRET = "s" * 64


class Answers:
    """Answers calls; what it was asked, and what became of it, is kept."""

    def __init__(self):
        self.asked, self.cancelled, self.threads = [], [], set()

    async def __call__(self, method, arguments, seconds):
        self.asked.append((method, arguments, seconds))
        self.threads.add(threading.current_thread().name)
        return await getattr(self, method)(*arguments)

    async def echo(self, value, delay=0.0):
        try:
            await asyncio.sleep(delay)
        except asyncio.CancelledError:
            self.cancelled.append(value)
            raise
        return value

    async def fail(self, kind, text):
        raise {
            "query": QueryError,
            "generation": GenerationError,
            "config": ConfigError,
            "value": ValueError,
            "time": TimeoutError,
        }[kind](text)

    async def busy(self):
        raise Busy

    async def unpackable(self):
        return object()

    async def large(self, size):
        return b"x" * size


@pytest.fixture
def answers():
    return Answers()


@pytest.fixture
def server(answers):
    server = ChannelServer("127.0.0.1", SECRET, answers)
    yield server
    server.stop()


def eventually(holds, seconds=5.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "did not become so in time"
        time.sleep(0.01)


def run(coroutine):
    """Run a coroutine; nothing of it may be left on the loop, and the loop has nothing to complain of."""
    told = []

    async def whole():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        async with asyncio.timeout(30):
            value = await coroutine
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return value

    value = asyncio.run(whole())
    gc.collect()
    assert told == []
    return value


@contextlib.contextmanager
def raw(server):
    """A socket of a caller that says what it likes."""
    with socket.create_connection(server.address, timeout=10) as connection:
        yield connection


def cut_off(connection):
    """Whether the other side has ended a connection, without a word."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_many_calls_at_a_time_each_get_their_own_answer_in_whatever_order(server, answers):
    async def calls():
        connection = await connect(server.address, SECRET, 5)
        order, chance = [], random.Random(1)
        delays = [chance.uniform(0, 0.1) for _ in range(300)]

        async def one(number):
            assert await connection.call("echo", [f"value {number}", delays[number]], 20) == f"value {number}"
            order.append(number)

        await asyncio.gather(*map(one, range(300)))
        assert connection._waiting == {}
        connection.close()
        return order

    order = run(calls())
    assert sorted(order) == list(range(300))
    assert order != sorted(order)
    assert answers.threads == {"channel"}
    assert answers.asked[0][2] == 20  # it is told how long the caller waits


def test_several_connections_do_not_mix(server):
    async def calls():
        connections = await asyncio.gather(*(connect(server.address, SECRET, 5) for _ in range(5)))
        asked = [c.call("echo", [[n, k]], 5) for k in range(50) for n, c in enumerate(connections)]
        assert await asyncio.gather(*asked) == [[n, k] for k in range(50) for n in range(5)]
        for connection in connections:
            connection.close()

    run(calls())


def test_the_first_call_may_come_in_one_piece_with_the_secret_however_large_it_is(server):
    with raw(server) as connection:
        connection.sendall(pack(SECRET.encode()) + pack([1, "echo", [b"x" * 100_000], 5.0]))
        expected = pack([1, "", b"x" * 100_000])
        got = b""
        while len(got) < len(expected) and (piece := connection.recv(2**20)):
            got += piece
        assert got == expected


@pytest.mark.parametrize(
    "hello",
    [
        pack(b"t" * 64),
        pack(SECRET),  # text, not bytes
        pack(SECRET[:-1].encode()),
        pack([1, "echo", ["x"], 5.0]),
        pack(b"t") + pack(SECRET.encode()),
        struct.pack(">I", HELLO_BYTES + 1),
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
        struct.pack(">I", 4) + b"\xc1\xc1\xc1\xc1",
    ],
)
def test_who_does_not_know_the_secret_is_cut_off(server, answers, hello):
    with raw(server) as connection:
        connection.sendall(hello + pack([1, "echo", ["x"], 5.0]))
        assert cut_off(connection)
    assert answers.asked == []


def test_nothing_is_read_of_what_follows_a_wrong_secret(server, answers, monkeypatch):
    read, unpackb = [], channel.Unpacker.feed.__globals__["msgpack"].unpackb

    def watched(body, **options):
        read.append(len(body))
        return unpackb(body, **options)

    monkeypatch.setattr("serve.wire.msgpack.unpackb", watched)
    with raw(server) as connection:
        connection.sendall(pack(b"wrong") + pack([1] * 500) * 40)
        assert cut_off(connection)
    assert read == [len(pack(b"wrong")) - 4]


def test_who_says_nothing_is_cut_off_after_a_while_and_who_knows_the_secret_is_not(server, monkeypatch):
    monkeypatch.setattr(channel, "HELLO_S", 0.2)
    with raw(server) as silent, raw(server) as slow, raw(server) as known:
        known.sendall(pack(SECRET.encode()))
        slow.sendall(pack(SECRET.encode())[:-1])
        assert cut_off(silent)
        assert cut_off(slow)
        time.sleep(0.3)
        known.sendall(pack([1, "echo", ["x"], 5.0]))
        assert known.recv(100) == pack([1, "", "x"])


@pytest.mark.parametrize(
    "garbage",
    [b"\xff" * 100, struct.pack(">I", 2) + b"\xc1\xc1", pack(5), pack([1, 2]), pack([1, "echo", ["x"], 5.0, 6])],
)
def test_a_caller_that_talks_garbage_is_cut_off_and_the_others_are_not(server, garbage):
    async def calls():
        connection = await connect(server.address, SECRET, 5)
        with raw(server) as other:
            other.sendall(pack(SECRET.encode()) + garbage)
            assert await asyncio.to_thread(cut_off, other)
        assert await connection.call("echo", ["still here"], 5) == "still here"
        connection.close()

    run(calls())


def test_garbage_in_a_call_is_an_error_of_that_call(server):
    async def calls():
        connection = await connect(server.address, SECRET, 5)
        with pytest.raises(ServiceError, match="AttributeError"):
            await connection.call("no such method", [], 5)
        with pytest.raises(ServiceError, match="TypeError"):
            await connection.call("echo", [1, 2, 3, 4], 5)
        assert await connection.call("echo", [1], 5) == 1
        connection.close()

    run(calls())


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("query", QueryError, "^what was wrong$"),
        ("generation", GenerationError, "^what was wrong$"),
        ("config", ServiceError, "^ConfigError: what was wrong$"),
        ("value", ServiceError, "^ValueError: what was wrong$"),
        ("time", ServiceError, "^TimeoutError: what was wrong$"),  # its own, long before the call's
    ],
)
def test_errors_are_raised_to_the_caller_by_their_class(server, kind, error, words):
    async def calls():
        connection = await connect(server.address, SECRET, 5)
        failing = asyncio.create_task(connection.call("fail", [kind, "what was wrong"], 5))
        fine = asyncio.create_task(connection.call("echo", ["fine"], 5))
        with pytest.raises(error, match=words) as told:
            await failing
        assert type(told.value) is error
        assert await fine == "fine"
        connection.close()

    run(calls())


def test_too_much_to_do_is_busy(server):
    async def calls():
        connection = await connect(server.address, SECRET, 5)
        with pytest.raises(Busy):
            await connection.call("busy", [], 5)
        connection.close()

    run(calls())


def test_an_answer_that_cannot_be_sent_is_told_not_waited_for(server, monkeypatch):
    monkeypatch.setattr("serve.wire.MOST_BYTES", 1000)

    async def calls():
        connection = await connect(server.address, SECRET, 5)
        with pytest.raises(ServiceError, match=r"a message of \d+ bytes; expected at most 1000: ask for fewer answers"):
            await connection.call("large", [2000], 5)
        with pytest.raises(ServiceError, match="TypeError"):
            await connection.call("unpackable", [], 5)
        with pytest.raises(ServiceError, match=r"a message of \d+ bytes"):
            await connection.call("echo", [b"x" * 2000], 5)  # nor is a question
        assert await connection.call("echo", [1], 5) == 1
        assert connection._waiting == {}
        connection.close()

    run(calls())


def test_a_call_ends_at_its_deadline_on_both_sides(server, answers):
    async def calls():
        connection = await connect(server.address, SECRET, 5)
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            await connection.call("echo", ["late", 30], 0.2)
        assert 0.15 < time.monotonic() - begun < 2
        assert connection._waiting == {}
        await asyncio.to_thread(eventually, lambda: answers.cancelled == ["late"])
        assert await connection.call("echo", ["next"], 5) == "next"
        connection.close()

    run(calls())


def test_a_caller_that_gives_up_leaves_nothing_waiting(server):
    async def calls():
        connection = await connect(server.address, SECRET, 5)
        given_up = asyncio.create_task(connection.call("echo", ["given up", 0.1], 5))
        kept = asyncio.create_task(connection.call("echo", ["kept", 0.2], 5))
        await asyncio.sleep(0.02)
        given_up.cancel()
        assert await kept == "kept"  # the answer to the other one came before, and is nobody's
        assert connection._waiting == {}
        connection.close()

    run(calls())


def test_calls_of_a_caller_that_leaves_are_cancelled(server, answers):
    async def calls():
        connection = await connect(server.address, SECRET, 5)
        waiting = [asyncio.create_task(connection.call("echo", [number, 30], 60)) for number in range(3)]
        await asyncio.to_thread(eventually, lambda: len(answers.asked) == 3)
        connection.close()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Disconnected] * 3
        assert not connection.open
        with pytest.raises(Disconnected):
            await connection.call("echo", [1], 5)

    run(calls())
    eventually(lambda: sorted(answers.cancelled) == [0, 1, 2])


def test_a_server_that_ends_in_mid_call_disconnects_its_callers(server, answers):
    async def calls():
        connection = await connect(server.address, SECRET, 5)
        waiting = asyncio.create_task(connection.call("echo", ["never", 30], 60))
        await asyncio.to_thread(eventually, lambda: answers.asked)
        begun = time.monotonic()
        await asyncio.to_thread(server.stop)
        with pytest.raises(Disconnected):
            await waiting
        assert time.monotonic() - begun < 5
        assert not connection.open
        with pytest.raises(Disconnected):
            await connect(server.address, SECRET, 5)

    run(calls())
    assert answers.cancelled == ["never"]


class Talking:
    """A server that says what it is told to whoever connects, when it has heard something."""

    def __init__(self, says):
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = self._listening.getsockname()
        self._thread = threading.Thread(target=self._run, args=(says,), daemon=True)
        self._thread.start()

    def _run(self, says):
        with contextlib.suppress(OSError):
            connection, _ = self._listening.accept()
            with connection:
                connection.recv(2**16)
                connection.sendall(says)
                while connection.recv(2**16):
                    pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listening.close()
        self._thread.join(10)


@pytest.mark.parametrize(
    "says",
    [b"\xff" * 50, struct.pack(">I", 1) + b"\xc1", pack(None), pack([0, ""]), pack([[], "", 1]), pack("HTTP/1.1 400")],
)
def test_a_server_that_talks_garbage_is_left_at_once(says):
    async def calls(address):
        connection = await connect(address, SECRET, 5)
        with pytest.raises(Disconnected):
            await connection.call("echo", ["x"], 20)
        assert not connection.open

    with Talking(says) as server:
        run(calls(server.address))


def test_answers_that_nobody_waits_for_are_passed_over():
    async def calls(address):
        connection = await connect(address, SECRET, 5)
        assert await connection.call("echo", ["x"], 20) == "right"
        connection.close()

    with Talking(pack([99, "", "wrong"]) + pack([0, "", "right"]) + pack([0, "", "again"])) as server:
        run(calls(server.address))


def test_nobody_there_is_disconnected_within_the_time_given(free_port):
    async def calls():
        with pytest.raises(Disconnected):
            await connect(("127.0.0.1", free_port), SECRET, 5)
        with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:
            filling = [socket.socket() for _ in range(4)]  # its queue is full: it does not answer at all
            for one in filling:
                one.setblocking(False)
                one.connect_ex(deaf.getsockname())
            begun = time.monotonic()
            with pytest.raises(Disconnected):
                await connect(deaf.getsockname(), SECRET, 0.3)
            assert time.monotonic() - begun < 3
            for one in filling:
                one.close()

    run(calls())


SERVING = """
import time
from serve.channel import ChannelServer

async def answer(method, arguments, seconds):
    time.sleep(float(method))
    return "late"

print(ChannelServer("0.0.0.0", "s" * 64, answer).address[1], flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("asked", ["before", "after"])
def test_a_host_that_falls_silent_is_noticed_within_seconds_and_one_that_is_busy_is_waited_for(tmp_path, asked):
    if why := why_not():
        pytest.skip(why)

    async def calls(host, port):
        connection = await connect((host.address, port), SECRET, 5)
        assert await connection.call("4.5", [], 10) == "late"  # longer than silence is borne
        waiting = []
        if asked == "before":  # what it was asked reached it: only the answer is missing
            waiting.append(asyncio.create_task(connection.call("30", [], 30)))
            await asyncio.sleep(0.3)
        host.cut()
        if asked == "after":
            waiting.append(asyncio.create_task(connection.call("0", [], 30)))
        begun = time.monotonic()
        with pytest.raises(Disconnected):
            await waiting[0]
        assert time.monotonic() - begun < 3 * channel.SILENT_S

    with hosts("shard", folder=tmp_path) as made:
        made["shard"].boot("sleep", "60")
        log = tmp_path / "log"
        made["shard"].start(sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}){SERVING}", log=log)
        port = int(until(log.read_text, 30, "it listens"))
        run(calls(made["shard"], port))


def test_an_address_that_is_not_ours_cannot_be_listened_on():
    with pytest.raises(ServiceError, match=r"cannot listen on 192\.0\.2\.1 for calls of gateways: "):
        ChannelServer("192.0.2.1", SECRET, Answers())
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name == "channel"])


def test_stopping_ends_threads_sockets_and_whatever_runs_on_the_loop(caplog):
    class Busybody(Answers):
        """Begins work of its own, and takes its time to end."""

        async def gathered(self):
            self.working = asyncio.create_task(asyncio.sleep(60))
            await asyncio.gather(self.echo(1, 60), self.echo(2, 60))

    answers = Busybody()
    server = ChannelServer("127.0.0.1", SECRET, answers)
    with raw(server) as connection:
        connection.sendall(pack(SECRET.encode()) + pack([1, "gathered", [], 60.0]))
        eventually(lambda: answers.asked)
        server.stop()
        assert cut_off(connection)
    assert sorted(answers.cancelled) == [1, 2]
    assert answers.working.cancelled()
    assert not [thread for thread in threading.enumerate() if thread.name == "channel"]
    server.stop()  # nothing happens the second time
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(server.address, timeout=5)
    del server
    gc.collect()
    assert "never retrieved" not in caplog.text
    assert "destroyed but it is pending" not in caplog.text
