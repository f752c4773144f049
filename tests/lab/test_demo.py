"""`make demo` from the legacy state to the proof, and once more on the converted lab. Needs root and podman."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SUMMARY = ROOT / "build" / "demo" / "summary.json"


def demo():
    done = subprocess.run([sys.executable, "tests/lab/demo.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(SUMMARY.read_text())


@pytest.fixture(scope="module")
def first():
    subprocess.run([sys.executable, "tests/lab/lab.py", "up"], cwd=ROOT, check=True)
    yield demo()
    subprocess.run([sys.executable, "tests/lab/lab.py", "down"], cwd=ROOT, check=True)


def test_no_mail_is_lost_and_some_of_it_goes_over_ipv6(first):
    mail = first["mail"]
    assert mail["lost"] == 0
    assert mail["sent"] == mail["delivered"] > 20
    assert mail["delivered_over_ipv6"] > 0


def test_every_service_answers_on_both_families_and_inside_the_delegated_prefixes(first):
    assert [item for item in first["proof"] if not item["ok"]] == []
    addresses = {item["address"] for item in first["proof"]}
    assert {
        "2001:db8:100:1::c:1121",
        "2001:db8:200:1121::1",
        "2001:db8:100:1::c:1122",
        "2001:db8:200:1122::1",
    } <= addresses


def test_the_names_have_the_planned_addresses(first):
    published = {item["host"]: item["aaaa"] for item in first["names"] if item["planned"]}
    assert published["web1"] == "2001:db8:100:1::c:1121"
    assert published["bac1"] == "2001:db8:100:1::ad:bac1"
    assert published["films.example.net"] == "2001:db8:200:1122:f115::1"
    assert [item for item in first["names"] if not item["ok"]] == []


def test_nobody_on_ipv4_was_sent_away(first):
    assert [item for item in first["customers"] if item["failed"]] == []


def test_the_host_that_cannot_be_converted_is_counted_and_not_published(first):
    assert first["hosts"]["blocked"] == 1


def test_a_second_run_changes_nothing(first):
    again = demo()
    assert again["changed"] == 0
    assert again["hosts"] == first["hosts"]
