"""The way back of a network change: what an interrupted or unconfirmed run leaves, and who cleans it up."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from module_utils import _rollback, _undo
from module_utils._command import Outcome
from module_utils._errors import DualStackError
from module_utils._files import FileState, packed, read_file, write_file
from module_utils._rollback import Store


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store whose guard unit stays in the test's directory and whose timer is never there; no systemd is asked."""
    monkeypatch.setattr(_rollback, "run", lambda command: Outcome(0, ""))
    made = Store(str(tmp_path / "lib" / "dualstack" / "network"), "dualstack-rollback-of-a-unit-test", str(tmp_path))
    with made.locked():
        pass
    return made


@pytest.fixture
def pending(store, tmp_path):
    """A change of two files, one of them new, that is pending."""
    old = FileState(str(tmp_path / "interfaces"), b"old\n", 0o640, os.getuid(), os.getgid())
    new = FileState(str(tmp_path / "own.d" / "eth0"), None, 0o644, os.getuid(), os.getgid())
    write_file(old)
    changes = [
        (old, FileState(old.path, b"ours\n", 0o640, old.uid, old.gid)),
        (new, FileState(new.path, b"x\n", 0o644)),
    ]
    store.save(
        "pending.json",
        {
            "deadline": 0,
            "window": 60,
            "commands": [],
            "reload": [],
            "files": [packed(before) for before, _after in changes],
            "after": [packed(after) for _before, after in changes],
            "directories": [str(tmp_path / "own.d")],
            "settings": [],
            "guard": [],
            "owned": {"eth0": {"addresses": [], "routes": []}},
        },
    )
    for _before, after in changes:
        write_file(after)
    return changes


def test_the_store_is_for_root_only(store):
    assert os.stat(store.path).st_mode & 0o777 == 0o700
    store.save("record.json", {})
    assert os.stat(store.file("record.json")).st_mode & 0o777 == 0o600


def test_undo_restores_files_byte_for_byte(store, pending, tmp_path):
    assert _undo.fire(store.path, "because") == []
    assert read_file(pending[0][0].path) == pending[0][0]
    assert not (tmp_path / "own.d").exists()
    assert store.load("pending.json") is None
    assert store.load("fired.json")["reason"] == "because"
    assert _undo.fire(store.path, "again") == []
    assert store.load("fired.json")["reason"] == "because"


