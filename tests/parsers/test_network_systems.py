"""Our routes as the modules of other network systems take, render and read them, without any device."""

import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import pytest
from ansible.release import __version__ as ansible_version

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "plugins"))

from module_utils._edge_resource import resource_config
from module_utils._errors import InputError

STORE = pathlib.Path(__file__).parents[2] / "build" / "network-systems"
PARTS = ("cisco/ios", "vyos/vyos", "ansible/netcommon", "ansible/utils")
MODULES = {"vyos": "vyos.vyos.plugins.modules.vyos_static_routes", "ios": "cisco.ios.plugins.modules.ios_static_routes"}
ROUTES = [
    {"dest": "2001:db8:200::/48", "via": "2001:db8:100:1::c:0", "ranges": "11,2a=7"},
    {"dest": "2001:db8:200::/48", "type": "unreachable", "metric": 4096},
    {"dest": "default", "via": "2001:db8:a::1"},
]


@functools.cache
def install():
    """Put the two collections, and what they import, beside the results; return why they are missing."""
    if (STORE / "ansible_collections").is_dir():
        return ""
    generation = int(ansible_version.split(".")[1]) - 7  # ansible 12 has the collections for ansible-core 2.19
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", name]
        done = subprocess.run([*command, f"ansible=={generation}.*"], capture_output=True, text=True, check=False)
        if done.returncode:
            return done.stderr.strip().splitlines()[-1]
        (wheel,) = pathlib.Path(name).glob("*.whl")
        wanted = tuple(f"ansible_collections/{part}/plugins/" for part in PARTS)
        with zipfile.ZipFile(wheel) as archive:
            found = [member for member in archive.namelist() if member.startswith(wanted)]
            archive.extractall(pathlib.Path(name) / "tree", found)
        STORE.mkdir(parents=True, exist_ok=True)
        (pathlib.Path(name) / "tree" / "ansible_collections").rename(STORE / "ansible_collections")
    return ""


@pytest.fixture(autouse=True)
def collections():
    missing = install()
    if missing:
        pytest.skip(f"the package index has no collections for other network systems: {missing}")


def call(system, **arguments):
    """Run SYSTEM's module as Ansible does, with the check of its arguments."""
    command = [sys.executable, "-m", f"ansible_collections.{MODULES[system]}"]
    given = json.dumps({"ANSIBLE_MODULE_ARGS": arguments})
    environment = {**os.environ, "PYTHONPATH": str(STORE)}
    done = subprocess.run(command, input=given, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    result = json.loads(done.stdout)
    assert not result.get("failed"), result["msg"]
    return result


def bare(value):
    """Return VALUE without what is empty."""
    if isinstance(value, dict):
        return {name: bare(part) for name, part in value.items() if part not in (None, False, [])}
    return [bare(part) for part in value] if isinstance(value, list) else value


def test_vyos_renders_the_routes():
    config = resource_config(ROUTES, "vyos")
    assert call("vyos", config=config, state="rendered")["rendered"] == [
        "set protocols static route6 ::/0",
        "set protocols static route6 ::/0 next-hop '2001:db8:a::1'",
        "set protocols static route6 2001:db8:200::/48",
        "set protocols static route6 2001:db8:200::/48 blackhole",
        "set protocols static route6 2001:db8:200:11::/64",
        "set protocols static route6 2001:db8:200:11::/64 next-hop '2001:db8:100:1::c:11'",
        "set protocols static route6 2001:db8:200:2a::/64",
        "set protocols static route6 2001:db8:200:2a::/64 next-hop '2001:db8:100:1::c:7'",
    ]


def test_ios_renders_the_routes():
    more = [{"dest": "2001:db8:300::/64", "via": "fe80::7"}, {"dest": "2001:db8:100:1::14/128"}]
    config = resource_config([*ROUTES, *({**route, "dev": "Vlan7"} for route in more)], "ios")
    assert sorted(call("ios", config=config, state="rendered")["rendered"]) == [
        "ipv6 route 2001:DB8:100:1::14/128 Vlan7",
        "ipv6 route 2001:DB8:200:11::/64 2001:DB8:100:1::C:11",
        "ipv6 route 2001:DB8:200:2A::/64 2001:DB8:100:1::C:7",
        "ipv6 route 2001:DB8:200::/48 Null0",
        "ipv6 route 2001:DB8:300::/64 Vlan7 FE80::7",
        "ipv6 route ::/0 2001:DB8:A::1",
    ]


# Before it renders an interface, the module asks the router for its version, so here it only takes the arguments.
VALIDATE = """
import json, sys
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.vyos.vyos.plugins.module_utils.network.vyos.argspec.static_routes.static_routes import (
    Static_routesArgs,
)
print(ArgumentSpecValidator(Static_routesArgs.argument_spec).validate(json.load(sys.stdin)).error_messages)
"""


def test_vyos_takes_an_interface_as_the_next_hop():
    config = resource_config([{"dest": "2001:db8:100:1::14/128", "dev": "eth1"}], "vyos")
    assert config[0]["address_families"][0]["routes"] == [
        {"dest": "2001:db8:100:1::14/128", "next_hops": [{"interface": "eth1"}]}
    ]
    environment = {**os.environ, "PYTHONPATH": str(STORE)}
    for key, problems in ("interface", "[]\n"), ("iface", "iface"):
        text = json.dumps({"config": config}).replace('"interface"', f'"{key}"')
        command = [sys.executable, "-c", VALIDATE]
        done = subprocess.run(command, input=text, env=environment, capture_output=True, text=True, check=True)
        assert problems in done.stdout


@pytest.mark.parametrize("system", sorted(MODULES))
def test_what_is_rendered_is_read_back_as_what_was_asked(system):
    config = resource_config(ROUTES, system)
    shown = "\n".join(call(system, config=config, state="rendered")["rendered"])
    read = bare(call(system, running_config=shown, state="parsed")["parsed"])
    (routes,) = [family["routes"] for part in read for family in part["address_families"]]
    asked = config[0]["address_families"][0]["routes"]
    assert {route["dest"]: route for route in routes} == {route["dest"]: route for route in asked}
    assert len(routes) == len(asked)


@pytest.mark.parametrize("system", sorted(MODULES))
def test_thousands_of_routes_are_taken(system):
    config = resource_config([{**ROUTES[0], "ranges": "0-7ff"}], system)
    lines = call(system, config=config, state="rendered")["rendered"]
    assert sum("2001:db8:100:1::c:" in line.lower() for line in lines) == 0x800


def test_what_a_system_cannot_do_is_told_of_all_routes_at_once():
    routes = [{"dest": f"2001:db8:{n}::/64", "via": f"fe80::{n}", "dev": "eth0"} for n in (1, 2)]
    with pytest.raises(InputError) as caught:
        resource_config(routes, "vyos")
    assert len(caught.value.problems) == 2
    assert "2001:db8:1::/64 via fe80::1 dev eth0: vyos_static_routes binds" in str(caught.value)
    with pytest.raises(InputError, match="Linux host only"):
        resource_config([{"dest": "2001:db8:1::/64", "type": "local"}], "ios")
    with pytest.raises(InputError, match="use ios or vyos"):
        resource_config(routes, "junos")
