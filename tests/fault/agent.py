"""Runs on the host under test: reads what to do as JSON, does it in order, writes what came of it as JSON."""

import array
import fcntl
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import time

from module_utils._errors import DualStackError
from module_utils._transaction import execute, parse

STEPS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.chown", "os.setxattr", "subprocess.Popen")
MOST_STEPS = 120
PATIENCE = 20
# ioctl_iflags(2)
GET_FLAGS, SET_FLAGS, IMMUTABLE = 0x80086601, 0x40086602, 0x10
LEGACY, BOTH = ["ipv4"], ["ipv4", "ipv6"]


def kill_before(step):
    """Die before the STEP-th call that changes the host: a file opened for writing, a rename, a command."""
    left = [step]

    def watch(event, arguments):
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in STEPS:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def run(params, state="present", check=False, kill=0, confirm=True):
    """Run the core in a process of its own, CONFIRM what waits for it, and return what it came to."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        with os.fdopen(writer, "w") as stream:
            json.dump(outcome({**params, "state": state}, check, kill), stream)
            stream.flush()
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        text = stream.read()
    if os.WIFSIGNALED(os.waitpid(child, 0)[1]):
        return {"error": "killed"}
    done = json.loads(text)
    if confirm and done.get("confirm_by"):
        done["error"] = run({"name": params["name"]}, "confirmed")["error"]
    return done


def outcome(params, check, kill):
    try:
        request = parse(params)
        kill_before(kill)
        result = execute(request, check)
    except DualStackError as error:
        return {"error": str(error), "restored": error.details.get("restored"), "changed": False}
    told = {"error": "", "changed": result.changed, "files": result.files, "skipped": result.skipped}
    return {**told, "warnings": result.warnings, **result.more}


def state():
    """Return what the host's files are, apart from times; and the store, where nothing may be left over."""
    found = {}
    for top in ("/etc", "/var/lib/dualstack"):
        for directory, _names, files in os.walk(top):
            for name in files:
                path = os.path.join(directory, name)
                info = os.lstat(path)
                link = os.readlink(path) if stat.S_ISLNK(info.st_mode) else ""
                names = {} if link else {key: os.getxattr(path, key).hex() for key in os.listxattr(path)}
                data = ""
                if stat.S_ISREG(info.st_mode):
                    with open(path, "rb") as stream:
                        data = hashlib.sha256(stream.read()).hexdigest()
                found[path] = [info.st_mode, info.st_uid, info.st_gid, link, data, names, info.st_nlink]
    return found


def families(question, wanted):
    """Return the families that are served, once they are WANTED: a reload ends before its effect.

    QUESTION is the port that the service listens on, or a shell command that prints them.
    """
    end = time.monotonic() + PATIENCE
    while True:
        found = listeners(question) if isinstance(question, int) else sorted(set(sh(question).split()))
        if found == wanted or time.monotonic() > end:
            return found
        time.sleep(0.05)


def listeners(port):
    rows = sh(f"ss -Hltnp 'sport = :{port}' | grep -v occupant").splitlines()
    words = [row.split()[3] for row in rows]
    six = any(word.startswith(("*", "[")) for word in words)
    four = any(not word.startswith("[") for word in words)
    return [family for family, there in (("ipv4", four), ("ipv6", six)) if there]


def immutable(path, wanted):
    """Set what chattr(1) calls i of the file PATH, or take it off; return whether it was set."""
    with open(path, encoding="utf-8") as stream:
        flags = array.array("l", [0])
        fcntl.ioctl(stream, GET_FLAGS, flags)
        was = bool(flags[0] & IMMUTABLE)
        flags[0] = flags[0] & ~IMMUTABLE | (IMMUTABLE if wanted else 0)
        fcntl.ioctl(stream, SET_FLAGS, flags)
    return was


def sh(script):
    done = subprocess.run(
        ["sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return done.stdout


def sweep(params, question):
    """Kill a run before each of its steps in turn; return the number of kills and the first thing that was wrong."""
    legacy = state()
    for step in range(1, MOST_STEPS):
        sh("systemctl reset-failed")  # systemd refuses a unit that is started this often
        killed = run(params, kill=step)
        done = run(params)
        if "is waiting for its confirmation" in done["error"]:  # killed when all but its answer was done
            done = run(params, "confirmed")
        both = families(question, BOTH)
        again = run(params, check=True)
        back = run(params, "reverted")
        four = families(question, LEGACY)
        left = state()
        wrong = {
            "killed run": killed["error"] not in ("", "killed"),
            "next run": done["error"] or both != BOTH or again["changed"],
            "way back": back["error"] or four != LEGACY or left != legacy,
        }
        if any(wrong.values()):
            changed = sorted(path for path in {*left, *legacy} if left.get(path) != legacy.get(path))
            return [
                step,
                [name for name, is_wrong in wrong.items() if is_wrong],
                killed,
                done,
                both,
                back,
                four,
                changed,
            ]
        if not killed["error"]:
            return [step - 1]
    return [MOST_STEPS, "more steps than expected"]


ACTIONS = {"run": run, "state": state, "families": families, "immutable": immutable, "sh": sh, "sweep": sweep}

if __name__ == "__main__":
    json.dump([ACTIONS[name](*words) for name, *words in json.load(sys.stdin)], sys.stdout)
