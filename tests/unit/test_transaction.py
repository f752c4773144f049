"""All of a change or none of it, whatever fails and whenever the run is killed.

The service is a script that loads its file on "reload"; what it has loaded is what a client would see.
"""

import contextlib
import os
import pathlib
import resource
import signal
import socket

import pytest
from module_utils import _transaction
from module_utils._errors import DualStackError, InputError
from module_utils._transaction import execute, parse

# Builtins of the shell alone: the tests below run this some thousand times.
SERVICE = """#!/bin/sh
slurp() {{ text=; while IFS= read -r line; do text="$text$line
"; done < "$1"; text=$text$line; }}
cd {directory}
slurp loaded; loaded=$text
slurp conf
case $1,$text in
check,*killer*) kill -9 $PPID ;;
check,*invalid*) echo "conf: invalid word"; exit 1 ;;
reload,*) echo reload >> log; printf %s "$text" > loaded ;;
esac
case $1,$text in reload,*crash*) echo "cannot bind"; exit 2 ;; esac
case $1,$loaded in status,*dead*) echo "not running"; exit 3 ;; esac
"""


class World:
    """A directory with a service, its configuration and the transaction's store."""

    def __init__(self, directory):
        self.directory = directory
        self.conf = directory / "conf"
        self.script = directory / "service"
        self.conf.write_text("# mine\na=1\n")
        self.conf.chmod(0o640)
        (directory / "loaded").write_text(self.conf.read_text())
        self.script.write_text(SERVICE.format(directory=directory))
        self.script.chmod(0o755)
        self.store = str(directory / "store")

    def request(self, value="2", **more):
        files = [{"path": str(self.conf), "format": "key_value", "set": {"a": value}}]
        params = {"name": "x", "files": files, "validate": [[str(self.script), "check"]]}
        params |= {"apply": [f"{self.script} reload"], "verify": [{"command": [str(self.script), "status"]}]}
        return parse(params | more)

    def run(self, *args, check_mode=False, **more):
        return execute(self.request(*args, **more), check_mode, self.store)

    def revert(self, **more):
        return self.run(state="reverted", **more)

    @property
    def loaded(self):
        return (self.directory / "loaded").read_text()

    def tree(self):
        """Everything outside the store, but the log of the service."""
        return {
            str(path): (path.read_bytes() if path.is_file() else None, path.stat().st_mode)
            for path in sorted(self.directory.rglob("*"))
            if "store" not in path.parts and path.name != "log"
        }


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_a_change_is_written_applied_and_not_repeated(world):
    first, second = world.run(), world.run()
    assert (first.changed, second.changed) == (True, False)
    assert world.conf.read_text() == world.loaded == "# mine\na=2\n"
    assert world.conf.stat().st_mode & 0o777 == 0o640
    assert [command.split()[-1] for command in first.commands] == ["check", "reload", "status"]
    assert [command.split()[-1] for command in second.commands] == ["status"]
    assert first.files == (str(world.conf),)


def test_check_mode_shows_exactly_what_a_run_does_and_writes_nothing(world):
    before = world.tree()
    shown = world.run(check_mode=True)
    assert world.tree() == before
    assert not pathlib.Path(world.store).exists()
    done = world.run()
    assert (shown.changed, shown.diff, shown.files) == (True, done.diff, done.files)
    assert (shown.diff[0]["before"], shown.diff[0]["after"]) == ("# mine\na=1\n", "# mine\na=2\n")
    assert not world.run(check_mode=True).changed


@pytest.mark.parametrize(
    ("value", "step", "words"),
    [("invalid", "validate", "invalid word"), ("crash", "apply", "cannot bind"), ("dead", "verify", "not running")],
)
@pytest.mark.parametrize("changed_before", [False, True])
def test_a_failure_puts_everything_back(world, value, step, words, changed_before):
    if changed_before:
        world.run()
    before = world.tree()
    with pytest.raises(DualStackError, match=words) as caught:
        world.run(value)
    assert caught.value.details["step"] == step
    assert caught.value.details["restored"] is True
    assert world.tree() == before
    assert world.revert().changed is changed_before
    assert world.conf.read_text() == world.loaded == "# mine\na=1\n"


