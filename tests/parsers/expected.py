"""What the daemon must say of a configuration after our edit, made of what it said before. Not from our editors."""

import ipaddress
import re
from collections import Counter

from generated import A4, A6, B6, NETWORKS

V4, V6 = ipaddress.IPv4Network, ipaddress.IPv6Network
LISTED = ("mynetworks", "debug_peer_list", "smtpd_client_event_limit_exceptions", "smtpd_sasl_exceptions_networks")


def network(word, kind):
    try:
        return kind(word)
    except ValueError:
        return None


def twins(words, inside=False):
    """Return the IPv6 networks that belong to the IPv4 ones among WORDS: those of an equal one, or of all INSIDE."""
    found = []
    for word in words:
        four = network(word, V4)
        known = [key for key in NETWORKS if four and (V4(key) == four or (inside and V4(key).subnet_of(four)))]
        exact = [key for key in known if V4(key) == four]
        found += [six for key in exact or known for six in NETWORKS[key]]
    return list(dict.fromkeys(found))


def grown(before, after, wanted, spell=str):
    """AFTER must be BEFORE and behind it what it lacks of WANTED, once each."""
    have = {spell(word) for word in before}
    assert after[: len(before)] == before, (before, after)
    added = [spell(word) for word in after[len(before) :]]
    assert sorted(added) == sorted({spell(word) for word in wanted} - have), (before, after, wanted)


# --- Postfix ---


def bare(word):
    """Return a word of Postfix's without brackets, as a network where it is one."""
    sign = "!" if word.startswith("!") else ""
    match = re.fullmatch(r"\[([^]/]+)(?:/(\d+))?\](?:/(\d+))?", word.lstrip("!"))
    return f"{sign}{V6(f'{match[1]}/{match[2] or match[3] or 128}')}" if match else word


def postfix(before, after, settings):
    old, new = (parameters(said["main"]) for said in (before, after))
    assert new.pop("inet_protocols") == "all"
    old.pop("inet_protocols", "")
    for key in LISTED:
        if key not in old:
            continue
        had, has = (re.split(r"[,\s]+", values.pop(key).strip(", ")) for values in (old, new))
        wanted = settings["mynetworks"]["add"] if key == "mynetworks" else []
        wanted = [*wanted, *(f"[{six.split('/')[0]}]/{six.split('/')[1]}" for six in twins(had, inside=True))]
        wanted += ["![2001:db8:7::7]/128"] if "!203.0.113.7" in had else []
        grown([word for word in had if word], [word for word in has if word], wanted, bare)
    if "inet_interfaces" in old:
        had, has = (re.findall(r"[^,\s]+", values.pop("inet_interfaces")) for values in (old, new))
        grown(had, has, [] if "all" in had else settings["inet_interfaces"]["add"], bare)
    assert new == old
    assert rows(after["services"]) == rows(before["services"])
    clients = {row.split()[0] for row in before["services"].splitlines() if row.split()[7:8] == ["smtp"]}
    pinned = {f"{name}/unix/inet_protocols = ipv4" for name in clients - {"own"}}
    assert set(after["options"].splitlines()) == set(before["options"].splitlines()) | pinned


def rows(text):
    return [line.split()[:8] for line in text.splitlines()]


def parameters(text):
    pairs = (line.partition("=") for line in text.splitlines() if line)
    return {name.strip(): " ".join(value.split()) for name, _equals, value in pairs}


def postmap(before, after, settings, ask):
    for four, six in ask["pairs"].items():
        assert after[four] == before[four]
        # An indexed table is asked for the first octets too, see access(5).
        told = before[six] or before[four] or before[four.rpartition(".")[0]]
        assert after[six] == told, (four, six)


# --- Dovecot ---


def dovecot(before, after, _settings):
    old, new = flat(before), flat(after)
    assert list(new) == list(old)
    for key, value in old.items():
        name = key.rpartition("/")[2]
        had, has = (re.findall(r"[^,\s]+", values[key]) for values in (old, new))
        if name in ("listen", "address"):
            outside = [word for word in had if not word.startswith("127.")]
            wanted = []
            if outside and not any(":" in word for word in outside):
                wanted = ["::"] if {"*", "0.0.0.0"} & set(outside) else [A6]
            grown(had, has, wanted)
        elif name.endswith("trusted_networks"):
            wanted = twins(had) + (["::1"] if "127.0.0.0/8" in had or "127.0.0.1" in had else [])
            grown(had, has, wanted)
        else:
            assert new[key] == value, key


def flat(text):
    """Return {path of blocks/key: value}; 2.3 leaves out a listen that is its default."""
    found, blocks = {"listen": "*, ::"}, []
    for line in text.splitlines():
        code = line.strip()
        if code.endswith("{"):
            blocks.append(code[:-1].strip())
        elif code == "}":
            blocks.pop()
        elif code and not code.startswith("#"):
            key, _equals, value = code.partition(" = ")
            found["/".join([*blocks, key])] = value
    return found


