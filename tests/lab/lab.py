#!/usr/bin/env python3
"""The lab: a miniature hosting company, IPv4-only, in containers that boot systemd.

One implementation for the demonstration, molecule, benchmarks and fault tests. Its hosts are those of
inventories/lab/01-hosts.yml; what each of them was in its legacy days is the tree tests/lab/hosts/NAME.

usage: lab.py up        make the lab anew, in its legacy state
       lab.py ensure    make it unless this checkout's lab is running
       lab.py down      remove the containers and networks that `up` made, nothing else
       lab.py images    only build the images that are not cached
       lab.py forget    down, and remove the cached images

environment: DUALSTACK_LAB=NAME   another lab beside the first, with containers and networks called NAME-...
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import fcntl
import hashlib
import io
import json
import os
import pathlib
import secrets
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "lab"
BUILD = ROOT / "build" / "lab"
INVENTORY = ROOT / "inventories" / "lab" / "01-hosts.yml"

NAME = os.environ.get("DUALSTACK_LAB", "dualstack")
LABEL = f"{NAME}.fleet.lab"
PREFIX = f"{NAME}-"
LOCK = f"/var/lock/{NAME}-lab"
IMAGE_LOCK = "/var/lock/dualstack-lab-images"
SUITES = {"bookworm": "12", "trixie": "13"}
# Switches without addresses: the engine numbers nothing, and this machine has no route into the lab.
NETWORKS = ("device", "uplink")
# Pure-FTPd needs the last three; the others make the container a machine with a network of its own.
CAPABILITIES = "NET_ADMIN,SYS_ADMIN,NET_RAW,NET_BROADCAST,SYS_NICE,AUDIT_WRITE,DAC_READ_SEARCH"
# podman's own wishes exceed what a machine without CAP_SYS_RESOURCE may give; these are enough for a lab host anywhere.
LIMITS = ["--ulimit", "nofile=16384:16384", "--ulimit", "nproc=8192:8192"]
# The unit of each role's service.
UNITS = {
    "postfix": "postfix",
    "dovecot": "dovecot",
    "pureftpd": "pure-ftpd",
    "apache": "apache2",
    "varnish": "varnish",
    "nginx": "nginx",
    "sshd": "ssh",
    "resolver": "named",
}
IMAGE_BYTES = 5 * 2**30
BOOT_SECONDS = 60


class LabError(Exception):
    """One line that says what is in the way and what to do."""


def say(text: str) -> None:
    print(f"lab: {text}", flush=True)


# --- podman -----------------------------------------------------------------------------------------------------------


def privileged(*words: str) -> list[str]:
    return list(words) if os.geteuid() == 0 else ["sudo", *words]


def podman(*words: str, stdin: bytes | None = None, check: bool = True) -> subprocess.CompletedProcess:
    command = privileged("podman", *words)
    done = subprocess.run(command, input=stdin, capture_output=True, check=False)
    if check and done.returncode:
        shown = " ".join(words[:3])
        message = done.stderr.decode(errors="replace").strip().splitlines() or ["failed without a word"]
        raise LabError(f"podman {shown}: {message[-1]}")
    return done


def output(*words: str) -> str:
    return podman(*words).stdout.decode().strip()


def engine_flags() -> list[str]:
    """What this machine's podman must be told; nothing where its defaults work."""
    # crun cannot boot systemd on the first version of control groups.
    legacy_cgroups = not pathlib.Path("/sys/fs/cgroup/cgroup.controllers").exists()
    return ["--runtime", "runc"] if legacy_cgroups else []


# --- images -----------------------------------------------------------------------------------------------------------


def image_name(suite: str) -> str:
    digest = hashlib.sha256(suite.encode())
    for path in sorted((HERE / "image").rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(HERE)).encode() + path.read_bytes())
    return f"localhost/dualstack-lab:{suite}-{digest.hexdigest()[:12]}"


def has_image(name: str) -> bool:
    return podman("image", "exists", name, check=False).returncode == 0


def build_images() -> None:
    with locked(IMAGE_LOCK):
        build_missing()


def build_missing() -> None:
    wanted = [suite for suite in SUITES if not has_image(image_name(suite))]
    if not wanted:
        return
    for leftover in BUILD.glob("image-*"):  # of a build that was killed
        subprocess.run(privileged("rm", "-rf", str(leftover)), check=True)
    for place in (output("info", "-f", "{{.Store.GraphRoot}}"), str(BUILD)):
        free = shutil.disk_usage(place).free
        if free < IMAGE_BYTES:
            raise LabError(
                f"{place} has {free / 2**30:.1f} GiB free, the images need {IMAGE_BYTES / 2**30:.0f};"
                " make room and run again"
            )
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(build_image, wanted))