@pytest.mark.parametrize("state", ["present", "reverted"])
@pytest.mark.parametrize("check_mode", [False, True])
def test_what_is_not_installed_is_skipped_in_words(world, state, check_mode):
    before = world.tree()
    none = [str(world.directory / "a"), str(world.directory / "b")]
    skipped = world.run(state=state, program=none, check_mode=check_mode)
    assert (skipped.changed, skipped.skipped) == (
        False,
        f"x is not installed here (no {none[0]} and no {none[1]}): nothing to do",
    )
    assert world.tree() == before
    assert not pathlib.Path(world.store).exists()
    assert world.run(program=[none[0], str(world.script)]).changed


@pytest.mark.parametrize("check_mode", [False, True])
def test_a_service_that_others_run_is_not_edited(world, check_mode):
    before = world.tree()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=rf"x: port {port}: .* listens there .* unit x\.service"):
            world.run(verify=[{"port": port}], unit="x.service", check_mode=check_mode)
    assert world.tree() == before
    assert not list(pathlib.Path(world.store).glob("*"))


@pytest.mark.parametrize(
    ("header", "owner"),
    [
        ("# Ansible managed", "Ansible"),
        ("# {{ ansible_managed }}", "ansible"),
        ("; This file is managed by Puppet. DO NOT EDIT.", "Puppet"),
        ("  # Generated by Chef for host.example", "Chef"),
        ("// maintained with saltstack", "saltstack"),
    ],
)
def test_a_file_that_a_templating_system_writes_is_edited_on_request_only(world, header, owner):
    world.conf.write_text(f"\n{header}\na=1\n")
    before = world.tree()
    with pytest.raises(InputError, match=rf"conf: line 2 says that {owner} writes"):
        world.run()
    assert world.tree() == before
    assert not world.run("1", apply=[], verify=[]).changed
    assert world.run(managed=True).changed


@pytest.mark.parametrize("comment", ["# BEGIN ANSIBLE MANAGED BLOCK", "# managed by hand", "x = managed by puppet"])
def test_other_comments_do_not_stop_an_edit(world, comment):
    world.conf.write_text(f"{comment}\na=1\n")
    assert world.run().changed


def test_what_somebody_else_changed_meanwhile_is_left_as_he_left_it(world, monkeypatch):
    edits = {"before": "a=1\nb=admin\n", "during": "a=invalid\nb=admin\n"}
    keep = _transaction.Snapshots.keep
    monkeypatch.setattr(
        _transaction.Snapshots, "keep", lambda *words: (keep(*words), world.conf.write_text(edits["before"]))
    )
    with pytest.raises(DualStackError, match="changed it since this run read it"):
        world.run()
    assert world.conf.read_text() == edits["before"]
    monkeypatch.setattr(_transaction.Snapshots, "keep", keep)
    check = [["sh", "-c", f"printf '{edits['during']}' > {world.conf}; exit 1"]]
    with pytest.raises(DualStackError, match=r"RESTORING FAILED TOO(.|\n)*conf.*somebody else changed it"):
        world.run(validate=check)
    assert world.conf.read_text() == edits["during"]
    with pytest.raises(InputError, match="was edited"):
        world.revert()


def test_extended_attributes_stay_there_and_back(world):
    os.setxattr(world.conf, "user.note", b"mine")
    files = [{"path": str(world.conf), "content": "a=2\n"}]
    world.run(files=files)
    assert os.getxattr(world.conf, "user.note") == b"mine"
    world.revert()
    world.run(files=[{"path": str(world.conf)}])
    world.revert()
    assert os.getxattr(world.conf, "user.note") == b"mine"


@pytest.mark.parametrize("text", [b"caf\xe9=1\na=1\n", b"a=1\r\nb=1\r\n", b"a=1"])
def test_encoding_line_ends_and_an_open_last_line_stay(world, text):
    world.conf.write_bytes(text)
    world.run()
    assert world.conf.read_bytes() == text.replace(b"a=1", b"a=2")
    world.revert()
    assert world.conf.read_bytes() == text


def test_a_rejected_file_never_reaches_the_service(world):
    with pytest.raises(DualStackError):
        world.run("invalid")
    assert not (world.directory / "log").exists()


def test_both_errors_are_told_when_restoring_fails_too(world):
    world.script.write_text(world.script.read_text().replace("*crash*", "*"))
    with pytest.raises(DualStackError, match="RESTORING FAILED TOO") as caught:
        world.run()
    assert len(caught.value.details["restore_errors"]) == 1
    assert world.conf.read_text() == "# mine\na=1\n"


def test_a_file_that_cannot_be_written_undoes_those_before_it(world):
    before = world.tree()
    extra = {"path": f"{world.conf}/below-a-file", "content": "x"}
    with pytest.raises(DualStackError, match="below-a-file"):
        world.run(files=[{"path": str(world.conf), "format": "lines", "set": {"add": ["b"]}}, extra])
    assert world.tree() == before


