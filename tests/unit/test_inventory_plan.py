"""The plan as an inventory source: real sources through Ansible's own inventory manager."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("ansible", minversion="2.17")

from ansible import context
from ansible.errors import AnsibleParserError
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import inventory_loader
from ansible.template import Templar
from ansible.utils.display import Display

try:
    from ansible.template import trust_as_template
except ImportError:  # before ansible-core 2.19 a string is a template
    trust_as_template = str

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLE = pathlib.Path(__file__).parents[2] / "inventories" / "example"
PLAN = """\
plugin: dualstack.fleet.plan
version: 1
networks:
  device: {prefixes: ["2001:db8:100:1::/64"], gateway: "fe80::1"}
pools:
  clients: {prefix: "2001:db8:200::/48"}
classes:
  client:
    groups: [clients]
    network: device
    block: "::c:0/112"
    kind: location
    fields: [{name: rack, bits: 8, var: loc_rack}, {name: unit, bits: 8, var: loc_unit}]
    delegate: {pool: clients, vhosts: {kind: pinned}}
  build: {groups: [ci], network: device, block: "::b:0/112", kind: auto}
"""
HOSTS = """\
all:
  children:
    clients:
      vars: {loc_rack: 3}
      hosts:
        web1: {loc_unit: 15, dualstack_vhosts: {shop: "7"}}
        web2: {loc_rack: 4, loc_unit: 1}
"""


@pytest.fixture
def messages(monkeypatch):
    """What the user is shown as a warning."""
    shown = []
    monkeypatch.setattr(Display, "warning", lambda self, msg, *args, **kwargs: shown.append(str(msg)))
    return shown


@pytest.fixture
def fleet(tmp_path):
    """Return a function that reads inventory sources, given as file name to content, in the order of their names."""

    def read(files):
        sources = []
        for name, content in files.items():
            path = tmp_path / name
            path.write_text(content)
            sources.append(str(path))
        loader = DataLoader()
        inventory = InventoryManager(loader=loader, sources=[], parse=False)
        for source in sources:
            if source.endswith("plan.yml"):
                plugin = inventory_loader.get("dualstack.fleet.plan")
                assert plugin.verify_file(source)
                plugin.parse(inventory._inventory, loader, source)
            elif "hosts." in source:
                inventory.parse_source(source)
        return inventory._inventory

    return read


def failure(fleet, files):
    with pytest.raises(AnsibleParserError) as raised:
        fleet(files)
    return str(raised.value).splitlines()


def test_hosts_get_their_record_and_the_group_all_the_plan(fleet, messages):
    found = fleet({"01-hosts.yml": HOSTS, "90-plan.yml": PLAN})
    web1 = found.hosts["web1"].vars["dualstack"]
    assert web1["address"] == "2001:db8:100:1::c:30f"
    assert web1["vhosts"] == {"shop": "2001:db8:200:30f:7::/80"}
    assert found.hosts["web2"].vars["dualstack"]["address"] == "2001:db8:100:1::c:401"
    assert found.groups["all"].vars["dualstack_plan"]["classes"]["client"]["prefixes"] == ["2001:db8:100:1::c:0/112"]
    assert messages == []


def test_all_errors_are_shown_and_no_host_gets_anything(fleet):
    broken = PLAN.replace("2001:db8:200::/48", "2001:db8:200::1/48")
    bad = HOSTS.replace("loc_unit: 1}", "loc_unit: 256}")
    lines = failure(fleet, {"01-hosts.yml": bad, "90-plan.yml": broken})
    assert "not usable" in lines[0]
    assert lines[1].startswith("E101 pools.clients.prefix: 2001:db8:200::1/48 has host bits set")
    assert lines[2:] == []
    lines = failure(fleet, {"01-hosts.yml": bad.replace("loc_unit: 15", "loc_unit: x"), "90-plan.yml": PLAN})
    assert [line.split(";")[0] for line in lines[1:]] == [
        "E209 web1: field unit=x is not a whole number",
        "E209 web2: field unit=256 does not fit in 8 bits (0..255)",
    ]


def test_a_plan_that_sorts_first_says_so(fleet):
    lines = failure(fleet, {"00-plan.yml": PLAN, "01-hosts.yml": HOSTS})
    assert lines[1:] == [
        "E401 00-plan.yml saw no hosts; inventory sources are read in order, name this file so that it sorts last"
    ]


def test_the_ledger_lies_beside_the_plan(fleet, messages):
    hosts = HOSTS + "    ci: {hosts: {ci1: {}}}\n"
    lines = failure(fleet, {"01-hosts.yml": hosts, "90-plan.yml": PLAN})
    assert lines[1].startswith("E304 ci1 (class build) has no allocation and mode is frozen; run: ansible-playbook")
    record = '{"i":"c6ab","id":"ci1","p":"device/build","s":"a","t":"2026-01-02"}\n'
    found = fleet({"01-hosts.yml": hosts, "addresses.jsonl": record, "90-plan.yml": PLAN})
    assert found.hosts["ci1"].vars["dualstack"]["address"] == "2001:db8:100:1::b:c6ab"
    assert [line.split()[0] for line in messages] == ["W402"]


@pytest.mark.parametrize("damage", [b"\xff\xfe", None])
def test_a_ledger_that_cannot_be_read_is_an_error(tmp_path, fleet, damage):
    ledger = tmp_path / "addresses.jsonl"
    if damage is None:
        ledger.mkdir()
    else:
        ledger.write_bytes(damage)
    assert failure(fleet, {"01-hosts.yml": HOSTS, "90-plan.yml": PLAN})[1].startswith(f"E308 {ledger}: cannot be read")


def test_a_variable_that_cannot_be_handed_on_is_an_error(fleet, monkeypatch):
    monkeypatch.setenv("DUALSTACK_ALLOCATE", "1")
    hosts = HOSTS.replace("loc_unit: 15", f"loc_unit: 0x{'f' * 5000}")
    assert failure(fleet, {"01-hosts.yml": hosts, "90-plan.yml": PLAN})[1].startswith("E209 a host variable cannot")


def test_warnings_reach_the_user(fleet, messages):
    fleet(
        {"01-hosts.yml": HOSTS.replace("loc_rack: 4, loc_unit: 1}", "loc_rack: 0, loc_unit: 0}"), "90-plan.yml": PLAN}
    )
    assert [line.split(":")[0] for line in messages] == ["W306 client/web2"]


def test_host_vars_and_group_vars_are_read_when_the_plan_says_so(tmp_path, fleet):
    for name, content in (("group_vars/clients.yml", "loc_rack: 5\n"), ("host_vars/web1.yml", "loc_unit: 6\n")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(content)
    hosts = "all: {children: {clients: {hosts: {web1: {}}}}}\n"
    lines = failure(fleet, {"01-hosts.yml": hosts, "90-plan.yml": PLAN})
    assert [line.split(" (")[0] for line in lines[1:]] == [
        "E209 web1: host variable loc_rack",
        "E209 web1: host variable loc_unit",
    ]
    found = fleet({"01-hosts.yml": hosts, "90-plan.yml": PLAN + "use_vars_plugins: true\n"})
    assert found.hosts["web1"].vars["dualstack"]["address"] == "2001:db8:100:1::c:506"


@pytest.mark.parametrize("in_files", [False, True])
def test_variables_of_all_hosts_are_read_and_any_group_overrides_them(tmp_path, fleet, in_files):
    """In INI, because that reader leaves it to Ansible to make "all" everyone's group."""
    hosts = "[clients]\nweb1 loc_unit=1\nweb2 loc_unit=2\n[a_rack]\nweb2\n"
    values = {"all": 3, "a_rack": 4}
    if in_files:
        (tmp_path / "group_vars").mkdir()
        for group, value in values.items():
            (tmp_path / "group_vars" / f"{group}.yml").write_text(f"loc_rack: {value}\n")
    else:
        hosts += "".join(f"[{group}:vars]\nloc_rack={value}\n" for group, value in values.items())
    plan = PLAN + ("use_vars_plugins: true\n" if in_files else "")
    found = fleet({"01-hosts.ini": hosts, "90-plan.yml": plan})
    addresses = [found.hosts[name].vars["dualstack"]["address"] for name in ("web1", "web2")]
    assert addresses == ["2001:db8:100:1::c:301", "2001:db8:100:1::c:402"]