def build_image(suite: str) -> None:
    base = f"docker.io/library/debian:{SUITES[suite]}"
    if has_image(base) or podman("pull", "-q", base, check=False).returncode == 0:
        say(f"building the Debian {SUITES[suite]} image from {base}")
        podman("build", "-q", "--build-arg", f"BASE={base}", "-t", image_name(suite), str(HERE / "image"))
    else:
        bootstrap_image(suite)
    say(f"the Debian {SUITES[suite]} image is ready")


def bootstrap_image(suite: str) -> None:
    say(
        f"no container registry answers: bootstrapping Debian {SUITES[suite]} from the package mirror (a minute or two)"
    )
    packages = ",".join((HERE / "image" / "packages.txt").read_text().split())
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="image-") as directory:
        tree = pathlib.Path(directory) / "root.tar"
        tree.write_bytes(pack([(HERE / "image" / "root", {})]))
        archive = pathlib.Path(directory) / f"{suite}.tar"
        command = privileged(
            "mmdebstrap", "--quiet", "--variant=minbase", f"--include={packages}",
            f"--customize-hook=tar -C \"$1\" -xf '{tree}'",
            f"--customize-hook='{HERE}/image/finish' \"$1\"",
            suite, str(archive),
        )  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            (BUILD / f"{suite}.log").write_text(done.stdout + done.stderr)
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise LabError(f"mmdebstrap of {suite} failed: {last} (all of it in {BUILD}/{suite}.log)")
        podman("import", "-q", "--change", 'CMD=["/sbin/init"]', str(archive), image_name(suite))
        subprocess.run(privileged("rm", "-f", str(archive)), check=True)


# --- hosts ------------------------------------------------------------------------------------------------------------


def read_hosts() -> dict[str, dict]:
    """Return {name: variables} of all hosts in the lab's inventory."""
    found: dict[str, dict] = {}

    def walk(group: dict) -> None:
        for name, variables in (group.get("hosts") or {}).items():
            found.setdefault(name, {}).update(variables or {})
        for child in (group.get("children") or {}).values():
            walk(child or {})

    walk(yaml.safe_load(INVENTORY.read_text())["all"])
    return found


def pack(trees: list[tuple[pathlib.Path, dict[str, str]]]) -> bytes:
    """Return a tar of the trees, all owned by root; @NAME@ in a file becomes the value of that name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for tree, values in trees:
            for path in sorted(tree.rglob("*")):
                info = tarfile.TarInfo(str(path.relative_to(tree)))
                if path.is_symlink():
                    info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)
                    archive.addfile(info)
                elif path.is_file():
                    content = path.read_bytes()
                    secret = b"@PASSWORD@" in content or b"@TSIG@" in content
                    for name, value in values.items():
                        content = content.replace(f"@{name}@".encode(), value.encode())
                    info.mode = 0o755 if os.access(path, os.X_OK) else 0o640 if secret else 0o644
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    return _without_padding(buffer, archive)


def _without_padding(buffer: io.BytesIO, archive: tarfile.TarFile) -> bytes:
    """Return the closed ARCHIVE up to its end marker: podman-cp(1) stops reading there, and fails if more comes."""
    return buffer.getvalue()[: archive.offset]


@contextlib.contextmanager
def files_for(container: str) -> Iterator[tarfile.TarFile]:
    """Yield an archive; what was added to it is in CONTAINER afterwards."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        yield archive
    podman("cp", "-", f"{container}:/", stdin=_without_padding(buffer, archive))


def hardware_address(name: str, number: int) -> str:
    """Return a MAC address that the host keeps when it is restarted, as a machine does: its neighbours remember it."""
    digest = hashlib.sha256(f"{name} {number}".encode()).digest()
    return ":".join(f"{octet:02x}" for octet in (0x02, *digest[:5]))


def start_host(name: str, host: dict, values: dict[str, str]) -> None:
    container = PREFIX + name
    nics = [
        f"--network={PREFIX}{network}:interface_name=eth{number},mac={hardware_address(name, number)}"
        for number, network in enumerate(host["lab_networks"])
    ]
    podman(
        *engine_flags(), "create", "--name", container, "--hostname", name, "--label", f"{LABEL}={ROOT}",
        "--systemd=always", "--dns=none", "--no-hosts", "--cap-add", CAPABILITIES, *LIMITS, *nics,
        image_name(host["lab_image"]),
    )  # fmt: skip
    trees = [(HERE / "hosts" / "all", values), (HERE / "hosts" / name, values)]
    podman("cp", "-", f"{container}:/", stdin=pack(trees))
    podman("start", container)
    wait_for_boot(container)
    done = podman("exec", container, "/usr/local/sbin/lab-setup", *host.get("lab_units", []), check=False)
    if done.returncode:
        journal = podman("exec", container, "journalctl", "-b", "-p", "err", "-n", "20", "--no-pager", check=False)
        raise LabError(f"{name}: its services did not start: {done.stderr.decode().strip()}\n{journal.stdout.decode()}")


