"""What is handed over to monitoring, as Debian's own blackbox_exporter and Prometheus read and use it."""

import contextlib
import json
import subprocess
import sys
import urllib.parse

import pytest
from conftest import ROOT

PLACE = "/root/monitoring"
IPV4, IPV6 = "192.0.2.11", "2001:db8::11"
SERVICES = [{"protocol": "ssh", "port": 22}, {"protocol": "http", "port": 80}, {"protocol": "smtp", "port": 25}]
SITE = {"protocol": "http", "port": 80, "site": "shop.example.net"}
SPEAKS = {
    "ftp": "220 ready\r\n", "http": "HTTP/1.0 302 Found\r\nLocation: /x\r\n\r\n", "imap": "* OK ready\r\n",
    "pop3": "+OK ready\r\n", "smtp": "220-web1\r\n220 ready\r\n", "submission": "220 ready\r\n",
    "ssh": "SSH-2.0-OpenSSH\r\n", "tcp": "",
}  # fmt: skip
SERVER = """
import json, socket, sys, threading
def serve(listener, words):
    while True:
        session = listener.accept()[0]
        session.settimeout(5)
        for step in (session.recv, session.sendall) if words.startswith("HTTP") else (session.sendall, session.recv):
            step(999 if step == session.recv else words.encode())
        session.close()
texts, addresses = json.loads(sys.argv[1])
for address in addresses:
    for number, words in enumerate(texts):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.create_server((address, 7000 + number), family=family)
        threading.Thread(target=serve, args=(listener, words)).start()
"""
# What blackbox_exporter makes of each question.
ASK = """
import json, sys, urllib.request
answers = [urllib.request.urlopen(url).read().decode().splitlines() for url in json.loads(sys.argv[1])]
print(json.dumps(["probe_success 1" in lines for lines in answers]))
"""


def state(name, results=()):
    record = {"state": name, "reason": "", "evidence": {"results": list(results)}}
    return {"ansible_facts": {"ansible_local": {"dualstack": record}}}


