"""Runs on a host whose network the tests break: reads what to do as JSON, writes what came of it as JSON.

The host's cable ends in a network namespace of its own, ``outside``: the router, and whoever else is on the link.
"""

import contextlib
import ctypes
import hashlib
import json
import os
import re
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import time

from module_utils import _network_change, _rollback, _undo
from module_utils._errors import DualStackError
from module_utils._network_change import Request
from module_utils._rollback import Store, is_armed

DEVICE, ADDRESS, ELSEWHERE = "eth0", "198.51.100.10", "203.0.113.1"
STORE = Store()
# The shortest that is allowed: here the rollback is what is tested.
WINDOW, GRACE, PATIENCE, MOST_STEPS = 5, 5, 60, 80
# As long as the window, so that nobody has to wait for it.
_rollback.REVERT_SECONDS = WINDOW
WANTED = {
    "addresses": [{"address": "2001:db8:100:1::c:11/128"}, {"address": "2001:db8:200:1011::1/128", "device": "lo"}],
    "routes": [
        {"dest": "2001:db8:100:1::/64"},
        {"dest": "default", "via": "fe80::1"},
        {"dest": "2001:db8:200:1011::/64", "type": "unreachable", "metric": 4096},
    ],
}
EVENTS = ("os.rename", "os.remove", "os.rmdir", "os.symlink", "subprocess.Popen")
TEMPORARY = r"-\w{8}$"
# What the kernel or the host's own managers change by themselves.
PASSING = ("/etc/fault/", "/etc/hostname", "/etc/mtab", "/etc/resolv.conf", "/etc/.", "/etc/filler", "/etc/machine-id")
SECOND = "/run/fault-second"
REACHED = "/root/fault-step"
PLACES = {"old": "/root/fault-old.json", "new": "/root/fault-new.json"}