def wait_for_boot(container: str) -> None:
    deadline = time.monotonic() + BOOT_SECONDS
    state = ""
    while time.monotonic() < deadline:
        # Fails while the bus is not up; from then on it waits for the end of the boot by itself.
        done = podman("exec", container, "systemctl", "is-system-running", "--wait", check=False)
        state = done.stdout.decode().strip()
        if state == "running":
            return
        if state == "degraded":
            failed = podman("exec", container, "systemctl", "--failed", "--plain", "--no-legend", check=False)
            raise LabError(f"{container} started degraded:\n{failed.stdout.decode()}")
        if podman("inspect", "-f", "{{.State.Running}}", container).stdout.strip() != b"true":
            raise LabError(f"{container} stopped while booting: {output('logs', '--tail', '5', container)}")
        time.sleep(0.2)
    raise LabError(
        f"{container} is '{state or 'silent'}' {BOOT_SECONDS} s after its start; see: podman logs {container}"
    )


# --- hosts beside the lab --------------------------------------------------------------------------------------------


class Scratch:
    """A host with no network but its own, and every daemon of the image installed, none configured or started."""

    addresses = ("192.0.2.10/24", "2001:db8::10/64")

    def __init__(self, container: str, suite: str) -> None:
        self.container, self.suite = container, suite

    def run(self, *words: str, stdin: bytes | None = None, check: bool = True) -> subprocess.CompletedProcess:
        """Run WORDS in it as root."""
        return podman("exec", "-i", self.container, *words, stdin=stdin, check=check)

    def put_core(self, *programs: pathlib.Path) -> None:
        """Copy the collection's core to /root/core/module_utils, and PROGRAMS that use it beside that."""
        with files_for(self.container) as archive:
            for path in (ROOT / "plugins" / "module_utils").glob("*.py"):
                archive.add(path, f"root/core/module_utils/{path.name}")
            for path in programs:
                archive.add(path, f"root/core/{path.name}")

    def install(self, *names: str) -> None:
        """Install Debian's packages NAMES, and what they need."""
        script = "mkdir /root/debs; tar -C /root/debs -x; dpkg -i /root/debs/*.deb; rm -r /root/debs"
        archive = packages(self.suite, *names)
        self.run("env", "DEBIAN_FRONTEND=noninteractive", "sh", "-ec", script, stdin=archive)

    def variables(self) -> dict[str, str]:
        """Return what Ansible needs to reach it by SSH."""
        relay = " ".join(privileged("podman", "exec", "-i", self.container, "socat", "-", "TCP4:127.0.0.1:22"))
        return {
            "ansible_host": self.container,
            "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_ssh_private_key_file": str(BUILD / self.container),
            "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
            f" -o ProxyCommand='{relay}'",
        }


@contextlib.contextmanager
def scratch(suite: str, name: str, *networks: str) -> Iterator[Scratch]:
    """Boot a host called NAME from the image of SUITE on NETWORKS, apart from the lab; remove it at the end."""
    BUILD.mkdir(parents=True, exist_ok=True)
    build_images()
    host = Scratch(f"{PREFIX}scratch-{name}", suite)
    podman("rm", "-f", "-v", "-t", "0", "--ignore", host.container)
    key = new_key(BUILD / host.container)
    try:
        podman(
            *engine_flags(), "create", "--name", host.container, "--hostname", name,
            "--label", f"{LABEL}.scratch={ROOT}",
            "--systemd=always", *(f"--network={network}" for network in networks or ["none"]), "--no-hosts",
            "--cap-add", CAPABILITIES, *LIMITS, image_name(suite),
        )  # fmt: skip
        podman("cp", "-", f"{host.container}:/", stdin=pack([(HERE / "hosts" / "all", {"PUBLIC_KEY": key})]))
        podman("start", host.container)
        wait_for_boot(host.container)
        for address in host.addresses:
            host.run("ip", "address", "add", address, "dev", "lo")
        yield host
    finally:
        podman("rm", "-f", "-v", "-t", "0", "--ignore", host.container)


@contextlib.contextmanager
def switches(*names: str) -> Iterator[list[str]]:
    """Make networks without addresses for scratch hosts, called NAMES; remove them at the end."""
    made = [f"{PREFIX}scratch-{name}" for name in names]
    podman("network", "rm", "--force", "-t", "0", *made)
    try:
        for name in made:
            podman(
                "network", "create", "--internal", "--disable-dns", "--ipam-driver", "none",
                "--label", f"{LABEL}.scratch={ROOT}", name,
            )  # fmt: skip
        yield made
    finally:
        podman("network", "rm", "--force", "-t", "0", *made)


