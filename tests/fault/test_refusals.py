"""Whatever goes wrong in a run: the files and listeners are as before, and the error has the words of who failed."""

import pathlib
import re
from dataclasses import dataclass

import pytest
from conftest import BOTH, LEGACY, SERVICES

CAP_LINUX_IMMUTABLE = 9  # capabilities(7), linux/capability.h
GUARD = "if {sign}; then {action}; fi"


@dataclass(frozen=True)
class Fault:
    """What is done to the host before the run, and to the host once the files are converted."""

    name: str
    words: str
    before: str = ""
    later: str = ""  # a command among those that make the service read the files
    instead: bool = False  # of those
    of: str = ""  # the property that a service must have; "asked": no port, but another program's answer

    def concerns(self, service):
        return not service.port if self.of == "asked" else not self.of or bool(getattr(service, self.of))


def refuse(family, what):
    """Return the command after which nobody gets WHAT over FAMILY; RESET takes it away."""
    return (
        f"nft 'add table {family} fault; add chain {family} fault input {{{{ type filter hook input priority 0; }}}}; "
        f"add rule {family} fault input {what}'"
    )


FULL = "cp -a {place} /run/copy; mount -t tmpfs -o size=16m none {place}; cp -a /run/copy/. {place}; rm -r /run/copy; "
FILL = "dd if=/dev/zero of={place}/filler bs=1k 2>/dev/null; true"
SILENT = refuse("ip6", "udp dport 53 reject")
FAULTS = [
    Fault("the checker refuses", "{words}", before="{broken}", of="broken"),
    Fault("the command fails", "planted words", later=GUARD.format(sign="{sign}", action="echo planted words; exit 1")),
    Fault(
        "the service dies",
        "port|refused",
        later=GUARD.format(sign="{sign}", action="systemctl stop {unit}"),
        of="port",
    ),
    Fault(
        "another process has the port",
        "[Aa]ddress already in use|occupant",
        before="ln -sf /usr/bin/socat /run/occupant; "
        # Sessions that a daemon of both families had there may linger in TIME-WAIT.
        "systemd-run -q --unit=occupant /run/occupant TCP6-LISTEN:{port},ipv6only=1,reuseaddr,fork /dev/null; "
        "timeout 10 sh -c \"until ss -Hltn 'sport = :{port}' | grep -q '::'; do sleep 0.05; done\"",
        of="port",
    ),
    Fault("only IPv4 answers", "ipv6|::1", later="true", instead=True, of="port"),
    Fault(
        "only IPv6 answers",
        "ipv4|127.0.0",
        later="nft delete table ip fault 2>/dev/null; "
        + GUARD.format(sign="{sign}", action=refuse("ip", "tcp dport {port} reject with tcp reset")),
        of="port",
    ),
    Fault("the new server is silent", "2001:db8::10.*nothing was changed", before=SILENT, of="asked"),
    Fault("the new server falls silent", "2001:db8::10", later=GUARD.format(sign="{sign}", action=SILENT), of="asked"),
    Fault("the disk is full", "No space left", before=FULL + FILL),
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
    Fault("the file has another name", "{file}.*/etc/other.*hard link", before="ln {file} /etc/other"),
]


def filled(text, service):
    return text.format(**{**vars(service), "unit": service.unit, "place": pathlib.Path(service.file).parent})


def called(one):
    return one.name.replace(" ", "-")


@pytest.mark.parametrize(
    ("service", "fault"),
    [
        pytest.param(one, fault, id=f"{called(one)}-{called(fault)}")
        for one in SERVICES
        for fault in FAULTS
        if fault.concerns(one)
    ],
)
def test_a_run_that_cannot_end_well_leaves_all_as_it_was(host, service, fault, survived):
    params = host.params(service)
    if fault.later:
        command = ["sh", "-c", filled(fault.later, service)]
        for step in ("apply", "restart"):
            if params.get(step) or step == "apply":
                params[step] = [command] if fault.instead else [*(params[step] or ()), command]
    before, done, families, after = host.play(
        service,
        *([["sh", filled(fault.before, service)]] if fault.before else []),
        ["state"],
        ["run", params],
        ["families", service.question, LEGACY],
        ["state"],
    )[-4:]
    assert re.search(filled(fault.words, service), done["error"]), done
    assert done["restored"] is not False, done  # None: it was refused before anything was written
    assert families == LEGACY
    assert after == before
    survived(service, fault.name)