def test_the_copied_script_undoes_alone(store, pending):
    write_file(FileState(store.file("undo.py"), read_file(_undo.__file__).content, 0o700))
    done = subprocess.run(
        [sys.executable, "-I", store.file("undo.py"), "boot"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert read_file(pending[0][0].path).content == b"old\n"
    assert "restarted" in store.load("fired.json")["reason"]


def test_a_failing_step_does_not_stop_the_others_and_is_told(store, pending):
    record = store.load("pending.json")
    record["commands"] = [["false"], ["/no/such/program"]]
    record["files"].insert(0, {**record["files"][0], "path": "/proc/nothing/file"})
    store.save("pending.json", record)
    problems = _undo.fire(store.path, "because")
    assert len(problems) == 3
    assert read_file(pending[0][0].path).content == b"old\n"


def test_what_is_gone_already_is_no_problem():
    gone = [["sh", "-c", "echo 'RTNETLINK answers: No such process' >&2; exit 2"]]
    assert _undo.carry_out({"commands": gone}) == []


def test_an_interrupted_run_is_found_and_cleaned_up(store, pending):
    assert _rollback.leftover(store).state == "fired"
    _rollback.clear(store)
    assert read_file(pending[0][0].path).content == b"old\n"
    assert _rollback.leftover(store).state == "none"


def test_a_fired_rollback_is_reported_with_time_and_reason(store):
    store.save("fired.json", {"reason": "no confirmation came", "time": 0, "window": 60, "problems": ["x: y"]})
    left = _rollback.leftover(store)
    assert left.state == "fired"
    assert "1970-01-01T00:00:00Z: no confirmation came; x: y" in left.text


def test_confirm_records_and_revert_restores(store, pending, tmp_path):
    _rollback.confirm(store)
    assert _rollback.leftover(store).state == "none"
    assert store.load("record.json")["owned"] == {"eth0": {"addresses": [], "routes": []}}
    assert _rollback.edited_files(store) == []
    _rollback.revert(store, [], [])
    assert read_file(pending[0][0].path) == pending[0][0]
    assert not (tmp_path / "own.d").exists()
    assert store.load("record.json") is None
    assert store.originals.load() == {}


def test_a_second_change_keeps_the_first_originals(store, pending):
    _rollback.confirm(store)
    path = pending[0][0].path
    later = (read_file(path), FileState(path, b"ours again\n", 0o640, os.getuid(), os.getgid()))
    store.save(
        "pending.json",
        {
            **json.loads('{"deadline": 0, "window": 60, "directories": [], "owned": {}}'),
            "settings": [],
            "files": [packed(later[0])],
            "after": [packed(later[1])],
        },
    )
    write_file(later[1])
    _rollback.confirm(store)
    _rollback.revert(store, [], [])
    assert read_file(path).content == b"old\n"


def test_an_edited_file_is_named(store, pending):
    _rollback.confirm(store)
    write_file(FileState(pending[0][0].path, b"by hand\n"))
    assert _rollback.edited_files(store) == [pending[0][0].path]


def test_an_original_that_is_back_already_is_no_edit(store, pending):
    _rollback.confirm(store)
    write_file(pending[0][0])
    os.unlink(pending[1][0].path)
    assert _rollback.edited_files(store) == []
    _rollback.revert(store, [], [])
    assert read_file(pending[0][0].path) == pending[0][0]
    assert store.originals.load() == {}


def test_a_setting_goes_back_to_the_hosts_own_value(store, tmp_path):
    setting = tmp_path / "accept_ra"
    setting.write_text("0")
    _rollback.own(store, {}, settings=[(str(setting), "1")])
    _rollback.own(store, {}, settings=[(str(setting), "0")])
    _rollback.revert(store, [], [])
    assert setting.read_text() == "1"


@pytest.mark.parametrize("name", ["eth0", ".dualstack-eth0-abc"])
def test_what_cannot_be_put_back_stays_pending(store, pending, tmp_path, name):
    os.rename(tmp_path / "own.d", tmp_path / "elsewhere")
    (tmp_path / "own.d").mkdir()
    (tmp_path / "own.d" / name).mkdir()  # a file that cannot be removed, whoever asks
    assert any(f"own.d/{name}" in problem for problem in _undo.fire(store.path, "because"))
    assert store.load("pending.json") is not None
    assert f"own.d/{name}" in _rollback.leftover(store).text
    with pytest.raises(DualStackError, match=rf"cannot be undone: .*own\.d/{name}"):
        _rollback.settle(store, False)
    (tmp_path / "own.d" / name).rmdir()
    assert _rollback.settle(store, False).state == "fired"
    assert (store.load("pending.json"), _rollback.leftover(store).state) == (None, "none")


def test_temporary_files_of_a_killed_run_go_and_those_of_others_stay(store, pending, tmp_path):
    left, other = tmp_path / ".dualstack-interfaces-abc", tmp_path / ".dualstack-resolv.conf-abc"
    for path in (left, other):
        path.write_text("half")
    _undo.fire(store.path, "because")
    assert (left.exists(), other.exists()) == (False, True)


def hold(store):
    """Return a process that holds the store's lock and hangs."""
    script = f"from module_utils import _undo\nwith _undo.locked({store.path!r}): print(flush=True); input()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    process.stdout.readline()
    return process


def test_the_timer_ends_a_run_that_hangs(store):
    with hold(store) as process, _undo.locked(store.path, 0.1, insist=True):
        assert process.wait(5) == -signal.SIGKILL


def test_a_run_that_finds_another_names_it(store, monkeypatch):
    locked = _undo.locked
    monkeypatch.setattr(_undo, "locked", lambda path: locked(path, 0.1))
    with hold(store) as process:
        with pytest.raises(DualStackError, match=rf"since 20..-.*process {process.pid} holds .*lock.*run again"):
            store.locked().__enter__()
        process.communicate(b"\n")
    assert process.returncode == 0
    with store.locked():
        pass


def test_a_revert_cannot_be_confirmed(store, monkeypatch):
    store.save("pending.json", {"deadline": 0, "reason": "the revert was cut off"})
    monkeypatch.setattr(_rollback, "is_armed", lambda store: True)
    with pytest.raises(DualStackError, match="nothing to confirm: a network change is being taken back"):
        _rollback.confirmed(store, False)


@pytest.mark.parametrize(("seconds", "told"), [(19, 0), (21, 1)])
def test_a_confirmation_that_nearly_came_too_late_is_told(store, pending, monkeypatch, seconds, told):
    monkeypatch.setattr(_rollback, "is_armed", lambda store: True)
    record = store.load("pending.json")
    store.save("pending.json", {**record, "deadline": time.time() + record["window"] - seconds})
    result = _rollback.confirmed(store, False)
    assert result["changed"]
    assert len(result.get("warnings", [])) == told
    assert not told or "a window of 64 s" in result["warnings"][0]
