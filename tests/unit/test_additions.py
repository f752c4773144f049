"""What we added and no longer want goes; what anybody else wrote stays, wherever he wrote it."""

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from module_utils._additions import Additions, inserted, packed, unpacked
from module_utils._editors import edit
from module_utils._errors import InputError

PATH = "/etc/x"
OLD, NEW = "2001:db8:1::1", "2001:db8:2::1"


class File:
    """A file that runs of ours and its owner edit in turn."""

    def __init__(self, text):
        self.text, self.record = text, {}

    def run(self, form, settings):
        def change(read):
            new = edit(form, read(PATH), settings)
            return {} if new == read(PATH) else {PATH: new}

        additions = Additions(unpacked(self.record))
        keys = [f"{form} {key}" for key in settings]
        changed = additions.edit(keys, change, lambda path: self.text if path == PATH else None)
        self.text = changed.get(PATH, self.text)
        self.record.update(packed(additions.records()))
        return self.text


SITE = "Listen 192.0.2.1:80\nListen 80.example\n<VirtualHost 192.0.2.1:80>\nRequire ip 192.0.2.0/24\n</VirtualHost>\n"
CASES = {
    "postfix": ("mynetworks = 127.0.0.0/8\na = 1\n", lambda word: {"mynetworks": {"add": [f"[{word}]/128"]}}),
    "resolv": ("search a.example\nnameserver 192.0.2.1\n", lambda word: {"nameserver": {"add": [word]}}),
    "varnish": ("ExecStart=varnishd -a 192.0.2.1:80 -F\n", lambda word: {"listen": {"add": [f"[{word}]"]}}),
    "sshd": (
        "ListenAddress 192.0.2.1\nAllowUsers a@192.0.2.0/24\nMatch Address 192.0.2.0/24\n",
        lambda word: {"ListenAddress": {"add": [f"[{word}]"]}, "networks": {"192.0.2.0/24": f"{word}/128"}},
    ),
    "dovecot": ('listen = "192.0.2.1"\n', lambda word: {"listen": {"add": [f"[{word}]"]}}),
    "lines": ("a\nb\n", lambda word: {"add": [word]}),
    "apache": (
        SITE,
        lambda word: {
            "Listen": {"add": [f"[{word}]"]},
            "VirtualHost": {"add": [f"[{word}]"]},
            "networks": {"192.0.2.0/24": f"{word}/128"},
        },
    ),
    "nginx": (
        "http {\n server { listen 192.0.2.1:80; allow 192.0.2.0/24; deny all; }\n}\n",
        lambda word: {"listen": {"add": [f"[{word}]"]}, "networks": {"192.0.2.0/24": f"{word}/128"}},
    ),
}


@pytest.mark.parametrize("form", CASES)
def test_a_new_prefix_takes_the_place_of_the_old_one(form):
    text, settings = CASES[form]
    file = File(text)
    file.run(form, settings(OLD))
    assert OLD in file.text
    assert file.run(form, settings(NEW)) == edit(form, text, settings(NEW))
    assert OLD not in file.text
    assert file.run(form, settings(NEW)) == edit(form, text, settings(NEW))


@pytest.mark.parametrize("form", CASES)
def test_what_the_owner_wrote_himself_is_never_removed(form):
    text, settings = CASES[form]
    theirs = edit(form, text, settings(OLD))
    file = File(theirs)
    assert file.run(form, settings(OLD)) == theirs
    file.run(form, settings(NEW))
    assert OLD in file.text
    file.run(form, settings(OLD))
    assert file.text.count(NEW) == 0
    assert file.text.count(OLD) == theirs.count(OLD)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("mynetworks = 127.0.0.0/8 {}\n", "mynetworks = 127.0.0.0/8 {} 203.0.113.0/24\n"),
        ("mynetworks = 127.0.0.0/8 {}\n", "# see ticket\n\nmynetworks =\n 192.0.2.0/24,\n 127.0.0.0/8 {}\nb = 1\n"),
    ],
)
def test_our_word_is_found_between_the_edits_of_others(before, after):
    file = File("mynetworks = 127.0.0.0/8\n")
    file.run("postfix", {"mynetworks": {"add": [f"[{OLD}]/128"]}})
    assert file.text == before.format(f"[{OLD}]/128")
    file.text = after.format(f"[{OLD}]/128")
    assert file.run("postfix", {"mynetworks": {"add": [f"[{OLD}]/128"]}}) == after.format(f"[{OLD}]/128")
    file.run("postfix", {"mynetworks": {"add": [f"[{NEW}]/128"]}})
    assert OLD not in file.text
    assert NEW in file.text
    assert [word for word in after.split() if word not in file.text] == ["{}"]