@contextlib.contextmanager
def full_disk(limit):
    """No file can grow beyond LIMIT bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("changed_before", [False, True])
@pytest.mark.parametrize(("limit", "place"), [(1, "store/x"), (3000, "large.conf")])
def test_on_a_full_disk_everything_stays_and_the_error_says_so(world, changed_before, limit, place):
    if changed_before:
        world.run()
    before, log = world.tree(), (world.directory / "log").exists()
    files = [{"path": str(world.conf), "content": ""}, {"path": f"{world.directory}/large.conf", "content": "z" * 5000}]
    message = f"write {world.directory}/{place}: .*File too large\nEvery file is back"
    with full_disk(limit), pytest.raises(DualStackError, match=message) as caught:
        world.run(files=files)
    assert caught.value.details["restored"] is True
    assert world.tree() == before
    assert (world.directory / "log").exists() == log
    assert world.revert().changed is changed_before


def test_a_service_that_does_not_follow_its_unchanged_files_is_an_error(world):
    world.run()
    (world.directory / "loaded").write_text("dead")
    with pytest.raises(DualStackError, match=r"nothing was changed(.|\n)*reload"):
        world.run()


def added(world, word):
    return [{"path": str(world.conf), "format": "lines", "set": {"add": [word]}}]


def test_an_addition_that_is_no_longer_wanted_goes_and_the_way_back_stays_exact(world):
    before = world.tree()
    world.run(files=added(world, "old"))
    with pytest.raises(DualStackError):
        world.run(files=added(world, "crash"))
    shown = world.run(files=added(world, "new"), check_mode=True)
    assert world.run(files=added(world, "new")).diff == shown.diff
    assert world.conf.read_text() == world.loaded == "# mine\na=1\nnew\n"
    assert not world.run(files=added(world, "new")).changed
    world.revert()
    assert world.tree() == before


def test_an_addition_is_known_after_a_kill_anywhere(tmp_path, monkeypatch):
    for step in range(1, 40):
        directory = tmp_path / str(step)
        directory.mkdir()
        world = World(directory)
        world.run(files=added(world, "old"))
        killed = kill_at(step, monkeypatch, lambda world=world: world.run(files=added(world, "new")))
        world.run(files=added(world, "newer"))
        assert world.conf.read_text() == world.loaded == "# mine\na=1\nnewer\n"
        if not killed:
            return
    pytest.fail("the run has more steps than the test expects")


def test_several_files_are_one_unit(world):
    drop_in, gone = world.directory / "new.d" / "y.conf", world.directory / "gone"
    gone.write_text("yes\n")
    gone.chmod(0o600)
    before = world.tree()
    files = [
        {"path": str(drop_in), "content": "z\n", "mode": "0600"},
        {"path": str(gone)},
        {"path": str(world.conf), "format": "key_value", "set": {"a": "2"}},
        {"path": str(world.conf), "format": "lines", "set": {"add": ["b"]}},
        {"path": str(world.directory / "none"), "format": "lines", "set": {"add": ["b"]}, "optional": True},
    ]
    assert len(world.run(files=files).files) == 3
    assert drop_in.stat().st_mode & 0o777 == 0o600
    assert not gone.exists()
    assert world.conf.read_text() == "# mine\na=2\nb\n"
    assert not world.run(files=files).changed
    world.revert()
    assert world.tree() == before


def test_a_pattern_edits_all_its_files_once(world):
    (world.directory / "p.d").mkdir()
    for name in ("1", "2"):
        (world.directory / "p.d" / name).write_text("a=1\n")
    (world.directory / "p.d" / "3").symlink_to("1")
    world.run(files=[{"path": f"{world.directory}/p.d/*", "format": "key_value", "set": {"a": "2"}}])
    assert [(world.directory / "p.d" / name).read_text() for name in "123"] == ["a=2\n"] * 3
    assert (world.directory / "p.d" / "3").is_symlink()


def test_revert_is_exact_and_then_nothing_is_left_to_revert(world):
    before = world.tree()
    world.run()
    world.run("3")
    assert world.revert(check_mode=True).diff[0]["after"] == "# mine\na=1\n"
    assert world.revert().changed
    assert world.tree() == before
    assert world.loaded == "# mine\na=1\n"
    assert not world.revert().changed


def test_revert_refuses_files_that_an_admin_edited_since(world):
    world.run()
    world.conf.write_text("# mine\na=2\nb=admin\n")
    with pytest.raises(InputError, match=f"{world.conf}: was edited"):
        world.revert()
    assert world.conf.read_text() == "# mine\na=2\nb=admin\n"
    world.run("3")  # our next change does not make the admin's edit ours
    with pytest.raises(InputError, match="was edited"):
        world.revert()


def test_a_failed_revert_leaves_the_change_in_place(world):
    world.run()
    before = world.tree()
    world.script.write_text(world.script.read_text().replace("*crash*", "*a=1*"))
    with pytest.raises(DualStackError, match="cannot bind"):
        world.revert()
    world.script.write_text(SERVICE.format(directory=world.directory))
    assert world.tree() == before
    world.revert()
    assert world.conf.read_text() == "# mine\na=1\n"


def test_revert_asks_ipv4_only(world):
    with socket.create_server(("127.0.0.1", 0)) as legacy:
        world.run()
        world.revert(verify=[{"port": legacy.getsockname()[1]}])
    assert world.conf.read_text() == "# mine\na=1\n"


def test_a_missing_file_is_told_with_its_own_remedy(world):
    file = {"path": str(world.directory / "none"), "format": "lines", "set": {"add": ["b"]}}
    for more, words in (({}, "dualstack_services"), ({"missing": "Write one"}, "no such file. Write one")):
        with pytest.raises(InputError) as caught:
            world.run(files=[{**file, **more}])
        assert words in caught.value.problems[0]
    assert "dualstack_services" not in caught.value.problems[0]


def test_secrets_are_not_shown(world):
    secret = world.directory / "secret"
    result = world.run(files=[{"path": str(secret), "content": "hunter2", "mode": "0600", "diff": False}])
    assert "hunter2" not in repr(result)
    assert result.diff
    assert "hunter2" not in repr(world.revert(files=[]))


def test_a_mode_alone_is_a_change_and_shown(world):
    files = [{"path": str(world.conf), "content": "# mine\na=1\n", "mode": "0600"}]
    result = world.run(files=files)
    assert result.changed
    assert result.diff[0]["before"] != result.diff[0]["after"]
    assert not world.run(files=files).changed


def test_all_problems_of_the_input_are_told_at_once(world):
    before = world.tree()
    with pytest.raises(InputError) as caught:
        parse(
            {
                "name": "../x",
                "files": [
                    {"path": "relative", "content": "x", "mode": "rw"},
                    {"path": "/x", "format": "ini", "set": {}},
                    {"path": "/x", "content": "x", "format": "lines", "set": {}},
                ],
                "apply": ["'", []],
                "verify": [{}, {"port": 0, "families": ["ipx"], "expect": "("}, {"port": 1, "resolver": "::1"}],
            }
        )
    assert len(caught.value.problems) == 12
    with pytest.raises(InputError) as caught:
        world.run(
            files=[
                {"path": "/nonexistent/main.cf", "format": "postfix", "set": {"a": "b"}},
                {"path": str(world.conf), "format": "key_value", "set": {"a": True}},
                {"path": str(world.directory), "content": "x"},
            ]
        )
    assert len(caught.value.problems) == 3
    assert "dualstack_services" in caught.value.problems[0]
    assert world.tree() == before


def test_a_resolv_conf_outside_etc_is_not_edited(world):
    (world.directory / "link").symlink_to("conf")
    wanted = {"path": str(world.directory / "link"), "format": "resolv", "set": {"nameserver": {"add": ["192.0.2.53"]}}}
    with pytest.raises(InputError, match=f"link: leads to {world.conf}"):
        world.run(files=[wanted])
    world.conf.write_text("nameserver 192.0.2.53\n")
    assert not world.run(files=[wanted]).changed


def kill_at(step, monkeypatch, action):
    """Run ACTION in a child that is killed before its STEP-th rename, removal or command; return whether it was."""
    child = os.fork()
    if not child:
        left = [step]

        def counted(real):
            def wrapped(*args):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args)

            return wrapped

        monkeypatch.setattr(_transaction, "run", counted(_transaction.run))
        for name in ("mkdir", "rename", "rmdir", "unlink"):
            monkeypatch.setattr(os, name, counted(getattr(os, name)))
        with contextlib.suppress(DualStackError):
            action()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


STORIES = {
    "a change": lambda world, files: world.run(files=files),
    "a second change": lambda world, files: world.run(files=files),
    "a failure": lambda world, files: world.run(files=[*files, {"path": f"{world.conf}", "content": "a=dead"}]),
    "a revert": lambda world, files: world.revert(),
}


@pytest.mark.parametrize(
    ("story", "next_run"), [*((story, "again") for story in STORIES), ("a change", "revert"), ("a revert", "revert")]
)
def test_a_run_killed_anywhere_is_made_good_by_the_next(tmp_path, monkeypatch, story, next_run):
    for step in range(1, 40):
        directory = tmp_path / str(step)
        directory.mkdir()
        world = World(directory)
        before = world.tree()
        files = [
            {"path": str(world.conf), "format": "key_value", "set": {"a": "2"}},
            {"path": str(directory / "y.d" / "new" / "y.conf"), "content": "y"},
        ]
        if story == "a second change":
            world.run("3")
        elif story == "a revert":
            world.run(files=files)
        killed = kill_at(step, monkeypatch, lambda world=world, files=files: STORIES[story](world, files))
        if next_run == "again":
            shown = world.run(files=files, check_mode=True)
            done = world.run(files=files)
            assert (shown.changed, shown.diff) == (done.changed, done.diff)
            assert world.loaded == world.conf.read_text() == "# mine\na=2\n"
            assert not world.run(files=files).changed
        world.revert(files=files)
        assert world.tree() == before
        assert world.loaded == "# mine\na=1\n"
        assert not list((directory / "store").iterdir())
        if not killed:
            return
    pytest.fail("the run has more steps than the test expects")


@pytest.mark.parametrize(
    ("story", "next_run"),
    [("a change", "again"), ("a second change", "again"), ("a change", "revert"), ("a revert", "revert")],
)
def test_an_edit_after_a_kill_is_kept_and_so_is_the_original(tmp_path, monkeypatch, story, next_run):
    for step in range(1, 40):
        directory = tmp_path / str(step)
        directory.mkdir()
        world = World(directory)
        original = world.conf.read_text()
        if story != "a change":
            world.run("3")
        if not kill_at(step, monkeypatch, world.revert if story == "a revert" else world.run):
            return
        world.conf.write_text(world.conf.read_text() + "b=admin\n")
        if next_run == "again":
            world.run()
        try:
            world.revert()
        except InputError:
            assert "b=admin" in world.conf.read_text()
            world.conf.write_text(original)
            world.revert()
            assert world.loaded == world.conf.read_text() == original
        else:
            assert world.conf.read_text() == original + "b=admin\n"
        assert not list((directory / "store").iterdir())
    pytest.fail("the run has more steps than the test expects")


def test_what_a_killed_run_left_is_an_error_while_the_disk_is_full(world, monkeypatch):
    world.conf.write_text("# long enough\n" * 10)
    assert kill_at(0, monkeypatch, lambda: world.run("killer"))
    assert "killer" in world.conf.read_text()
    with full_disk(1), pytest.raises(DualStackError, match=r"x: .*File too large; put that right"):
        world.run()
    world.run()
    world.revert()
    assert world.conf.read_text() == "# long enough\n" * 10


def test_a_name_server_that_is_silent_is_never_written(world):
    before = world.conf.read_bytes()
    with pytest.raises(DualStackError, match="nothing was changed") as error:
        _transaction.execute(
            _transaction.replace(world.request(verify=[{"resolver": "2001:db8::dead"}]), wait=0.1), False, world.store
        )
    assert error.value.details["step"] == "before"
    assert world.conf.read_bytes() == before
    assert not (world.directory / "log").exists()


def test_what_a_run_that_failed_could_not_take_back_is_not_in_force_yet(tmp_path):
    """Somebody edits the file in that run: it stays, with listeners that the service has never read."""
    conf, log = tmp_path / "apache2.conf", tmp_path / "log"
    conf.write_text("Listen 0.0.0.0:8080\n")
    params = {
        "name": "x",
        "files": [{"path": str(conf), "format": "apache", "set": {"Listen": "*", "VirtualHost": "*"}}],
        "apply": [["sh", "-c", f"echo reload >> {log}"]],
        "restart": [["sh", "-c", f"echo restart >> {log}"]],
    }
    edited = [["sh", "-c", f"echo '# by hand' >> {conf}; exit 1"]]
    with pytest.raises(DualStackError, match="somebody else changed it"):
        execute(parse({**params, "validate": edited}), root=str(tmp_path / "store"))
    assert conf.read_text() == "Listen 8080\n# by hand\n"
    execute(parse(params), root=str(tmp_path / "store"))
    assert log.read_text() == "restart\n"