@pytest.mark.parametrize("group", ["all", "ungrouped"])
def test_groups_that_ansible_fills_itself_can_be_a_class(fleet, group):
    plan = PLAN.replace("groups: [clients]", f"groups: [{group}]")
    found = fleet({"01-hosts.yml": "all: {hosts: {web1: {loc_rack: 3, loc_unit: 1}}}", "90-plan.yml": plan})
    assert found.hosts["web1"].vars["dualstack"]["address"] == "2001:db8:100:1::c:301"


@pytest.mark.parametrize(("name", "accepted"), [("90-plan.yml", True), ("plan.yaml", True), ("hosts.yml", False)])
def test_only_files_named_plan_are_taken(tmp_path, name, accepted):
    path = tmp_path / name
    path.write_text(PLAN)
    assert inventory_loader.get("dualstack.fleet.plan").verify_file(str(path)) is accepted


def strings(value):
    if isinstance(value, (dict, list)):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from strings(entry)
    elif isinstance(value, str):
        yield value


@pytest.mark.parametrize(
    ("options", "marked"), [({}, True), ({"export": False, "list": True}, True), ({"args": ("site.yml",)}, False)]
)
def test_what_may_be_exported_has_plain_strings(fleet, monkeypatch, options, marked):
    templating = pytest.importorskip("ansible.template")
    if not hasattr(templating, "is_trusted_as_template"):
        pytest.skip("strings are not tagged before ansible-core 2.19")
    monkeypatch.setattr("ansible.context.CLIARGS", options)
    found = fleet({"01-hosts.yml": HOSTS, "90-plan.yml": PLAN})
    values = [found.hosts["web1"].vars["dualstack"], found.groups["all"].vars["dualstack_plan"]]
    assert {templating.is_trusted_as_template(each) for value in values for each in strings(value)} == {marked}


