"""A service serves when it answers; nothing else counts."""

import contextlib
import socket
import sys
import threading

import pytest
from module_utils import _listeners
from module_utils._listeners import Bindable, Listener, Resolver, await_all, listening

TCP6 = """  sl  local_address                         remote_address                        st tx_queue rx_queue
   0: 00000000000000000000000000000000:0019 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000
   1: B80D0120000000000000000001000000:0019 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000
   2: B80D0120000000000000000002000000:0019 00000000000000000000000000000000:0000 01 00000000:00000000 00:00000000
   3: B80D0120000000000000000003000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000
"""


@contextlib.contextmanager
def server(address, kind=socket.SOCK_STREAM, answer=None):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, kind) as listener:
        listener.bind((address, 0))
        if kind == socket.SOCK_STREAM:
            listener.listen()

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    if kind == socket.SOCK_DGRAM:
                        query, peer = listener.recvfrom(512)
                        if not peer:
                            return
                        listener.sendto(answer(query), peer)
                    else:
                        connection, _peer = listener.accept()
                        with connection:
                            connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        if answer:
            thread.start()
        yield listener.getsockname()[1]
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.skipif(sys.byteorder != "little", reason="the table above is of a little-endian machine")
def test_listening_sockets_are_read_from_the_kernel():
    assert listening(TCP6, 25) == ["::", "2001:db8::1"]
    assert listening(TCP6, 80) == ["2001:db8::3"]


def test_one_family_does_not_stand_for_the_other():
    with server("127.0.0.1") as port:
        assert Listener(port, ("ipv4",)).problem() == ""
        assert f"port {port} over ipv6" in Listener(port).problem()


def test_a_socket_of_both_families_counts_for_both():
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        assert Listener(listener.getsockname()[1]).problem() == ""


def test_a_service_on_one_address_is_found_there():
    with server("127.0.0.9") as port:
        assert Listener(port, ("ipv4",)).problem() == ""
        assert Listener(port, ("ipv4",), address="127.0.0.8").problem()


def test_the_greeting_must_match():
    with server("127.0.0.1", answer=b"220 mail.example\r\n") as port:
        assert Listener(port, ("ipv4",), expect="^220 ").problem() == ""
        assert "220 mail.example" in Listener(port, ("ipv4",), expect="^554 ").problem()


def mail_server(connection):
    """Greet in two lines, and answer each line with its own first word."""
    with connection, connection.makefile("rb") as lines:
        connection.sendall(b"220-mail.example\r\n220 ready\r\n")
        for line in lines:
            connection.sendall(b"250 " + line.split()[0] + b"\r\n")


@pytest.mark.parametrize(("answer", "good"), [("^250 RCPT", True), ("^250 MAIL", False)])
def test_a_talk_goes_on_to_its_last_answer(answer, good):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: mail_server(listener.accept()[0]), daemon=True)
        thread.start()
        talk = (("MAIL x\r\n", "^250 MAIL"), ("RCPT x\r\n", answer))
        problem = Listener(listener.getsockname()[1], ("ipv4",), expect="^220 ", talk=talk).problem()
    assert (problem == "") is good
    assert good or "answered '250 RCPT' to 'RCPT x', expected '^250 MAIL'" in problem


def dns(code):
    return lambda query: query[:2] + bytes([0x81, 0x80 | code]) + query[4:]


@pytest.mark.parametrize(("code", "good"), [(0, True), (3, True), (2, False), (5, False)])
def test_a_name_server_that_refuses_is_none(monkeypatch, code, good):
    with server("127.0.0.1", socket.SOCK_DGRAM, dns(code)) as port:
        monkeypatch.setattr(_listeners, "DNS", port)
        assert (Resolver("127.0.0.1", "a.example").problem() == "") is good


def test_a_silent_name_server_is_none(monkeypatch):
    monkeypatch.setattr(_listeners, "ATTEMPT", 0.05)
    with server("127.0.0.1", socket.SOCK_DGRAM) as port:
        monkeypatch.setattr(_listeners, "DNS", port)
        assert "no answer" in Resolver("127.0.0.1", "a.example").problem()


def test_waiting_ends_when_the_service_comes_up():
    with socket.socket() as late:
        late.bind(("127.0.0.1", 0))
        timer = threading.Timer(0.1, late.listen)
        timer.start()
        check = Listener(late.getsockname()[1], ("ipv4",), address="127.0.0.1")
        assert await_all([check], 5, lambda: "") == ""


def test_waiting_ends_at_once_when_the_unit_has_failed():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        check = Listener(closed.getsockname()[1], ("ipv4",))
        assert "unit x has failed" in await_all([check], 60, lambda: "unit x has failed")


def test_who_waits_for_one_answer_does_not_bother_those_that_have_given_theirs():
    """sshd shuts out an address that comes again and again without logging in."""
    asked = []

    class Asked:
        def __init__(self, name, until):
            self.name, self.until = name, until

        def problem(self):
            asked.append(self.name)
            return f"{self.name} is late" if asked.count(self.name) < self.until else ""

    assert await_all([Asked("ready", 1), Asked("late", 4)], 5, lambda: "") == ""
    assert asked.count("ready") == 2
    assert asked.count("late") > 3
    assert asked[-2:] == ["ready", "late"]


def test_waiting_is_bounded_and_tells_what_was_missing():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        check = Listener(closed.getsockname()[1], ("ipv4",))
        assert "refused (waited 0.1 s)" in await_all([check], 0.1, lambda: "")


def test_an_address_that_this_host_lacks_cannot_be_listened_on():
    assert Bindable("::1").problem() == ""
    assert "2001:db8::dead is not an address of this host" in Bindable("2001:db8::dead").problem()
