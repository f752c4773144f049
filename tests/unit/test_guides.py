"""The guides: what they tell to type is typed, and what they say comes out comes out."""

import doctest
import os
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("ansible", reason="ansible-core is not installed")

ROOT = pathlib.Path(__file__).parents[2]
GUIDES = sorted((ROOT / "docs" / "docsite" / "rst").glob("*.rst"))
BLOCK = re.compile(r"^\.\. code-block:: console\n((?:   :.*\n)*)\n((?:(?:   .*)?\n)+)", re.MULTILINE)
README = (ROOT / "README.md").read_text()
SAME = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def steps(guide):
    """Yield (command, expected output) of a guide's runnable blocks."""
    for options, body in BLOCK.findall(guide.read_text() + "\n"):
        if ":class: runnable" in options:
            for step in re.split(r"^\$ ", textwrap.dedent(body), flags=re.MULTILINE)[1:]:
                command, _newline, expected = step.partition("\n")
                yield command, expected.strip("\n")


@pytest.fixture
def shell(tmp_path):
    """Return a function that runs a command of a guide in a copy of what the guide is about, under version control."""
    shutil.copytree(ROOT / "inventories" / "example", tmp_path / "inventories" / "example")
    shutil.copy(ROOT / "ansible.cfg", tmp_path)
    (tmp_path / ".ansible").symlink_to(ROOT / ".ansible")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "GIT_"))}
    git = {f"GIT_{role}_{key}": "a@example.net" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    environment = {
        **clean,
        **git,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "ANSIBLE_HOME": str(tmp_path / "home"),
        "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
    }

    def run(command, returncode=0):
        done = subprocess.run(
            ["/bin/sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == returncode, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr if returncode else done.stdout

    run("git init -q && git add inventories && git commit -q -m Start")
    return run


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_every_command_does_what_the_guide_says(guide, shell):
    known = list(steps(guide))
    assert known
    for command, expected in known:
        found = shell(command)
        assert doctest.OutputChecker().check_output(expected + "\n", found, SAME), f"{command}\n{found}"


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_no_command_goes_untried(guide):
    text = guide.read_text()
    assert text.count(".. code-block:: console") == text.count("   :class: runnable") == len(BLOCK.findall(text + "\n"))
    assert len(re.findall(r"^   \$ ", text, re.MULTILINE)) == len(list(steps(guide)))
    assert max(map(len, text.splitlines())) <= 140


def test_a_newcomer_adds_a_host_by_the_readme(tmp_path, shell):
    section = README.partition("\n## Plan\n")[2].partition("\n## ")[0]
    plan, *blocks = (textwrap.dedent(block) for block in re.findall(r"(?:^    .*\n)+", section, re.MULTILINE))
    give, look, write = blocks[:3]
    assert len(plan.splitlines()) == 1 + 9
    assert set(blocks[3].splitlines()) <= set((ROOT / "ansible.cfg").read_text().splitlines())
    inventory = tmp_path / "inventories" / "fleet"
    inventory.mkdir()
    (inventory / "90-plan.yml").write_text(plan)
    groups = {"admin": ["dev"], "clients": ["ci1", "ci2"]}
    hosts = inventory / "01-hosts.ini"
    hosts.write_text("".join(f"[{group}]\n{chr(10).join(names)}\n" for group, names in groups.items()))
    shell(give)

    def records():
        return (inventory / "addresses.jsonl").read_text().splitlines()

    before = records()
    assert len(before) == 3  # the first line, and those of ci1 and ci2
    hosts.write_text(f"{hosts.read_text()}ci3\n")
    assert "E304 ci3 (class client) has no allocation" in shell("ansible-inventory -i inventories/fleet --list", 1)
    lines = re.findall(r"^[+-]\{.*", shell(look), re.MULTILINE)
    shown, first, second = re.search(r"`(\{.*),\.\.\.\}`: `ci3` gets (\S+) and (\S+)\.", section).groups()
    assert lines == [lines[0]] and lines[0].startswith(f"+{shown},")
    assert records() == before
    shell(write)
    assert records() == sorted([*before, lines[0][1:]])
    assert "1\t0\tinventories/fleet/addresses.jsonl\n" in shell("git show --numstat --format=%s")
    assert shell("git status --porcelain inventories") == ""
    answer = shell("ansible -i inventories/fleet ci3 -m ansible.builtin.debug -a var=dualstack")
    assert f'"address": "{first}"' in answer and f'"delegated_prefix": "{second}"' in answer
    for option in re.findall(r"`(-e [^`]*)`", section):  # of hosts that are gone, renamed, or have an address
        hosts.write_text("[admin]\ndev\n[clients]\nci7\nci3\nci4\n")
        assert re.search(r"^\+\{", shell(f"{look.strip()} {option}"), re.MULTILINE), option


def test_every_guide_is_in_the_table_of_contents():
    contents = (ROOT / "docs" / "docsite" / "extra-docs.yml").read_text()
    assert [path.stem for path in GUIDES] == re.findall(r"^      - (\w+)$", contents, re.MULTILINE)