def test_settings_of_another_task_are_left_alone():
    file = File("mynetworks = 127.0.0.0/8\ninet_interfaces = 192.0.2.1\n")
    file.run("postfix", {"mynetworks": {"add": [f"[{OLD}]/128"]}})
    file.run("postfix", {"inet_interfaces": {"add": [OLD]}, "a": "1"})
    file.run("postfix", {"inet_interfaces": {"add": [NEW]}, "a": "1", "b": "2"})
    assert file.text == (f"mynetworks = 127.0.0.0/8 [{OLD}]/128\ninet_interfaces = 192.0.2.1 {NEW}\na = 1\nb = 2\n")
    file.run("postfix", {"inet_interfaces": {"add": []}, "a": "1"})
    assert file.text == f"mynetworks = 127.0.0.0/8 [{OLD}]/128\ninet_interfaces = 192.0.2.1\na = 1\n"


def test_a_text_that_took_the_place_of_another_is_no_addition():
    file = File("a = 1\nb = 2\n")
    file.run("postfix", {"a": "3"})
    assert file.run("postfix", {"a": "4"}) == "a = 4\nb = 2\n"


WORDS = st.sampled_from(["a", "b", " ", ",", "\n", "\r\n", "=", "x y"])
TEXTS = st.lists(WORDS, max_size=12).map("".join)


@limits(max_examples=300, deadline=None)
@given(TEXTS, TEXTS)
def test_what_was_inserted_lies_in_order_and_is_not_in_the_text_before(before, after):
    ranges = inserted(before, after)
    assert all(start < stop for start, stop in ranges)
    assert all(one[1] <= two[0] for one, two in zip(ranges, ranges[1:]))
    assert sum(stop - start for start, stop in ranges) <= len(after)
    assert inserted(before, before) == []


@limits(max_examples=300, deadline=None)
@given(TEXTS, st.lists(st.tuples(st.integers(0, 12), st.sampled_from(["new\n", "newer line\n"])), max_size=3))
def test_inserted_lines_are_all_found(text, new):
    lines = text.splitlines(keepends=True)
    for place, line in new:
        if place <= len(lines) and (not place or lines[place - 1].endswith("\n")):
            lines.insert(place, line)
    after = "".join(lines)
    left = after
    for start, stop in reversed(inserted(text, after)):
        left = left[:start] + left[stop:]
    assert left == text


@pytest.mark.parametrize("form", CASES)
@limits(max_examples=40, deadline=None)
@given(data=st.data())
def test_whatever_the_owner_adds_in_between_survives(form, data):
    text, settings = CASES[form]
    file = File(text)
    file.run(form, settings(OLD))
    lines = file.text.splitlines(keepends=True)
    for number in range(data.draw(st.integers(1, 3))):
        lines.insert(data.draw(st.integers(0, len(lines))), f"# the owner's {number}\n")
    file.text = "".join(lines)
    plain = file.text
    try:
        assert file.run(form, settings(OLD)) == plain
        file.run(form, settings(NEW))
    except InputError:
        return
    assert OLD not in file.text
    assert NEW in file.text
    assert [line for line in file.text.splitlines() if "owner" in line] == [
        line for line in plain.splitlines() if "owner" in line
    ]
