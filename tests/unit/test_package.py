"""What users install: the tarball holds the collection and nothing else, and works without the checkout."""

import os
import pathlib
import subprocess
import sys
import tarfile

import pytest

pytest.importorskip("ansible", reason="ansible-core is not installed")

ROOT = pathlib.Path(__file__).parents[2]
BIN = pathlib.Path(sys.executable).parent


def ansible(command, *arguments, cwd, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    done = subprocess.run(
        [BIN / command, *map(str, arguments)],
        cwd=cwd,
        env={**clean, "ANSIBLE_HOME": str(cwd / "home"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A directory with the installed collection, and the names in its tarball."""
    place = tmp_path_factory.mktemp("install")
    ansible("ansible-galaxy", "collection", "build", "--output-path", place, ROOT, cwd=place)
    (tarball,) = place.glob("dualstack-fleet-*.tar.gz")
    ansible("ansible-galaxy", "collection", "install", "--offline", "-p", place, tarball, cwd=place)
    with tarfile.open(tarball) as archive:
        return place, archive.getnames()


def test_the_tarball_holds_the_collection_and_nothing_else(installed):
    tops = {name.split("/")[0] for name in installed[1]}
    assert tops == {
        "CHANGELOG.md", "CONTRIBUTING.md", "FILES.json", "LICENSE", "MANIFEST.json", "README.md", "docs",
        "inventories", "meta", "playbooks", "plugins", "roles",
    }  # fmt: skip
    assert not [name for name in installed[1] if "/lab" in name or ".pyc" in name]


def test_every_plugin_and_role_documents_itself(installed):
    place, _names = installed
    for kind in ("module", "filter", "test", "inventory", "callback"):
        folder = ROOT / "plugins" / ("modules" if kind == "module" else kind)
        names = [f"dualstack.fleet.{path.stem}" for path in folder.glob("*.py")]
        shown = ansible("ansible-doc", "-t", kind, *names, cwd=place, ANSIBLE_COLLECTIONS_PATH=str(place))
        assert shown.count("DUALSTACK.FLEET.") + shown.count("dualstack.fleet.") >= len(names)
    roles = [f"dualstack.fleet.{path.name}" for path in (ROOT / "roles").iterdir()]
    ansible("ansible-doc", "-t", "role", *roles, cwd=place, ANSIBLE_COLLECTIONS_PATH=str(place))


def test_every_playbook_runs_by_its_name(installed):
    place, _names = installed
    inventory = place / "ansible_collections" / "dualstack" / "fleet" / "inventories" / "example"
    playbooks = sorted(f"dualstack.fleet.{path.stem}" for path in (ROOT / "playbooks").glob("*.yml"))
    ansible(
        "ansible-playbook", "--syntax-check", "-i", inventory, *playbooks,
        cwd=place, ANSIBLE_COLLECTIONS_PATH=str(place), ANSIBLE_INVENTORY_IGNORE_PATTERNS=r"\.jsonl$",
    )  # fmt: skip
