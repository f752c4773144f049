"""A site is served over IPv6 when it answers there as itself; the same port with another site behind it is a fault."""

import contextlib
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import threading

import pytest
from module_utils._edit_web import Site
from module_utils._errors import InputError
from module_utils._sites import SiteCheck, checks
from module_utils._transaction import execute, parse

OK = "HTTP/1.0 200 OK\r\n\r\n"
ANSWERS = {
    "itself": OK + "a.example",
    "default": OK + "default",
    "moving": OK + "visitor {count}",
    "forbidden": "HTTP/1.0 403 Forbidden\r\n\r\n",
    "broken": "HTTP/1.0 502 Bad Gateway\r\n\r\n",
    "closed": "",
}


@contextlib.contextmanager
def one_port():
    """Two listening sockets, on 127.0.0.1 and ::1, at one port that both families had free."""
    while True:
        with contextlib.ExitStack() as stack:
            four, six = (stack.enter_context(socket.socket(family)) for family in (socket.AF_INET, socket.AF_INET6))
            four.bind(("127.0.0.1", 0))
            try:
                six.bind(("::1", four.getsockname()[1]))
            except OSError:
                continue
            four.listen()
            six.listen()
            yield four, six
            return


@contextlib.contextmanager
def servers(ipv4, ipv6, context=None):
    """Serve one port on both loopback addresses; yield the port and the Host fields that were asked for."""
    asked = []
    with one_port() as listeners:
        port = listeners[0].getsockname()[1]
        for listener, answer in zip(listeners, (ipv4, ipv6)):
            threading.Thread(target=serve, args=(listener, answer, asked, context), daemon=True).start()
        yield port, asked
        for listener in listeners:
            listener.shutdown(socket.SHUT_RDWR)


def serve(listener, answer, asked, context):
    with contextlib.suppress(OSError):
        while True:
            session = listener.accept()[0]
            with contextlib.suppress(OSError), session:
                stream = context.wrap_socket(session, server_side=True) if context else session
                text = b""
                while b"\r\n\r\n" not in text and (piece := stream.recv(4096)):
                    text += piece
                if text:
                    asked.append(text.decode().split("Host: ")[1].split("\r\n")[0])
                    stream.sendall(ANSWERS[answer].format(count=len(asked)).encode())
                stream.close()


def problem(ipv4, ipv6, **more):
    with servers(ipv4, ipv6) as (port, asked):
        found = SiteCheck(Site("conf: line 1", "a.example", port, False, ("127.0.0.1",), ("::1",), **more)).problem()
        assert set(asked) <= {"a.example"}
        return found


@pytest.mark.parametrize(
    ("ipv4", "ipv6"),
    [
        ("itself", "itself"),
        ("moving", "moving"),
        ("forbidden", "forbidden"),
        ("broken", "broken"),
        ("closed", "closed"),
    ],
)
def test_the_same_answer_over_both_families_is_right_whatever_it_is(ipv4, ipv6):
    assert problem(ipv4, ipv6) == ""


@pytest.mark.parametrize(
    ("ipv4", "ipv6"),
    [("itself", "default"), ("itself", "forbidden"), ("itself", "broken"), ("itself", "closed"), ("closed", "itself")],
)
def test_another_answer_over_ipv6_is_told_with_site_and_place(ipv4, ipv6):
    found = problem(ipv4, ipv6)
    assert found.startswith("site a.example of conf: line 1: 127.0.0.1 port ")
    assert "but ::1 says" in found


def test_a_site_with_a_list_of_clients_may_send_this_host_away():
    assert problem("itself", "forbidden", listed=True) == ""
    assert problem("forbidden", "itself", listed=True) == ""
    assert "but ::1 says" in problem("itself", "default", listed=True)


def test_what_is_no_site_of_its_own_must_only_listen():
    assert problem("itself", "default", plain=False) == ""


def test_a_server_that_accepts_and_says_nothing_is_not_served(monkeypatch):
    monkeypatch.setattr("module_utils._sites.TIMEOUT", 0.2)
    with one_port() as (four, _six):
        site = Site("conf: line 1", "a.example", four.getsockname()[1], False, ("127.0.0.1",), ("::1",))
        assert "no answer within 0.2 s" in SiteCheck(site).problem()


def test_a_port_that_nobody_has_is_told():
    site = Site("conf: line 1", "", 1, False, ("127.0.0.1",), ("::1",))
    assert (
        SiteCheck(site).problem() == "site (default) of conf: line 1: port 1 over ipv4: 127.0.0.1: Connection refused"
    )


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl to make a certificate")
def test_another_certificate_is_another_site(tmp_path):
    def context(name):
        files = [str(tmp_path / f"{name}.key"), str(tmp_path / f"{name}.crt")]
        command = (
            f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN={name} -days 2 -keyout {files[0]} -out {files[1]}"
        )
        subprocess.run(command.split(), check=True, capture_output=True)
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(files[1], files[0])
        return made

    def ask(served):
        with servers("itself", "itself", served) as (port, _asked):
            return SiteCheck(Site("conf: line 1", "a.example", port, True, ("127.0.0.1",), ("::1",))).problem()

    own, other = context("a.example"), context("other.example")
    assert ask(own) == ""
    seen = []
    own.sni_callback = lambda session, _name, _context: (
        seen.append(1) or (setattr(session, "context", other) if len(seen) == 2 else None)
    )
    assert "but ::1 says" in ask(own)


def test_when_nothing_changed_one_site_of_each_listener_is_asked():
    sites = [
        Site("1", "a.example", 80, False, ("127.0.0.1",), ("::1",)),
        Site("2", "b.example", 80, False, ("127.0.0.1",), ("::1",)),
        Site("3", "a.example", 443, True, ("127.0.0.1",), ("::1",)),
    ]
    assert sorted(check.site.place for check in checks(sites, thorough=False)) == ["1", "3"]
    assert [check.site.place for check in checks(sites, thorough=True)] == ["1", "2", "3"]


def test_a_port_that_another_process_has_is_refused_before_anything_is_written(tmp_path):
    conf = tmp_path / "nginx.conf"
    with socket.socket(socket.AF_INET6) as listener:
        listener.bind(("::1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        conf.write_text(f"server {{ listen 192.0.2.1:{port}; }}\n")
        files = [{"path": str(conf), "format": "nginx", "set": {"listen": {"add": ["[::1]"]}}}]
        request = parse({"name": "x", "files": files, "unit": "nobody.service", "apply": ["false"]})
        with pytest.raises(InputError, match=rf"\[::1\]:{port}: .*process {os.getpid()}\) listens on ::1"):
            execute(request, root=str(tmp_path / "store"))
    assert "::1" not in conf.read_text()
    assert not list(pathlib.Path(tmp_path / "store").glob("*/*"))
