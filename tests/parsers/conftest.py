"""Hosts with every daemon of the lab's image, the core and the agent on them."""

import json
import pathlib
import sys

import pytest

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "tests" / "lab"))

pytest.register_assert_rewrite("expected")

import lab  # noqa: E402  the tools of the lab are no package

RELEASES = {"bookworm": "2.3", "trixie": "2.4"}  # and the Dovecot that each has


class Host:
    """A scratch host; ``compare`` has its daemons read cases before and after the edit."""

    def __init__(self, scratch, dovecot):
        self.scratch, self.dovecot = scratch, dovecot
        scratch.put_core(HERE / "agent.py")
        for address in ("192.0.2.11/24", "2001:db8::11/64"):
            scratch.run("ip", "address", "add", address, "dev", "lo", "nodad")

    def compare(self, cases):
        """Return what came of each of CASES; see agent.py."""
        done = lab.podman(
            "exec", "-i", "--env", "PYTHONPATH=/root/core", self.scratch.container, "python3", "/root/core/agent.py",
            stdin=json.dumps(cases).encode(), check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)


@pytest.fixture(scope="session", params=RELEASES)
def host(request):
    with lab.scratch(request.param, f"parsers-{request.param}") as scratch:
        yield Host(scratch, RELEASES[request.param])