def packages(suite: str, *names: str) -> bytes:
    """Return a tar of Debian's packages NAMES, and of what the image of SUITE lacks for them; fetched once."""
    BUILD.mkdir(parents=True, exist_ok=True)
    build_images()
    digest = hashlib.sha256(" ".join([image_name(suite), *names]).encode()).hexdigest()
    store = BUILD / f"packages-{digest[:12]}.tar"
    if not store.exists():
        script = (
            "apt-get -q update >&2; for name; do"
            ' apt-get -qy --no-install-recommends --download-only install "$name" >&2;'
            " done; cd /var/cache/apt/archives; tar -c *.deb"
        )
        # The host's own network: the lab's has no way out.
        fetched = podman(
            *engine_flags(), "run", "--rm", "--network=host", *LIMITS, image_name(suite),
            "sh", "-ec", script, "fetch", *names,
        )  # fmt: skip
        # At once, as another test may be about to read it.
        part = store.with_suffix(f".{os.getpid()}")
        part.write_bytes(fetched.stdout)
        part.replace(store)
    return store.read_bytes()


# --- the lab ----------------------------------------------------------------------------------------------------------


def our_containers() -> dict[str, dict]:
    """Return {name: inspection} of the containers that any checkout has made for the lab of this name."""
    names = output("ps", "-a", "--filter", f"label={LABEL}", "--format", "{{.Names}}").split()
    return {item["Name"]: item for item in json.loads(output("inspect", *names))} if names else {}


def is_running() -> bool:
    ours = our_containers()
    return (BUILD / "id_ed25519").exists() and all(
        (item := ours.get(PREFIX + name))
        and item["State"]["Running"]
        and item["Config"]["Labels"][LABEL] == str(ROOT)
        and item["ImageName"] == image_name(host["lab_image"])
        for name, host in read_hosts().items()
    )


def down() -> None:
    ours = list(our_containers())
    if ours:
        podman("rm", "-f", "-v", "-t", "0", *ours)
    networks = output("network", "ls", "--filter", f"label={LABEL}", "--format", "{{.Name}}").split()
    if networks:
        podman("network", "rm", *networks)
    say(f"removed {len(ours)} containers and {len(networks)} networks")


def forget() -> None:
    down()
    images = set(output("images", "--quiet", "--no-trunc", "--filter", "reference=localhost/dualstack-lab").split())
    if images:
        podman("rmi", "--force", *images)
    say(f"removed {len(images)} cached images")


def up() -> None:
    hosts = read_hosts()
    build_images()
    down()
    present = set(output("ps", "-a", "--format", "{{.Names}}").split())
    present |= set(output("network", "ls", "--format", "{{.Name}}").split())
    taken = sorted(present & {PREFIX + name for name in (*hosts, *NETWORKS)})
    if taken:
        raise LabError(f"podman has a {taken[0]} that this lab did not make; rename or remove it, then run again")
    for name in NETWORKS:
        podman(
            "network", "create", "--internal", "--disable-dns", "--ipam-driver", "none",
            "--label", f"{LABEL}={ROOT}", PREFIX + name,
        )  # fmt: skip
    values = new_secrets()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(start_host, name, host, values) for name, host in hosts.items()]
        problems = [str(error) for job in jobs if (error := job.exception())]
    if problems:
        raise LabError("\n".join(problems))
    say(f"{len(hosts)} hosts are up, IPv4-only")


def new_key(key: pathlib.Path) -> str:
    """Make the SSH key at the path KEY anew and return its public half."""
    for path in (key, key.with_suffix(".pub")):
        path.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "dualstack-lab", "-f", str(key)], check=True)
    return key.with_suffix(".pub").read_text().strip()


def new_secrets() -> dict[str, str]:
    """Make the lab's key, mail password and TSIG secret anew; they never leave this checkout's build directory."""
    values = {
        "PUBLIC_KEY": new_key(BUILD / "id_ed25519"),
        "PASSWORD": secrets.token_urlsafe(12),
        "TSIG": base64.b64encode(secrets.token_bytes(32)).decode(),
    }
    store = BUILD / "secrets.json"
    store.touch(mode=0o600)
    store.write_text(json.dumps({"password": values["PASSWORD"], "tsig": values["TSIG"]}))
    return values


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """The names of a lab and of the images are this machine's: runs wait for each other, whoever started them."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        handle = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def main(arguments: list[str]) -> int:
    actions = {
        "up": up,
        "down": down,
        "ensure": lambda: say("already up") if is_running() else up(),
        "images": build_images,
        "forget": forget,
    }
    if len(arguments) != 1 or arguments[0] not in actions:
        print(__doc__, file=sys.stderr)
        return 2
    BUILD.mkdir(parents=True, exist_ok=True)
    try:
        with locked(LOCK):
            actions[arguments[0]]()
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"lab: {error.filename or 'system'}: {error.strerror}; nothing was started", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
