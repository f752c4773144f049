"""Every editor over generated configurations: twice is the same as once, and the way back is exact to the byte."""

import pathlib
import sys
import tempfile

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from module_utils._editors import FILES, TREES, edit
from module_utils._errors import InputError
from module_utils._transaction import execute, parse

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "parsers"))

from generated import KINDS, Chance

SEEDS = st.integers(0, 2**32)
# These stand at places of their own on a host.
FIXED = ("resolv", "varnish")


def state(place):
    return {path: (path.read_bytes(), path.stat().st_mode) for path in sorted(place.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in FIXED])
@limits(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_the_way_back_from_an_edit_is_exact(kind, seed):
    case = KINDS[kind](Chance(seed))
    with tempfile.TemporaryDirectory() as directory:
        place = pathlib.Path(directory).resolve()

        def moved(path):
            return path.replace("/run/case", f"{place}/case").replace("/etc", f"{place}/etc")

        for name, text in case.files.items():
            path = pathlib.Path(moved(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.replace("/run/case", f"{place}/case").encode("utf-8", "surrogateescape"))
        before = state(place)
        files = [{"path": moved(path), "format": form, "set": settings} for path, form, settings in case.edits]
        if kind == "dovecot":  # which is told of no address that this host lacks
            files[0]["set"] = {**files[0]["set"], "listen": {"add": ["[::1]"]}}
        request = {"name": "generated", "files": files}
        store = str(place / "store")
        if case.refused:
            with pytest.raises(InputError, match=case.refused):
                execute(parse(request), root=store)
            assert state(place) == before
            return
        changed = execute(parse(request), root=store).changed
        assert not execute(parse(request), root=store).changed
        assert execute(parse({**request, "state": "reverted"}), root=store).changed is changed
        assert state(place) == before


@pytest.mark.parametrize("kind", FIXED)
@limits(max_examples=50, deadline=None)
@given(seed=SEEDS)
def test_twice_is_the_same_as_once(kind, seed):
    case = KINDS[kind](Chance(seed))
    [(path, form, settings)] = case.edits
    if form in FILES:
        once = edit(form, case.files[path], settings)
        assert edit(form, once, settings) == once
    else:
        once = {**case.files, **TREES[form].edit(path, case.files.get, settings)}
        assert TREES[form].edit(path, once.get, settings) == {}