@pytest.mark.parametrize(
    ("changes", "unreachable"),
    [
        ({}, ["2001:db8:200:7::/64"]),
        ({"unreachable": ""}, []),
        ({"routed_vhosts": ["2001:db8:300:1:7::/80"]}, ["2001:db8:200:7::/64", "2001:db8:300:1:7::/80"]),
    ],
)
def test_a_host_loops_nothing_that_is_routed_to_it(changes, unreachable):
    record = {"on_link": False, "gateway": "", "unreachable": "2001:db8:200:7::/64", **changes}
    loader = DataLoader()
    values = loader.load_from_file(str(ROOT / "roles" / "interfaces" / "vars" / "main.yml"))
    templar = Templar(loader, {"dualstack": record, "interfaces_ipv6_extra_routes": []})
    assert templar.template(trust_as_template(values["__interfaces_routes"])) == [
        {"dest": each, "type": "unreachable", "metric": 4096} for each in unreachable
    ]


def test_the_example_inventory_is_sound():
    loader = DataLoader()
    inventory = InventoryManager(loader=loader, sources=[str(EXAMPLE / "01-hosts.yml")])
    plugin = inventory_loader.get("dualstack.fleet.plan")
    plugin.parse(inventory._inventory, loader, str(EXAMPLE / "90-plan.yml"))
    records = {name: host.vars.get("dualstack") for name, host in inventory._inventory.hosts.items()}
    assert records.pop("probe1") is None
    assert json.loads(json.dumps(records["ci2"]))["address"] == "2001:db8:100:1::b:9799"
    assert records["mx1"]["delegated_prefix"] == "2001:db8:201:25::/64"
    assert all(record["address"].startswith("2001:db8:100:1::") for record in records.values())


OWN = str(ROOT / "playbooks" / "plan.yml")


@pytest.mark.parametrize(
    ("books", "allocating"),
    [
        (("dualstack.fleet.plan",), True),
        ((OWN,), True),
        (("dualstack.fleet.plan", "dualstack.fleet.convert"), False),
        (("dualstack.fleet.convert",), False),
        ((), False),
    ],
)
def test_only_the_playbook_that_writes_the_ledger_is_spared_its_lack(fleet, monkeypatch, books, allocating):
    monkeypatch.setattr(context, "CLIARGS", {"args": books})
    files = {"01-hosts.yml": HOSTS + "    ci: {hosts: {ci1: {secret: 1}}}\n", "90-plan.yml": PLAN}
    if not allocating:
        assert failure(fleet, files)[1].startswith("E304 ci1")
        return
    found = fleet(files)
    given = found.groups["all"].vars["dualstack_plan_input"]
    assert given["plan"].endswith("/90-plan.yml")
    hosts = json.loads(given["hosts"])
    assert hosts["ci1"] == {"groups": ["all", "ci"]}
    assert hosts["web1"] == {
        "groups": ["all", "clients"],
        "loc_rack": 3,
        "loc_unit": 15,
        "dualstack_vhosts": {"shop": "7"},
    }
    assert "dualstack" not in found.hosts["web1"].vars


def test_a_playbook_of_ones_own_may_write_the_ledger_too(fleet, monkeypatch):
    monkeypatch.setenv("DUALSTACK_ALLOCATE", "1")
    assert "dualstack_plan_input" in fleet({"01-hosts.yml": HOSTS, "90-plan.yml": PLAN}).groups["all"].vars


def test_an_export_of_the_inventory_is_plain_json():
    command = pathlib.Path(sys.executable).with_name("ansible-inventory")
    found = subprocess.run(
        [command, "-i", EXAMPLE, "--list", "--export"],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(found.stdout)["_meta"]["hostvars"]["web1"]["dualstack"]["address"] == "2001:db8:100:1::c:2a3f"
    assert "__ansible" not in found.stdout


def test_a_load_of_the_inventory_numbers_once(fleet, monkeypatch):
    plugin = inventory_loader.get("dualstack.fleet.plan")
    module = sys.modules[type(plugin).__module__]
    numbered = []

    def frozen(*arguments):
        numbered.append(arguments)
        return original(*arguments)

    original = module.frozen
    monkeypatch.setattr(module, "frozen", frozen)
    fleet({"01-hosts.yml": HOSTS, "90-plan.yml": PLAN})
    assert len(numbered) == 1


def test_a_new_host_is_one_new_line_of_the_diff(tmp_path):
    copy = tmp_path / "example"
    shutil.copytree(EXAMPLE, copy)
    hosts = (copy / "01-hosts.yml").read_text()
    (copy / "01-hosts.yml").write_text(hosts.replace("        ci1: {", "        ci3: {}\n        ci1: {"))
    before = (copy / "addresses.jsonl").read_text()
    playbook = pathlib.Path(sys.executable).with_name("ansible-playbook")
    found = subprocess.run(
        [playbook, "-i", copy, "dualstack.fleet.plan", "--check", "--diff"],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    changes = [line for line in found.stdout.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert [(json.loads(line[1:])["id"], line[0]) for line in changes if line] == [("ci3", "+")]
    assert "WARNING" not in found.stderr
    assert (copy / "addresses.jsonl").read_text() == before
