import threading
import time

import pytest
from grpc import StatusCode

from serving.server import ServingError
from serving.server.admission import Admission


class Held:
    """Threads that have a turn until they are let go."""

    def __init__(self, admission):
        self.admission, self.order, self.threads, self.gates = admission, [], [], []

    def ask(self, name, seconds=None):
        gate = threading.Event()

        def run():
            try:
                with self.admission.turn(seconds):
                    self.order.append(name)
                    gate.wait(10)
            except ServingError as error:
                self.order.append((name, error.code.name))

        self.threads.append(threading.Thread(target=run))
        self.gates.append(gate)
        waiting = self.admission.waiting
        length = len(self.order)
        self.threads[-1].start()
        deadline = time.monotonic() + 10
        while self.admission.waiting == waiting and len(self.order) == length:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def let_go(self):
        for gate in self.gates:
            gate.set()
        for thread in self.threads:
            thread.join()


def test_first_come_first_served_and_who_is_too_many_is_sent_away():
    held = Held(Admission(running=1, waiting=3))
    for name in "abcde":
        held.ask(name)
    assert held.order == ["a", ("e", "UNAVAILABLE")]
    held.let_go()
    assert held.order == ["a", ("e", "UNAVAILABLE"), "b", "c", "d"]


def test_as_many_run_as_may():
    held = Held(Admission(running=3, waiting=0))
    for name in "abc":
        held.ask(name)
    assert held.order == ["a", "b", "c"]
    with pytest.raises(ServingError, match="0 are waiting") as caught, held.admission.turn():
        pass
    assert caught.value.code == StatusCode.UNAVAILABLE
    held.let_go()
    with held.admission.turn():
        pass


def test_who_waits_too_long_leaves_the_queue():
    admission = Admission(running=1, waiting=1)
    held = Held(admission)
    held.ask("a")
    started = time.monotonic()
    with pytest.raises(ServingError) as caught, admission.turn(0.05):
        pass
    assert caught.value.code == StatusCode.DEADLINE_EXCEEDED and time.monotonic() - started >= 0.05
    assert admission.waiting == 0
    held.ask("b")
    held.let_go()
    assert held.order == ["a", "b"]


def test_an_error_gives_the_turn_back():
    admission = Admission(running=1, waiting=0)
    with pytest.raises(KeyError), admission.turn():
        raise KeyError
    with admission.turn():
        pass