KEPT = {
    "a symbolic link": "mv {file} /etc/real && ln -s /etc/real {file}",
    "a file that nobody may write": "chmod 0444 {file}",
    "a file of another owner": "chown 4242:4343 {file}",
    "extended attributes": 'python3 -c \'import os; os.setxattr("{file}", "user.note", b"mine")\'',
}


@pytest.mark.parametrize("kind", KEPT)
@pytest.mark.parametrize("service", SERVICES, ids=called)
def test_what_a_file_is_stays_there_and_back(host, service, kind, survived):
    params = host.params(service)
    _, before, done, families, changed, back, after = host.play(
        service,
        ["sh", filled(KEPT[kind], service)],
        ["state"],
        ["run", params],
        ["families", service.question, BOTH],
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


@pytest.mark.parametrize("service", SERVICES, ids=called)
def test_a_file_that_nobody_may_change_is_told_before_anything_is_written(host, service, survived):
    capabilities = re.search(r"CapBnd:\s*(\w+)", pathlib.Path("/proc/self/status").read_text())
    if not int(capabilities[1], 16) & 1 << CAP_LINUX_IMMUTABLE:
        pytest.skip("CAP_LINUX_IMMUTABLE is missing")
    params = host.params(service)
    before, _, looked, done, families, was, after = host.play(
        service,
        ["state"],
        ["immutable", service.file, True],
        ["run", params, "present", True],
        ["run", params],
        ["families", service.question, LEGACY],
        ["immutable", service.file, False],
        ["state"],
    )
    assert looked["error"] == done["error"]
    assert re.search(f"{service.file}: .*immutable.*chattr -i", done["error"])
    assert (was, families, after) == (True, LEGACY, before)
    survived(service, "the file is immutable")


@pytest.mark.parametrize("service", SERVICES, ids=called)
def test_what_an_admin_writes_meanwhile_is_never_lost(host, service, survived):
    params = host.params(service)
    note = f"echo >> {service.file}; cp {service.file} /run/noted"
    failed, _, lost, done, families, _, back, lost_later = host.play(
        service,
        ["run", {**params, "validate": [["sh", "-c", f"{note}; echo planted words; exit 1"]]}],
        ["families", service.question, LEGACY],
        ["sh", f"cmp {service.file} /run/noted"],
        ["run", params],
        ["families", service.question, BOTH],
        ["sh", note],
        ["run", params, "reverted"],
        ["sh", f"cmp {service.file} /run/noted"],
    )
    assert "planted words" in failed["error"]
    assert re.search(f"{service.file.rpartition('/')[2]}.*somebody else changed it", failed["error"])
    assert failed["restored"] is False
    assert (lost, lost_later) == ("", "")
    assert (done["error"], families) == ("", BOTH)
    assert "was edited" in back["error"]
    survived(service, "an admin edits meanwhile", 2)


@pytest.mark.parametrize("service", [one for one in SERVICES if one.port], ids=called)
def test_a_service_that_is_switched_off_is_not_started(host, service, survived):
    params = host.params(service)
    # Not disable --now, which leaves a daemon of System V running.
    off = ["sh", f"systemctl disable {service.unit}; systemctl stop {service.unit}"]
    on = ["sh", f"systemctl enable {service.unit}"]
    _, _, before, looked, done, families, after, _, refused, down, _, turned, _, _, back, still, left = host.play(
        service,
        off,
        ["families", service.question, []],
        ["state"],
        ["run", params, "present", True],
        ["run", params],
        ["families", service.question, []],
        ["state"],
        on,
        ["run", params],
        ["families", service.question, []],
        ["sh", f"systemctl start {service.unit}"],
        ["run", params],
        off,
        ["families", service.question, []],
        ["run", params, "reverted"],
        ["families", service.question, []],
        ["state"],
    )
    assert (looked, done["error"], done["changed"]) == (done, "", False)
    assert "is switched off here" in done["skipped"]
    assert "is enabled and does not run" in refused["error"]
    assert (families, down, still) == ([], [], [])
    assert (turned["error"], back["error"], back["changed"]) == ("", "", True)
    assert after == left == before
    survived(service, "the service is switched off", 3)