def hand_over(place, hosts):
    """Run the role for HOSTS with PLACE/out as its directory, and return what Ansible says."""
    fleet = {"all": {"hosts": hosts, "vars": {"ansible_connection": "local", "dns_publisher_ipv6_zone": "example.net"}}}
    (place / "hosts.json").write_text(json.dumps(fleet))
    role = {"role": "dualstack.fleet.monitoring", "monitoring_directory": str(place / "out")}
    (place / "play.json").write_text(json.dumps([{"hosts": "web1", "gather_facts": False, "roles": [role]}]))
    command = [f"{sys.prefix}/bin/ansible-playbook", "-i", place / "hosts.json", place / "play.json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_host_that_is_down_or_was_not_asked_is_watched_as_before(tmp_path):
    names = ("web1", "web2", "web3", "web4")
    hand_over(tmp_path, {name: {"report_contact": state("published", SERVICES)} for name in names})
    before = groups(tmp_path / "out")
    contacts = [state("published", SERVICES), {"unreachable": True, "msg": "no route to host"}, {}, state("verified")]
    hand_over(tmp_path, {name: {"report_contact": contact} for name, contact in zip(names, contacts)})
    after = groups(tmp_path / "out")
    assert after == [group for group in before if group["labels"]["host"] != "web4"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files for two published hosts, one that is only verified, and two of which nothing is known."""
    place = tmp_path_factory.mktemp("monitoring")
    more = [SITE, {"protocol": "dns", "port": 53}, {"protocol": "acme", "port": 80}]
    hosts = {
        "web1": {"report_contact": state("published", [*SERVICES, *more])},
        "web2": {
            "report_contact": state(
                "published", [{"protocol": "imaps", "port": 993}, {"protocol": "http", "port": 8080}]
            ),
            "dns_publisher_ipv6_names": ["mail.example.org"],
        },
        "web3": {"report_contact": state("verified", SERVICES)},
        "web4": {"report_contact": {"unreachable": True, "msg": "no route to host"}},
        "web5": {},
    }
    for changed in ("changed=2", "changed=0"):
        assert changed in hand_over(place, hosts)
    return place / "out"


@pytest.fixture(scope="module")
def monitored(host, files):
    """A host with the files and the programs that read them; a running blackbox_exporter."""
    scratch = host.scratch
    scratch.install("prometheus", "prometheus-blackbox-exporter")
    scratch.run("systemctl", "stop", "prometheus", "prometheus-blackbox-exporter")
    scratch.run("mkdir", "-p", PLACE)
    for path in files.iterdir():
        scratch.run("sh", "-c", f"cat > {PLACE}/{path.name}", stdin=path.read_bytes())
    names = f"{IPV4} both.example.net one.example.net\n{IPV6} both.example.net other.example.net\n"
    scratch.run("sh", "-c", "cat >> /etc/hosts", stdin=names.encode())
    unit = [
        "systemd-run",
        "--quiet",
        "--unit=asks",
        "prometheus-blackbox-exporter",
        f"--config.file={PLACE}/blackbox.yml",
    ]
    scratch.run(*unit)
    scratch.run("timeout", "30", "sh", "-c", "until ss -Hltn 'sport = 9115' | grep -q .; do sleep 0.1; done")
    yield scratch
    scratch.run("systemctl", "stop", "asks")


def groups(files):
    return json.loads((files / "targets.json").read_text())


def test_each_service_of_a_published_host_is_asked_once_over_each_family(files):
    found = {(group["labels"]["host"], *group["targets"], group["labels"]["__param_module"]) for group in groups(files)}
    targets = {
        ("web1", "web1.example.net:22", "ssh"),
        ("web1", "web1.example.net:25", "smtp"),
        ("web1", "web1.example.net:53", "tcp"),
        ("web1", "http://web1.example.net/", "http"),
        ("web1", "http://shop.example.net/", "http"),
        ("web2", "mail.example.org:993", "imaps"),
        ("web2", "http://mail.example.org:8080/", "http"),
    }
    assert found == {(host, target, f"{how}_{family}") for host, target, how in targets for family in ("ipv4", "ipv6")}
    assert len(groups(files)) == 2 * len(targets)


def test_both_programs_read_their_files(monitored):
    monitored.run("prometheus-blackbox-exporter", f"--config.file={PLACE}/blackbox.yml", "--config.check")
    monitored.run("promtool", "check", "rules", f"{PLACE}/rules.yml")
    # The entry as it stands in scrape.yml, which Debian 12's Prometheus does not read by itself yet.
    whole = "cat scrape.yml > prometheus.yml; echo 'rule_files: [rules.yml]' >> prometheus.yml"
    monitored.run("sh", "-ec", f"cd {PLACE}; {whole}; promtool check config prometheus.yml")


@contextlib.contextmanager
def speaking(scratch, *addresses):
    """Have the host say at ADDRESSES what SPEAKS has, each protocol at a port of its own from 7000 on."""
    words = json.dumps([list(SPEAKS.values()), addresses])
    scratch.run("systemd-run", "--quiet", "--collect", "--unit=speaks", "python3", "-c", SERVER, words)
    number = len(SPEAKS) * len(addresses)
    there = f"until test $(ss -Hltn 'sport >= 7000 and sport < 8000' | wc -l) = {number}; do sleep 0.05; done"
    scratch.run("timeout", "30", "sh", "-c", there)
    try:
        yield
    finally:
        scratch.run("systemctl", "stop", "speaks")


@pytest.mark.parametrize(
    ("name", "addresses", "families"),
    [
        ("both", [IPV4], ["ipv4"]),
        ("both", [IPV6], ["ipv6"]),
        ("both", [IPV4, IPV6], ["ipv4", "ipv6"]),
        ("one", [IPV4, IPV6], ["ipv4"]),
        ("other", [IPV4, IPV6], ["ipv6"]),
    ],
)
def test_no_module_falls_back_to_the_other_family(monitored, name, addresses, families):
    asked = {}
    for number, protocol in enumerate(SPEAKS):
        target = f"{name}.example.net:{7000 + number}"
        for family in ("ipv4", "ipv6"):
            words = {"module": f"{protocol}_{family}", "target": f"http://{target}/" if protocol == "http" else target}
            asked[protocol, family] = f"http://127.0.0.1:9115/probe?{urllib.parse.urlencode(words)}"
    with speaking(monitored, *addresses):
        done = monitored.run("python3", "-c", ASK, json.dumps(list(asked.values())))
    answers = dict(zip(asked, json.loads(done.stdout)))
    assert answers == {(protocol, family): family in families for protocol, family in asked}


@pytest.mark.parametrize(("ipv4", "ipv6", "alerts"), [(1, 0, 1), (0, 1, 1), (1, 1, 0), (0, 0, 0)])
def test_the_alert_comes_when_the_families_disagree(monitored, ipv4, ipv6, alerts):
    series = [
        {"series": f'probe_success{{job="dualstack",host="web1",service="smtp",instance="a:25",family="{family}"}}',
         "values": f"{value}+0x10"}
        for family, value in (("ipv4", ipv4), ("ipv6", ipv6))
    ]  # fmt: skip
    labels = {"severity": "critical", "host": "web1", "service": "smtp", "instance": "a:25"}
    does = "answers, IPv4 does not" if ipv6 else "does not answer, IPv4 does"
    annotations = {
        "summary": "smtp of web1 (a:25) answers over one family only",
        "description": f"IPv6 {does}. To take the names of the host back:"
        " ansible-playbook dualstack.fleet.withdraw --limit web1",
    }
    expected = [{"exp_labels": labels, "exp_annotations": annotations}] * alerts
    rule = {"eval_time": "6m", "alertname": "DualStackFamiliesDisagree", "exp_alerts": expected}
    case = {
        "rule_files": ["rules.yml"],
        "tests": [{"interval": "1m", "input_series": series, "alert_rule_test": [rule]}],
    }
    monitored.run("sh", "-c", f"cat > {PLACE}/case.yml", stdin=json.dumps(case).encode())
    done = monitored.run("promtool", "test", "rules", f"{PLACE}/case.yml", check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
