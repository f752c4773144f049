"""Whatever goes wrong in a run: the files and listeners are as before, and the error has the words of who failed."""

import pathlib
import re
from dataclasses import dataclass

import pytest
from conftest import BOTH, LEGACY, SERVICES

GUARD = "if {sign}; then {action}; fi"


@dataclass(frozen=True)
class Fault:
    """What is done to the host before the run, and to the host once the files are converted."""

    name: str
    words: str
    before: str = ""
    later: str = ""  # a command among those that make the service read the files
    instead: bool = False  # of those
    needs: str = ""  # what of a service must be known


FULL = "cp -a {place} /run/copy; mount -t tmpfs -o size=2m none {place}; cp -a /run/copy/. {place}; rm -r /run/copy; "
FILL = "dd if=/dev/zero of={place}/filler bs=1k 2>/dev/null; true"
FAULTS = [
    Fault("the checker refuses", "{words}", before="echo '{broken}' >> {file}", needs="broken"),
    Fault("the command fails", "planted words", later=GUARD.format(sign="{sign}", action="echo planted words; exit 1")),
    Fault("the service dies", "port|refused", later=GUARD.format(sign="{sign}", action="systemctl stop {unit}")),
    Fault(
        "another process has the port",
        "[Aa]ddress already in use|occupant",
        before="ln -sf /usr/bin/socat /run/occupant; "
        "systemd-run -q --unit=occupant /run/occupant TCP6-LISTEN:{port},ipv6only=1,fork /dev/null; "
        "until ss -Hltn 'sport = :{port}' | grep -q '::'; do sleep 0.05; done",
    ),
    Fault("only IPv4 answers", "ipv6|::1", later="true", instead=True),
    Fault(
        "only IPv6 answers",
        "ipv4|127.0.0",
        later="nft delete table ip fault 2>/dev/null; "
        + GUARD.format(
            sign="{sign}",
            action="nft 'add table ip fault; add chain ip fault input {{ type filter hook input priority 0; }}; "
            "add rule ip fault input tcp dport {port} reject with tcp reset'",
        ),
    ),
    Fault("the disk is full", "No space left", before=FULL + FILL, needs="broken"),
    Fault(
        "the store is full",
        "No space left",
        before="mkdir -p /var/lib/dualstack; mount -t tmpfs -o size=4k none /var/lib/dualstack; "
        + FILL.format(place="/var/lib/dualstack"),
    ),
    Fault(
        "the file system is read-only",
        "Read-only",
        before="mount --bind {place} {place}; mount -o remount,bind,ro {place}",
    ),
]


def filled(text, service):
    return text.format(**{**vars(service), "place": pathlib.Path(service.file).parent})


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.role)
def test_a_run_that_cannot_end_well_leaves_all_as_it_was(host, service, fault, survived):
    if fault.needs and not getattr(service, fault.needs):
        pytest.skip(f"{service.role} has no {fault.needs} line")
    params = host.params(service)
    if fault.later:
        command = ["sh", "-c", filled(fault.later, service)]
        for step in ("apply", "restart"):
            if params.get(step):
                params[step] = [command] if fault.instead else [*params[step], command]
    before, done, families, after = host.play(
        service,
        *([["sh", filled(fault.before, service)]] if fault.before else []),
        ["state"],
        ["run", params],
        ["listeners", service.port, LEGACY],
        ["state"],
    )[-4:]
    assert re.search(filled(fault.words, service), done["error"]), done
    assert done["restored"] is not False, done  # None: it was refused before anything was written
    assert families == LEGACY
    assert after == before
    survived(service, fault.name)


KEPT = {
    "a symbolic link": "mv {file} /root/real && ln -s /root/real {file}",
    "a file that nobody may write": "chmod 0444 {file}",
    "a file of another owner": "chown 4242:4343 {file}",
    "extended attributes": 'python3 -c \'import os; os.setxattr("{file}", "user.note", b"mine")\'',
}


@pytest.mark.parametrize("kind", KEPT)
@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.role)
def test_what_a_file_is_stays_there_and_back(host, service, kind, survived):
    params = host.params(service)
    _, before, done, families, changed, back, after = host.play(
        service,
        ["sh", filled(KEPT[kind], service)],
        ["state"],
        ["run", params],
        ["listeners", service.port, BOTH],
        ["state"],
        ["run", params, "reverted"],
        ["state"],
    )
    assert (done["error"], back["error"]) == ("", "")
    assert families == BOTH
    assert after == before
    if service.file in changed:
        kept = [0, 1, 2, 3, 5]
        assert [changed[service.file][part] for part in kept] == [before[service.file][part] for part in kept]
    survived(service, kind)


@pytest.mark.parametrize("service", [one for one in SERVICES if one.broken], ids=lambda service: service.role)
def test_what_an_admin_writes_meanwhile_is_never_lost(host, service, survived):
    params = host.params(service)
    note = filled("echo '# by hand' >> {file}", service)
    _, failed, _, kept, done, families, _, back = host.play(
        service,
        ["sh", "true"],
        ["run", {**params, "validate": [["sh", "-c", f"{note}; echo planted words; exit 1"]]}],
        ["listeners", service.port, LEGACY],
        ["sh", f"grep -c '# by hand' {service.file}"],
        ["run", params],
        ["listeners", service.port, BOTH],
        ["sh", note],
        ["run", params, "reverted"],
    )
    assert "planted words" in failed["error"]
    assert re.search(f"{service.file.rpartition('/')[2]}.*somebody else changed it", failed["error"])
    assert failed["restored"] is False
    assert kept.strip() == "1"
    assert (done["error"], families) == ("", BOTH)
    assert "was edited" in back["error"]
    survived(service, "an admin edits meanwhile", 2)
