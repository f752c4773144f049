"""Runs on the host: has each case read by its daemon, edits it, has it read again. JSON in, JSON out."""

import ctypes
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time

from module_utils._editors import TREES, edit
from module_utils._errors import InputError

PLACE = "/run/case"
PATIENCE = 10
LONG_AGO = 10**9  # Postfix waits for a second with a file that may still be written
A4, B4, A6, B6 = "192.0.2.10", "192.0.2.11", "2001:db8::10", "2001:db8::11"
CLIENTS = {A4: [A4, B4], "127.0.0.1": ["127.0.0.1"], A6: [A6, B6], "::1": ["::1"], B6: [A6, B6]}
PORTS = (8001, 8002, 8003)


class ParserError(Exception):
    """The daemon's parser did not take the files."""


def run(*command, given=None):
    done = subprocess.run(command, input=given, capture_output=True, check=False)
    if done.returncode:
        raise ParserError(
            f"{' '.join(command)}: rc {done.returncode}: {(done.stdout + done.stderr).decode(errors='replace')}"
        )
    return done.stdout.decode("utf-8", "surrogateescape")


def read(path):
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as stream:
            return stream.read()
    except OSError:
        return None


def write(files):
    for path, text in files.items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            stream.write(text)
        os.utime(path, (LONG_AGO, LONG_AGO))


def edited(edits):
    """Make the EDITS as a transaction does, one upon the other, and return the changed texts."""
    texts = {}

    def now(path):
        return texts[path] if path in texts else read(path)

    for path, form, settings in edits:
        if form in TREES:
            texts.update(TREES[form].edit(path, now, settings))
        else:
            texts[path] = edit(form, now(path), settings)
    return {path: text for path, text in texts.items() if text != read(path)}


# --- the daemons' own parsers ---


def postfix(_ask):
    return {
        name: run("postconf", "-c", PLACE, option)
        for name, option in (("main", "-n"), ("services", "-M"), ("options", "-P"))
    }


def postmap(ask):
    keys = [key for pair in ask["pairs"].items() for key in (*pair, pair[0].rpartition(".")[0])]
    said = subprocess.run(
        ["postmap", "-q", "-", ask["table"]], input="\n".join(keys), capture_output=True, text=True, check=False
    )
    if said.stderr:
        raise ParserError(said.stderr)
    return {**dict.fromkeys(keys, ""), **dict(line.split("\t", 1) for line in said.stdout.splitlines())}


def dovecot(_ask):
    return run("doveconf", "-n", "-c", f"{PLACE}/dovecot.conf")


def apache(_ask):
    return run("apache2", "-t", "-D", "DUMP_CONFIG", "-D", "DUMP_VHOSTS", "-f", f"{PLACE}/apache2.conf")


def nginx(ask):
    """Return what nginx reads, and what each site answers at each address to clients of each family."""
    command = ("nginx", "-p", PLACE, "-c", f"{PLACE}/nginx.conf")
    dump = run(*command, "-q", "-T")
    with open(f"{PLACE}/log", "w") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            started(process)
            answers = {
                f"{address} {port} {name} {number}": answer(address, port, name, source)
                for address, sources in CLIENTS.items()
                for number, source in enumerate(sources)
                for port in PORTS
                for name in ask["names"]
            }
            listening = run("ss", "-Hltn")
        finally:
            process.terminate()
    heard = (line.split()[3] for line in listening.splitlines())
    return {
        "dump": dump,
        "answers": answers,
        "heard": sorted({word for word in heard if int(word.rpartition(":")[2]) in PORTS}),
    }


def started(process):
    """Wait until nginx has written its process id, which it does when it listens."""
    end = time.monotonic() + PATIENCE
    while (read(f"{PLACE}/nginx.pid") or "").strip() != str(process.pid):
        if process.poll() is not None or time.monotonic() > end:
            raise ParserError(f"nginx does not start: {read(f'{PLACE}/log')}")
        time.sleep(0.005)


def answer(address, port, name, source):
    connection = http.client.HTTPConnection(address, port, timeout=PATIENCE, source_address=(source, 0))
    try:
        connection.request("GET", "/", headers={"Host": name})
        response = connection.getresponse()
        return f"{response.status} {response.getheader('X-Site')}"
    except ConnectionRefusedError:
        return ""
    finally:
        connection.close()


def sshd(ask):
    command = ("/usr/sbin/sshd", "-T", "-f", f"{PLACE}/sshd_config")
    found = {"": run(*command)}
    for address in (one for pair in ask["clients"].items() for one in pair):
        found[address] = run(*command, "-C", f"addr={address},user=a,host=a.example,laddr=192.0.2.10,lport=22")
    return found


def varnish(ask):
    run("systemctl", "daemon-reload")
    shown = run("systemctl", "show", "-p", "ExecStart", "-p", "LoadState", ask["unit"])
    return re.findall(r"argv\[\]=(.*?) ;", shown)


def pureftpd(_ask):
    return run("pure-ftpd-wrapper", "--show-options")


def resolv(_ask):
    """Return the servers, the search list and the options as the C library reads them (struct __res_state)."""
    library = ctypes.CDLL("libc.so.6")
    state = ctypes.create_string_buffer(1024)
    if library.__res_ninit(state):
        raise ParserError("res_ninit")
    raw = state.raw
    servers = []
    for number in range(int.from_bytes(raw[16:20], "little")):
        four = raw[20 + 16 * number :][:16]
        if int.from_bytes(four[:2], "little") == socket.AF_INET:
            servers.append(socket.inet_ntop(socket.AF_INET, four[4:8]))
        else:
            pointer = int.from_bytes(raw[536 + 8 * number :][:8], "little")
            servers.append(socket.inet_ntop(socket.AF_INET6, ctypes.string_at(pointer, 28)[8:24]))
    pointers = [int.from_bytes(raw[72 + 8 * number :][:8], "little") for number in range(6)]
    search = [ctypes.string_at(pointer).decode() for pointer in pointers[: pointers.index(0)]]
    return {"servers": servers, "search": search, "timeout": raw[0], "options": int.from_bytes(raw[8:16], "little")}


def shell(_ask):
    return run(
        "sh",
        "-c",
        f'. {PLACE}/values; for key in ONE TWO ONE_MORE; do eval "printf \'%s=%s\\\\n\' $key \\"\\$$key\\""; done',
    )


READERS = {
    each.__name__: each for each in (apache, dovecot, nginx, postfix, postmap, pureftpd, resolv, shell, sshd, varnish)
}


# --- a case ---


def clean(case):
    for path in (PLACE, "/etc/systemd/system/parsed.service.d"):
        shutil.rmtree(path, ignore_errors=True)
    for directory, _names, files in os.walk("/etc/pure-ftpd/conf"):
        for name in files:
            os.remove(os.path.join(directory, name))
    write(case["files"])


def compare(case):
    """Return what the daemon says before and after the edit, the changed texts and what a second edit changes."""
    clean(case)
    reader = READERS[case["reader"]]
    found = {"before": reader(case["ask"])}
    try:
        found["texts"] = edited(case["edits"])
    except InputError as error:
        return {**found, "refused": error.problems}
    write(found["texts"])
    path, form, _settings = case["edits"][0]
    found["after"] = reader(case["ask"])
    if form in TREES:
        found["sockets"] = sorted(TREES[form].sockets(path, read))
    found["again"] = edited(case["edits"])
    return found


def outcome(case):
    try:
        return compare(case)
    except ParserError as error:
        return {"failed": str(error)}


if __name__ == "__main__":
    json.dump([outcome(case) for case in json.load(sys.stdin)], sys.stdout)