# --- Apache ---


def apache(before, after, settings):
    (old, old_sites), (new, new_sites) = dumped(before), dumped(after)
    literal, sites = settings["Listen"] != "*", settings.get("sites", {})
    pairs = list(zip(others(old), others(new)))
    assert len(others(old)) == len(others(new))
    for (had, has), (following, _same) in zip(pairs, [*pairs[1:], ([], [])]):
        if had[0] == "<virtualhost":
            assert following[0] == "servername"
            grown(had, has, had + hosts(had[1:], literal, following[1] in sites))
        else:
            listed = had[:2] in (["require", "ip"], ["deny", "from"]) or had[:3] == ["require", "not", "ip"]
            grown(had, has, missing(had) if listed else [])
    own = {word.rpartition(":")[2] for had, has in pairs for word in has if word not in had and B6 in word}
    assert listens(new) == listening(listens(old), literal, own)
    # The daemon's own map: what an IPv4 address has, its twin has, and the rest is as it was.
    for place, names in old_sites.items():
        if "[" in place:  # there may be more now, and another one may be the first
            assert {name.split()[-1] for name in names} <= {name.split()[-1] for name in new_sites[place]}
        else:
            assert new_sites[place] == names
        twin = place.replace(A4, f"[{A6}]")
        if literal and twin != place and twin not in old_sites and not sites:
            assert new_sites[twin] == names
    assert all(A6 in place or B6 in place for place in new_sites.keys() - old_sites.keys())


def hosts(words, literal, own):
    """Return the addresses that a virtual host on WORDS gets; OWN, if the site has one for itself."""
    wanted = []
    for address, _colon, port in (word.rpartition(":") for word in words):
        if own and address in (A4, "*"):
            wanted.append(f"[{B6}]:{port}")
        elif address == A4 and literal and f"*:{port}" not in words:
            wanted.append(f"[{A6}]:{port}")
    return wanted


def listens(lines):
    return {tuple(line[1:]) for line in lines if line[0] == "listen"}


def others(lines):
    return [line for line in lines if line[0] != "listen"]


def listening(old, literal, own):
    found = set(old)
    for word, *tail in old:
        address, _colon, port = word.rpartition(":")
        six = {other for other, *_tail in old if other.rpartition(":")[2] == port} & {
            port,
            f"[::]:{port}",
            f"[{A6}]:{port}",
        }
        if address == "0.0.0.0" and not six:
            found = found - {(word, *tail)} | {(port, *tail)}
        if literal and address == A4:
            found |= set() if six else {(f"[{A6}]:{port}", *tail)}
            found |= {(f"[{B6}]:{port}", *tail)} if port in own else set()
    return found


def missing(line):
    words = [word.replace("/255.255.255.0", "/24") for word in line[2:]]
    have = {V6(word) for word in words if network(word, V6)}
    wanted = twins(words) + (["::1"] if any(word.startswith("127.") for word in words) else [])
    return [word for word in dict.fromkeys(wanted) if V6(word) not in have]


def dumped(text):
    """Return the directives that are in force, as words, and {address: names} of the virtual hosts."""
    head, _mark, dump = text.partition("# In file:")
    sites, place = {}, ""
    for line in head.splitlines()[1:]:
        words = line.replace("port ", "port").split()
        if not line.startswith(" "):
            place, words = words[0], words[1:]
        sites.setdefault(place, []).append(re.sub(r"\(.*\)", "", " ".join(words)))
    lines = (re.sub(r"[\">]", "", line).split() for line in dump.splitlines() if not line.lstrip().startswith("#"))
    return [[line[0].lower(), *line[1:]] for line in lines if line], sites


# --- nginx ---


def nginx(before, after, settings, ask):
    words = iter(after["dump"].split())
    assert all(word in words for word in before["dump"].split()), "something was changed or removed"
    gone = set(before["heard"]) - set(after["heard"])  # a new wildcard's socket hears what a literal's heard
    assert all(word.startswith("[") and f"[::]:{word.rpartition(':')[2]}" in after["heard"] for word in gone)
    assert all(word.startswith("[") for word in set(after["heard"]) - set(before["heard"]))
    answers, own = after["answers"], settings.get("sites", {})
    for place, answer in before["answers"].items():
        address, port, name, number = place.split()
        if "." not in address:
            continue
        assert answers[place] == answer, place
        site = answer[4:]
        # What a site with an address of its own gets from strangers is its own, and a loopback address has no twin.
        if answer and f"127.0.0.1:{port}" not in before["dump"] and (site not in own or site == name):
            twin = {A4: B6 if site in own else A6, "127.0.0.1": "::1"}[address]
            assert answers[f"{twin} {port} {name} {number}"] == answer, place