def sh(script):
    done = subprocess.run(
        ["sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return done.stdout


# --- a run that is disturbed ------------------------------------------------------------------------------------------


def changes(event, arguments):
    """Whether an audit event is a step: what can be seen from outside, not the parts of a write that is to come."""
    if event == "open":
        writes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        return writes and isinstance(arguments[0], str) and arguments[0] != os.devnull
    if event == "os.mkdir":
        return not os.path.isdir(arguments[0])
    return event in EVENTS and (event == "subprocess.Popen" or os.path.lexists(arguments[0]))


def steps(act):
    """Call ACT with the name of each step of this process that changes the host or runs a program."""
    last, busy = [""], [False]

    def watch(event, arguments):
        if busy[0] or not changes(event, arguments):
            return
        what = " ".join(arguments[1][:7]) if event == "subprocess.Popen" else re.sub(TEMPORARY, "", str(arguments[0]))
        name = f"{event} {what}"
        # A question that is asked again until the answer is right is one step.
        if name == last[0]:
            return
        last[0], busy[0] = name, True
        try:
            act(name)
        finally:
            busy[0] = False

    sys.addaudithook(watch)


def run(state="applied", at=0, do="", *, check=False, window=WINDOW, shift=0, **changed):
    """Run the core in a process of its own and return what it came to; before step AT it suffers DO."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        request = Request(state=state, window=window, **{**WANTED, **changed})
        result = _run(request, at, do, check, shift)
        with os.fdopen(writer, "w") as stream:
            json.dump(result, stream)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        if not select.select([stream], [], [], PATIENCE)[0]:
            os.kill(child, signal.SIGKILL)
        text = stream.read()
    status = os.waitpid(child, 0)[1]
    return {"error": "killed", "rollback": ""} if os.WIFSIGNALED(status) else json.loads(text)


def _run(request, at, do, check, shift):
    if shift:
        real = time.time
        time.time = lambda: real() + shift
    names = []

    def act(name):
        names.append(name)
        if len(names) == at:
            with open(REACHED, "w") as stream:
                stream.write(name)
            suffer(do)

    steps(act)
    try:
        if request.state == "undo":
            _undo.fire(STORE.path, "no confirmation came")
            return {"error": "", "steps": names}
        result = _network_change.run(request, check)
    except DualStackError as error:
        return {"error": str(error), "rollback": error.details.get("rollback", ""), "steps": names}
    keep = ("changed", "rollback", "rollback_detail", "commands", "files", "warnings", "confirm_by")
    return {"error": "", "steps": names, **{key: result[key] for key in keep if key in result}}


def suffer(what):
    """Do to this process, or to its host, WHAT a fault does."""
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "power":
        # Whoever reads this cuts the power.
        os.write(1, b"now\n")
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "advertise":
        advertise()
    elif what.startswith("kill: "):
        sh(what[6:])
        os.kill(os.getpid(), signal.SIGKILL)
    elif what:
        sh(what)


# --- the other side of the cable --------------------------------------------------------------------------------------


@contextlib.contextmanager
def outside():
    """Be in the other network namespace for a while."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/ns/net") as home, open("/run/netns/outside") as there:
        if libc.setns(there.fileno(), 0x40000000):
            raise OSError(ctypes.get_errno(), "setns")
        try:
            yield
        finally:
            libc.setns(home.fileno(), 0x40000000)


def answers(patience=0.0, address=ADDRESS, source=ELSEWHERE):
    """Whether the host greets a new connection, over IPv4 from beyond its router, within PATIENCE seconds."""
    end = time.monotonic() + patience
    while True:
        try:
            with outside():
                session = socket.create_connection((address, 22), 1, (source, 0))
            with session:
                if session.recv(4) == b"SSH-":
                    return True
        except OSError:
            time.sleep(0.05)
        if time.monotonic() > end:
            return False


def echoes():
    """Whether the host answers an echo request over IPv4 from beyond its router."""
    reach = f"nsenter --net=/run/netns/outside ping -c 1 -W 1 -I {ELSEWHERE} {ADDRESS}"
    return subprocess.run(reach.split(), stdout=subprocess.DEVNULL, check=False).returncode == 0


def advertise(router="fe80::bad"):
    """Send one router advertisement (RFC 4861 section 4.2): a default router, and a prefix to make addresses from."""
    sh(f"ip -n outside -6 address replace {router}/64 dev {DEVICE} nodad")
    prefix = struct.pack("!BBBBIII16s", 3, 4, 64, 0xC0, 86400, 14400, 0, socket.inet_pton(10, "2001:db8:bad::"))
    packet = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + prefix
    with outside(), socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sender:
        index = socket.if_nametoindex(DEVICE)
        # Hosts believe advertisements only if no router has passed them on, and only from a link-local address.
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        sender.bind((router, 0, 0, index))
        sender.sendto(packet, ("ff02::1", 0, 0, index))


def wait_for_autoconf(patience):
    """Return the seconds until the host has an address of its own making, or nothing."""
    begin = time.monotonic()
    while time.monotonic() < begin + patience:
        if "dynamic" in " ".join(kernel(6)["ipv6"]):
            return time.monotonic() - begin
        time.sleep(0.05)
    return None


# --- what the host is -------------------------------------------------------------------------------------------------


def snapshot():
    """Return the host's files, kernel settings, addresses and routes, apart from times and what is no one's choice."""
    return {"files": files(), **kernel(4), **kernel(6), "settings": settings()}


def files():
    found = {}
    for directory, _names, names in os.walk("/etc"):
        for name in names:
            path = os.path.join(directory, name)
            if path.startswith(PASSING):
                continue
            info = os.lstat(path)
            data = os.readlink(path) if stat.S_ISLNK(info.st_mode) else ""
            if stat.S_ISREG(info.st_mode):
                with open(path, "rb") as stream:
                    data = hashlib.sha256(stream.read()).hexdigest()
            found[path] = [info.st_mode, info.st_uid, info.st_gid, data]
    return found


def kernel(family):
    lines = []
    for link in json.loads(sh(f"ip -j -{family} address show scope global")):
        for entry in filter(None, link.get("addr_info", [])):
            flags = " ".join(flag for flag in ("tentative", "dadfailed", "dynamic") if entry.get(flag))
            lines.append(f"{entry['local']}/{entry['prefixlen']} dev {link['ifname']} {flags}".strip())
    for route in json.loads(sh(f"ip -j -{family} route show table main")):
        if route.get("protocol") == "kernel":
            continue
        words = [route.get("type", "unicast"), route["dst"], route.get("gateway", ""), route.get("dev", "")]
        lines.append(" ".join(["route", *words, str(route.get("metric", 0)), "ra" * (route.get("protocol") == "ra")]))
    return {f"ipv{family}": sorted(lines)}


def settings():
    found = {}
    for name in ("accept_ra", "autoconf"):
        with open(f"/proc/sys/net/ipv6/conf/{DEVICE}/{name}") as stream:
            found[name] = stream.read().strip()
    # Without advertisements it does nothing, and whether it is set at boot depends on who makes the interface.
    if found["accept_ra"] == "0":
        del found["autoconf"]
    return found


def remember(name):
    with open(PLACES[name], "w") as stream:
        json.dump(snapshot(), stream)


def differs(name, ignored=()):
    """Return what is not as it was in the state NAME; what begins like one of IGNORED does not count."""
    with open(PLACES[name]) as stream:
        then = json.load(stream)
    now, found = snapshot(), []
    for part, value in then.items():
        if isinstance(value, dict):
            found += sorted(key for key in {*value, *now[part]} if value.get(key) != now[part].get(key))
        else:
            found += [f"+{line}" for line in now[part] if line not in value]
            found += [f"-{line}" for line in value if line not in now[part]]
    return [line for line in found if not line.startswith(tuple(ignored))]


def lost_of_ipv4():
    """Return what of the old IPv4 addresses and routes is not there."""
    with open(PLACES["old"]) as stream:
        then = json.load(stream)
    now = kernel(4)["ipv4"]
    return [line for line in then["ipv4"] if line not in now]


def verdict():
    """Return ``old`` or ``new``, or how the host is neither, once it knows its addresses for its own."""
    end = time.monotonic() + GRACE
    while "tentative" in " ".join(kernel(6)["ipv6"]) and time.monotonic() < end:
        time.sleep(0.05)
    # What watches over the change is no part of it; the next run must remove it.
    watch = [*STORE.guards, _undo.temporary(STORE.guards[1])]
    old = differs("old", watch)
    if not old:
        return "old"
    new = differs("new", watch)
    return "new" if not new else f"neither: old but for {old[:6]}, new but for {new[:6]}"


def leftovers():
    """Return what a change that has come to its end must not leave."""
    names = [STORE.file("pending.json"), STORE.file("fired.json"), *STORE.guards]
    return [name for name in names if os.path.lexists(name)] + (["the timer"] if is_armed(STORE) else [])


# --- trials -----------------------------------------------------------------------------------------------------------


def references():
    """Learn what old and new are from an undisturbed change, and how many steps each part of it has."""
    os.makedirs(STORE.path, 0o700, exist_ok=True)  # as the later runs find it, lest their steps be numbered otherwise
    remember("old")
    counts = {}
    for state in ("applied", "confirmed", "reverted"):
        done = run(state)
        if done["error"]:
            raise SystemExit(f"{state}: {done}")
        counts[state] = done["steps"]
        if state == "confirmed":
            remember("new")
    if differs("old") or leftovers() or len(differs("new")) < 4:
        raise SystemExit(f"an undisturbed revert leaves {differs('old')} {leftovers()}")
    return counts


def wait_for_the_end():
    """Wait until no rollback is pending; return the seconds that took, or nothing where none came in time."""
    begin = time.monotonic()
    while is_armed(STORE):
        if time.monotonic() > begin + WINDOW + GRACE:
            return None
        time.sleep(0.05)
    return time.monotonic() - begin


def judge(may_be=("old", "new"), *, after="true", told=None, ssh=True, retry=False, second=False):
    """Look at the host after a fault, which AFTER ends: return what is wrong with it, and with all that can follow.

    TOLD: whether the next run must say that there was a rollback. SSH: whether new connections are let in meanwhile.
    RETRY: the rollback could not be complete; the next run does the rest. SECOND: another run must have been refused.
    """
    if told is None:
        told = is_armed(STORE) and os.path.exists(STORE.file("pending.json"))
    if wait_for_the_end() is None:
        return [f"no rollback within {WINDOW + GRACE} s"]
    if not (answers(GRACE) if ssh else echoes()):
        return ["IPv4 does not answer"]
    sh(after)
    # A run that ended before its step has started no other.
    if second and os.path.exists(REACHED):
        said = sh(f"until [ -s {SECOND} ]; do sleep 0.05; done; cat {SECOND}")
        if "waiting for its confirmation" not in said:
            return ["the second run says", said]
    said = run(check=True)
    if said["error"] or said["rollback"] not in (["fired"] if told else ["none", "fired"]):
        return ["the next run says", said["error"], said["rollback"], said.get("rollback_detail", "")]
    if retry:
        run("reverted")
    found = verdict()
    return epilogue() if found in may_be else [found]


def epilogue():
    """Convert the host, and convert it back: return what is wrong."""
    for state, after in (("applied", ""), ("confirmed", "new"), ("reverted", "old")):
        done = run(state, window=PATIENCE)
        if done["error"]:
            return [f"the next {state}", done["error"]]
        if not after:
            continue
        wrong = differs(after)
        if wrong or leftovers():
            return [f"after the next {state}", *wrong[:6], *leftovers()]
        if after == "new" and run(check=True)["changed"]:
            return ["a second run would change", run(check=True)["commands"]]
    return [] if answers() else ["IPv4 does not answer in the end"]


def disturb(state, at, do, *, before="true", again="true", changed=None, **options):
    """Run STATE and have it suffer DO before step AT, and judge; return where that was, and what is wrong.

    BEFORE are shell commands that make the fault possible, AGAIN those that undo them in the end.
    """
    needs = {"confirmed": ["applied"], "undo": ["applied"], "reverted": ["applied", "confirmed"]}
    for earlier in needs.get(state, []):
        done = run(earlier)
        if done["error"]:
            return "", [earlier, done["error"]]
    sh(f"rm -f {REACHED} {SECOND}; {before}")
    done = run(state, at, do, **(changed or {}))
    wrong = judge(**options)
    sh(again)
    return sh(f"cat {REACHED} 2>&1"), [*wrong, done["error"]] if wrong else []


def sweep(state, do, first=1, every=1, **options):
    """Disturb STATE before its steps in turn, from FIRST; return (step, where, what is wrong) until something is."""
    found = []
    for at in range(first, MOST_STEPS, every):
        where, wrong = disturb(state, at, do, **options)
        if "No such file" in where:
            break
        found.append((at, where, wrong))
        if wrong:
            break
    return found


def main():
    words = json.load(sys.stdin)
    action, arguments = words[0], words[1:]
    json.dump(globals()[action](*arguments[:-1], **arguments[-1]), sys.stdout)


if __name__ == "__main__":
    main()
