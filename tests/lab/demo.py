#!/usr/bin/env python3
"""The demonstration: the lab goes from IPv4-only to dual stack while its customers go on; then the proof.

usage: demo.py        (make demo)

Writes build/demo/summary.json, build/demo/convert.log and build/demo/report/index.html. Exit status 0 means: converted,
proven over both families, no mail lost.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import lab

DEMO = lab.ROOT / "build" / "demo"
UPSTREAM = f"{lab.PREFIX}upstream"
TRAFFIC = "/run/traffic.py"
# After publication customers go on for this long, so that mail has used the new names.
AFTERWARDS = 8.0
MACHINE_PROTOCOLS = ["smtp", "imap", "ftp", "http", "ssh"]


def plan() -> dict[str, dict]:
    """Return every host's variables as Ansible sees them: the addresses come from the plan and nowhere else."""
    listing = subprocess.run(
        [lab.ROOT / ".venv/bin/ansible-inventory", "-i", "inventories/lab", "--list"],
        cwd=lab.ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return json.loads(listing.stdout)["_meta"]["hostvars"]


def first_of(prefix: str) -> str:
    """Return the host's own address in its delegated PREFIX."""
    return prefix.split("/", maxsplit=1)[0] + "1"


def sites(hosts: dict[str, dict]) -> dict[str, tuple[str, str]]:
    """Return {virtual host: (machine, its prefix)}."""
    return {
        site: (name, prefix)
        for name, variables in hosts.items()
        for site, prefix in variables.get("dualstack", {}).get("vhosts", {}).items()
    }


class Traffic:
    """The customers, on the upstream host, from construction to `stop`."""

    def __init__(self, hosts: dict[str, dict], **pauses: float) -> None:
        machines = {name: hosts[name]["dualstack_ipv4"] for name in ("web1", "web2")}
        order = {
            "mode": "run",
            "password": password(),
            "mx": hosts["mx1"]["dualstack_ipv4"],
            "machines": machines,
            "sites": {**machines, "tux": hosts["tux"]["dualstack_ipv4"]},
            "pauses": pauses,
        }
        lab.podman("cp", str(lab.HERE / "traffic.py"), f"{UPSTREAM}:{TRAFFIC}")
        self.process = subprocess.Popen(
            lab.privileged("podman", "exec", "-i", UPSTREAM, "python3", TRAFFIC),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def count_anew(self) -> list[dict]:
        """Return the requests counted up to now, and begin a new count."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def stop(self) -> dict:
        """Return what became of the mail, and the requests of the last count."""
        answer, _nothing = self.process.communicate(timeout=120)
        return json.loads(answer)


def password() -> str:
    return json.loads((lab.BUILD / "secrets.json").read_text())["password"]


def convert() -> tuple[int, dict[str, int]]:
    """Run the conversion, show its progress, return its exit status and totals."""
    environment = dict(os.environ, ANSIBLE_STDOUT_CALLBACK="dualstack.fleet.progress", ANSIBLE_NOCOLOR="1")
    command = [
        str(lab.ROOT / ".venv/bin/ansible-playbook"), "-i", "inventories/lab", "dualstack.fleet.convert",
        "-e", json.dumps({"report_directory": str(DEMO / "report")}),
    ]  # fmt: skip
    totals: dict[str, int] = {}
    with open(DEMO / "convert.log", "w", encoding="utf-8") as log:
        run = subprocess.Popen(
            command, cwd=lab.ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for line in run.stdout:
            log.write(line)
            if line.startswith("done: "):
                totals = {key: int(number) for key, number in re.findall(r"(\w+)=(\d+)", line)}
            print(line, end="", flush=True)
    return run.wait(), totals


def prove(hosts: dict[str, dict]) -> list[dict]:
    """Try every service of the client machines from upstream, over each family and inside each delegated prefix."""
    addresses = []
    for name in ("web1", "web2"):
        record = hosts[name]["dualstack"]
        for family, address in (
            ("ipv4", hosts[name]["dualstack_ipv4"]),
            ("ipv6", record["address"]),
            ("ipv6", first_of(record["delegated_prefix"])),
        ):
            addresses.append({"host": name, "family": family, "address": address, "protocols": MACHINE_PROTOCOLS})
    for site, (machine, prefix) in sites(hosts).items():
        own = {"ipv4": hosts[machine]["dualstack_ipv4"], "ipv6": first_of(prefix)}
        addresses += [
            {"host": site, "family": family, "address": address, "protocols": ["http"], "site": site}
            for family, address in own.items()
        ]
    addresses.append(
        {"host": "mx1", "family": "ipv4", "address": hosts["mx1"]["dualstack_ipv4"], "protocols": ["smtp"]}
    )
    addresses.append(
        {"host": "mx1", "family": "ipv6", "address": hosts["mx1"]["dualstack"]["address"], "protocols": ["smtp"]}
    )
    addresses.append(
        {"host": "tux", "family": "ipv4", "address": hosts["tux"]["dualstack_ipv4"], "protocols": ["http"]}
    )
    order = json.dumps({"mode": "prove", "password": password(), "addresses": addresses}) + "\n"
    lab.podman("cp", str(lab.HERE / "traffic.py"), f"{UPSTREAM}:{TRAFFIC}")
    answer = lab.podman("exec", "-i", UPSTREAM, "python3", TRAFFIC, stdin=order.encode())
    return json.loads(answer.stdout)["proof"]


def names(hosts: dict[str, dict], states: dict[str, dict]) -> list[dict]:
    """Ask the name server for the AAAA record of every published host, and of its virtual hosts."""
    planned = {name: (name, hosts[name]["dualstack"]["address"]) for name in states}
    planned |= {site: (name, first_of(prefix)) for site, (name, prefix) in sites(hosts).items()}
    results = []
    for name, (machine, address) in planned.items():
        asked = name if "." in name else f"{name}.example.net"
        answer = lab.output("exec", UPSTREAM, "dig", "+short", "AAAA", asked, "@198.51.100.53")
        wanted = address if states[machine]["state"] == "published" else ""
        results.append({"host": name, "aaaa": answer, "planned": wanted, "ok": answer == wanted})
    return results


def by_service(proof: list[dict]) -> dict[str, dict[str, str]]:
    """Return {host: {family: "smtp imap ..."}}; a protocol that failed on any address of the family is in capitals."""
    table: dict[str, dict[str, str]] = {}
    for host in dict.fromkeys(item["host"] for item in proof):
        for family in ("ipv4", "ipv6"):
            tried = [item for item in proof if item["host"] == host and item["family"] == family]
            words = [
                protocol
                if all(item["ok"] for item in tried if item["protocol"] == protocol)
                else f"{protocol.upper()}!"
                for protocol in dict.fromkeys(item["protocol"] for item in tried)
            ]
            table.setdefault(host, {})[family] = " ".join(words) or "-"
    return table


def show(hosts: dict[str, dict], states: dict[str, dict], proof: list[dict]) -> None:
    services = by_service(proof)
    rows = [("host", "address", "delegated prefix", "state", "IPv4", "IPv6")]
    for name, state in states.items():
        record, families = hosts[name]["dualstack"], services.get(name, {})
        rows.append((
            name, record["address"], record["delegated_prefix"] or "-", state["state"],
            families.get("ipv4", "-"), families.get("ipv6", "-"),
        ))  # fmt: skip
    for site, (machine, prefix) in sites(hosts).items():
        families = services.get(site, {})
        rows.append((
            site, first_of(prefix), prefix, f"on {machine}", families.get("ipv4", "-"), families.get("ipv6", "-"),
        ))  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print()
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    for name, state in states.items():
        if state["reason"]:
            print(f"\n{name} is {state['state']}: {state['reason']}")


def main() -> int:
    DEMO.mkdir(parents=True, exist_ok=True)
    summary_file = DEMO / "summary.json"
    summary_file.unlink(missing_ok=True)
    started = time.monotonic()
    if lab.main(["ensure"]):
        return 1
    hosts = plan()
    traffic = Traffic(hosts)
    interrupted = False
    try:
        status, totals = convert()
        if status == 0 and totals.get("changed"):
            time.sleep(AFTERWARDS)
    except KeyboardInterrupt:
        interrupted = True
        print("\ninterrupted: run `make demo` again and it goes on from here")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    customers = traffic.stop()
    if interrupted:
        return 130
    if status:
        print(f"\nthe conversion stopped (see {DEMO}/convert.log); run `make demo` again when the cause is gone")
        return status
    report = json.loads((DEMO / "report" / "report.json").read_text())
    states = {host["name"]: host for host in report["hosts"]}
    proof, published = prove(hosts), names(hosts, states)
    failed = [item for item in proof + published if not item["ok"]]
    show(hosts, states, proof)

    mail, requests = customers["mail"], customers["requests"]
    tries = {
        protocol: {
            family: {
                "requests": sum(1 for item in proof if item["protocol"] == protocol and item["family"] == family),
                "failed": sum(
                    1 for item in proof if item["protocol"] == protocol and item["family"] == family and not item["ok"]
                ),
            }
            for family in ("ipv4", "ipv6")
        }
        for protocol in MACHINE_PROTOCOLS
    }
    for item in requests:
        for key in ("requests", "failed"):
            tries[item["protocol"]]["ipv4"][key] += item[key]
    summary = {
        "hosts": {
            state: sum(host["state"] == state for host in states.values())
            for state in sorted({h["state"] for h in states.values()})
        },
        "mail": mail,
        "requests": tries,
        "customers": requests,
        "proof": proof,
        "names": published,
        "changed": totals["changed"],
        "seconds": round(time.monotonic() - started, 1),
        "report": str(DEMO / "report" / "index.html"),
    }
    summary_file.write_text(json.dumps(summary, indent=1) + "\n")

    total = sum(item["requests"] for item in requests)
    retried, broken = sum(item["retried"] for item in requests), sum(item["failed"] for item in requests)
    gap = max(requests, key=lambda item: item["longest_gap_s"])
    print(f"\nmail during the conversion: {mail['sent']} sent, {mail['delivered']} delivered, {mail['lost']} lost,")
    print(f"{mail['duplicated']} duplicated, {mail['refused']} refused; {mail['delivered_over_ipv6']} went over IPv6")
    print(f"requests over IPv4 during the conversion: {total}, {broken} failed, {retried} answered at a second try;")
    print(f"longest wait {gap['longest_gap_s']:.2f} s ({gap['protocol']} on {gap['target']})")
    print(f"changes: {totals['changed']}   seconds: {summary['seconds']}")
    print(f"report: {summary['report']}   summary: {summary_file}")
    for item in failed:
        print(f"not proven: {item}")
    return 1 if failed or mail["lost"] or mail["duplicated"] or mail["refused"] or broken else 0


if __name__ == "__main__":
    sys.exit(main())