# --- sshd ---


def sshd(before, after, settings, ask):
    old, new = sshd_lines(before[""]), sshd_lines(after[""])
    had, has = set(old.pop("listenaddress")), set(new.pop("listenaddress"))
    wanted = set()
    family = old["addressfamily"][0]
    for address, _colon, port in (word.rpartition(":") for word in had):
        six = {word for word in had if word.startswith("[") and word.endswith(f"]:{port}")}
        if address == "0.0.0.0" and not six:
            wanted.add(f"[::]:{port}")
        elif address == A4 and f"[::]:{port}" not in six:
            wanted.add(f"[{A6}]:{port}")
    assert has == had | wanted, (had, has)
    if family == "inet":
        assert new.pop("addressfamily") == ["any"]
        old.pop("addressfamily")
    for key in ("allowusers", "denyusers"):
        words, users = old.pop(key, []), new.pop(key, [])
        expected = []
        for word in words:
            user, mark, host = word.partition("@")
            host = host.replace("192.0.2.*", "192.0.2.0/24")
            expected += [f"{user}@{six}" for six in (twins([host]) if mark else [])]
        assert sorted(users) == sorted({*words, *expected})
    assert new == old
    for four, six in ask["clients"].items():
        ours = sshd_lines(before[four])
        for told in (after[four], after[six]):
            for key in ("x11forwarding", "maxauthtries"):
                assert sshd_lines(told)[key] == ours[key], (four, six, key)


def sshd_lines(text):
    found = {}
    for line in text.splitlines():
        key, _space, value = line.partition(" ")
        found.setdefault(key, []).append(value)
    return found


# --- the others ---


def varnish(before, after, settings):
    wanted = settings["listen"]["add"]
    assert len(before) == len(after)
    for had, has in zip(map(str.split, before), map(str.split, after)):
        expected, places = [], [word for flag, word in zip(had, had[1:]) if flag == "-a"]
        for flag, word in zip(["", *had], had):
            expected.append(word)
            match = re.fullmatch(r"(\w+=)?([^,]*):(\d+)(,.*)?", word)
            if flag == "-a" and match and match[2] not in ("", "127.0.0.1", "[::]"):
                twins_here = [] if f"[::]:{match[3]}" in places or f":{match[3]}" in places else wanted
                expected += [
                    part for six in twins_here for part in ("-a", f"{match[1] or ''}{six}:{match[3]}{match[4] or ''}")
                ]
        assert has == expected, (had, has)


def pureftpd(before, after, _settings):
    old, new = before.split(), after.split()
    words = [word for word in old if word not in ("-4", "-H")]
    words = [word.replace("0.0.0.0,", ",") for word in words]
    assert Counter(new) == Counter([*words, "-H"]), (old, new)


def resolv(before, after, settings):
    wanted = settings["nameserver"]["add"]
    old, new = before.pop("servers"), after.pop("servers")
    assert after == before
    assert new[:1] == (old or wanted)[:1]
    assert len(new) <= 3 and len(set(new)) == len(new)
    assert set(new) & set(wanted)
    assert set(new) <= {*old, *wanted}
    families = {":" in word for word in [*old, *wanted]}
    assert {":" in word for word in new} == families


def shell(before, after, settings):
    old, new = (dict(line.split("=", 1) for line in text.splitlines()) for text in (before, after))
    assert new == {**old, **{key: value.strip('"') for key, value in settings.items()}}


# --- what our editors think that the daemon listens on ---


def listens_as_we_think(reader, outcome):
    """The sockets that we read from the configuration are those that the daemon reads from it."""
    ours = {(address.strip("[]"), port) for address, port in outcome.get("sockets", [])}
    if reader == "apache":
        words = [words[0] for words in listens(dumped(outcome["after"])[0])]
        theirs = {tuple(word.rpartition(":")[::2]) for word in words}
        theirs = {("" if address in ("", "[::]") else address.strip("[]"), port) for address, port in theirs}
    elif reader == "nginx":
        theirs = {(word.rpartition(":")[0].strip("[]"), word.rpartition(":")[2]) for word in outcome["after"]["heard"]}
    elif reader == "sshd":
        words = sshd_lines(outcome["after"][""])["listenaddress"]
        theirs = {(word.rpartition(":")[0].strip("[]"), word.rpartition(":")[2]) for word in words}
        if ("", "22") in ours or ("", "2222") in ours:
            ours = {(address, port) for _any, port in ours for address in ("0.0.0.0", "::")}
    else:
        return
    assert ours == theirs, (ours, theirs)
