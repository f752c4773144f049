"""Configurations as administrators leave them behind: made of a random generator's choices, the same for the same seed.

A case has ``files``, the ``edits`` of ours (path, format, settings), and what the tests ask of the daemon's answer.
``refused`` is a regular expression where the configuration has something in it that must be refused.
"""

import random
from dataclasses import dataclass, field

PLACE = "/run/case"
A4, B4 = "192.0.2.10", "192.0.2.11"
A6, B6 = "2001:db8::10", "2001:db8::11"
NETWORKS = {
    "192.0.2.0/24": ["2001:db8::/64"],
    "198.51.100.0/24": ["2001:db8:51::/64", "2001:db8:52::/64"],
    "203.0.113.7": ["2001:db8:7::7/128"],
    "192.0.2.10": ["2001:db8::10/128"],
    "192.0.2.11": ["2001:db8::11/128"],
    "10.0.0.0/8": [],
}
COMMENTS = (
    "# listen = 192.0.2.99",
    "#",
    "# Zugriff f\udcfcr alle",  # in Latin-1
    "# caf\u00e9; { } = \"'",
    "#inet_protocols = ipv4",
    "    # Listen 192.0.2.99:80",
    "# ends in a backslash \\ or not",
)


@dataclass
class Case:
    """A configuration and what is to be done to it."""

    reader: str
    files: dict
    edits: list
    refused: str = ""
    ask: dict = field(default_factory=dict)


class Chance(random.Random):
    """Choices that make a text look like one that people have edited for years."""

    def often(self, share=0.5):
        return self.random() < share

    def some(self, pool, most):
        return self.sample(pool, self.randint(0, min(most, len(pool))))

    def noise(self, comments=COMMENTS):
        """Return a few lines that mean nothing."""
        return [self.choice([*comments, "", "", "   ", "\t"]) for _line in range(self.choice([0, 0, 0, 1, 2]))]

    def text(self, lines):
        """Return LINES as a file: sometimes without its last line end."""
        return "\n".join(lines) + ("" if self.often(0.15) else "\n")

    def scattered(self, groups, comments=COMMENTS):
        """Return the lines of GROUPS with noise around them."""
        found = self.noise(comments)
        for group in groups:
            found += [*group, *self.noise(comments)]
        return found


# --- Postfix ---

POSTFIX_LISTS = ("debug_peer_list", "smtpd_client_event_limit_exceptions", "smtpd_sasl_exceptions_networks")
WORDS = (
    "127.0.0.0/8",
    "[::1]/128",
    "[::ffff:127.0.0.0]/104",
    "192.0.2.0/24",
    "198.51.100.0/24",
    "203.0.113.7",
    "!203.0.113.7",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "[2001:db8::]/64",
    "[2001:DB8:51:0::]/64",
    "[2001:db8:52::/64]",
    "hash:/etc/postfix/relays",
    "/etc/postfix/networks",
    "cidr:{ {172.16.0.0/25 OK}, {172.17.0.0/16 OK} }",
    "$relay_domains",
)


def postfix(chance):
    """main.cf and master.cf."""
    groups = [_parameter(chance, "mynetworks", ["127.0.0.0/8", *chance.some(WORDS[1:], 7)])]
    groups += [_parameter(chance, key, chance.some(WORDS, 4)) for key in chance.some(POSTFIX_LISTS, 2)]
    groups.append([f"myhostname{chance.choice(_EQUALS)}mail.example"])
    if chance.often(0.8):
        groups.append(_parameter(chance, "inet_protocols", chance.choice([["ipv4"], ["all"], ["ipv4", "ipv6"]])))
    if chance.often(0.7):
        interfaces = chance.choice([["all"], [A4], ["localhost", A4], ["loopback-only"], [A4, f"[{A6}]"], [A6]])
        groups.append(_parameter(chance, "inet_interfaces", interfaces))
    if chance.often(0.4):
        restrictions = ["permit_mynetworks", "check_client_access", "cidr:/etc/postfix/clients", "reject"]
        groups.append(_parameter(chance, "smtpd_client_restrictions", restrictions))
    if chance.often(0.2):  # the last one counts
        groups.append(_parameter(chance, "mynetworks", ["172.16.0.77"]))
    planted = chance.often(0.1)
    if planted:
        groups.append(_parameter(chance, "qmqpd_authorized_clients", ["127.0.0.1", "192.0.2.77"]))
    keep = groups.pop(0)
    chance.shuffle(groups)
    main = chance.text(chance.scattered([*groups, keep]))
    if chance.often(0.1):
        main = main.replace("\n", "\r\n")
    settings = {
        "inet_protocols": "all",
        "mynetworks": {"add": ["[::1]/128", "[2001:db8::]/64", "[2001:db8:9::]/48"]},
        "inet_interfaces": {"add": chance.choice([[], [A6]])},
    }
    path, master = f"{PLACE}/main.cf", f"{PLACE}/master.cf"
    return Case(
        "postfix",
        {path: main, master: _master(chance)},
        [
            [path, "postfix", settings],
            [path, "postfix_lists", {"networks": NETWORKS}],
            [master, "postfix_master", {"outbound": "pinned"}],
        ],
        "qmqpd_authorized_clients: 192.0.2.77/32 is part of 192.0.2.0/24" if planted else "",
    )


_EQUALS = (" = ", "=", " =", "= ", "\t=\t", "  = ")


def _parameter(chance, key, words):
    """Return the lines of a parameter, perhaps over several lines with something in between."""
    lines, text = [], key + chance.choice(_EQUALS)
    separator = chance.choice([" ", ", ", ",", "  ", " , "])
    wraps = chance.choice([0, 0, 0.4, 1])
    for number, word in enumerate(words):
        if chance.random() < wraps:
            text += "," if number and "," in separator else ""
            lines += [text, *chance.noise([*COMMENTS, "  # in between"])]
            text = chance.choice(["  ", "\t", "    "]) + word
        else:
            text += (separator if number else "") + word
    return [*lines, text + chance.choice(["", "", " ", "\t", ","] if words else [""])]


SERVICES = (
    ("smtp      inet  n       -       y       -       -       smtpd",),
    ("submission inet n - y - - smtpd", "  -o syslog_name=postfix/submission", "  -o smtpd_sasl_auth_enable=yes"),
    ("smtp      unix  -       -       y       -       -       smtp",),
    ("relay     unix  -       -       y       -       -       smtp", "        -o syslog_name=postfix/$service_name"),
    ("slow unix - - n - 2 smtp", "# one after the other", "", "  -o { smtp_helo_name = slow.example }"),
    ("lmtp      unix  -       -       y       -       -       lmtp",),
    ("own unix - - y - - smtp -o inet_protocols=ipv6",),
    ("cleanup   unix  n       -       y       -       0       cleanup",),
)


def _master(chance):
    return chance.text(chance.scattered(chance.sample(SERVICES, chance.randint(2, len(SERVICES)))))


def postfix_table(chance):
    """A table that clients are looked up in."""
    kind = chance.choice(["cidr", "texthash"])
    keys = ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.7", "172.16.0.0/12", "10.0.0.0/8", "2001:db8::/64"]
    if kind == "texthash":
        keys = ["203.0.113.7", "203.0.113", "172.16.1", "client.example", "2001:db8:7::7", "192.0.2.10"]
    groups = []
    for number, key in enumerate(chance.sample(keys, chance.randint(1, len(keys)))):
        if kind == "cidr" and number == 1 and chance.often(0.4):
            groups.append(["if 10.0.0.0/8", f"172.17.0.0/16 inner{number}", "endif"])
        action = [f"{key}{chance.choice([' ', chr(9), '    '])}action{number}"]
        groups.append(chance.choice([action, action, [*action, *chance.noise(), "  and more"]]))
    path = f"{PLACE}/table"
    form = {"cidr": "postfix_cidr", "texthash": "postfix_indexed"}[kind]
    networks = {**NETWORKS, "203.0.113.0/24": ["2001:db8:7::/64"]} if kind == "cidr" else NETWORKS
    pairs = {"203.0.113.7": "2001:db8:7::7"}
    if kind == "texthash":
        pairs[A4] = A6
    else:
        pairs.update({"192.0.2.77": "2001:db8::77", "198.51.100.3": "2001:db8:52::3", "198.51.100.9": "2001:db8:51::9"})
    return Case(
        "postmap",
        {path: chance.text(chance.scattered(groups))},
        [[path, form, {"networks": networks}]],
        ask={"table": f"{kind}:{path}", "pairs": pairs},
    )


# --- Dovecot ---

LISTENS = (["*"], ["0.0.0.0"], [A4], ["*", "::"], [A4, "127.0.0.1"], ["127.0.0.1"], [A4, A6], ["[::]", "*"])


def dovecot(chance, release="2.3"):
    """dovecot.conf with what it includes."""
    key = "address" if release == "2.3" else "listen"
    comments = (*COMMENTS[:-1], "  #service imap-login {")
    head = [] if release == "2.3" else [["dovecot_config_version = 2.4.0"], ["dovecot_storage_version = 2.4.0"]]
    groups = [["protocols = imap pop3"], ["ssl = no"]]
    if chance.often(0.8):
        groups.append([_assigned(chance, "listen", chance.choice(LISTENS))])
    if chance.often(0.5):
        groups.append([_assigned(chance, "login_trusted_networks", chance.some(_ONLY_KNOWN, 3) or ["192.0.2.0/24"])])
    if chance.often(0.3):
        groups.append([_assigned(chance, "haproxy_trusted_networks", ["198.51.100.0/24", "127.0.0.1"])])
    if chance.often(0.3):
        path = "mail_location" if release == "2.3" else "mail_path"
        groups.append(chance.choice([[f"{path} = ~/Mail # listen = *"], [f"{path} = \\", "  ~/Mail"]]))
    if chance.often(0.3):
        groups.append(["postmaster_address = \\", "listen=192.0.2.66"])
    if chance.often(0.3):
        groups.append(["namespace inbox {", "  inbox = yes", '  separator = "/"', "}"])
    if chance.often(0.3):
        groups.append(["protocol imap {", "\tmail_max_userip_connections = 20", "}"])
    chance.shuffle(groups)
    included = [
        _login(chance, key, name, port, comments) for name, port in chance.some([("imap", 143), ("pop3", 110)], 2)
    ]
    main = chance.scattered(
        [*head, *groups, *([["!include conf.d/*.conf"]] if included else []), ["!include_try local.conf"]], comments
    )
    files = {f"{PLACE}/dovecot.conf": chance.text(main)}
    for number, group in enumerate(included):
        files[f"{PLACE}/conf.d/{number}0-login.conf"] = chance.text(chance.scattered([group], comments))
    if chance.often(0.3):
        files[f"{PLACE}/local.conf"] = chance.text([_assigned(chance, "listen", chance.choice(LISTENS))])
    root = f"{PLACE}/dovecot.conf"
    edit = [root, "dovecot", {"listen": {"add": [f"[{A6}]"]}, "networks": NETWORKS}]
    return Case("dovecot", files, [edit])


_ONLY_KNOWN = ("192.0.2.0/24", "198.51.100.0/24", "10.0.0.0/8", "127.0.0.0/8", "203.0.113.7", "2001:db8::/64")


def _assigned(chance, key, words):
    separator = chance.choice([", ", " ", ",", ",  "])
    quote = chance.choice(["", "", "", '"', "'"])
    head = chance.choice(["", "", "  "]) + key + chance.choice([" = ", "=", " =", "  =  "])
    return (
        head
        + quote
        + separator.join(words)
        + quote
        + chance.choice(["", "", " ", "  # " + separator.join(words), "\t# ::"])
    )


def _login(chance, key, name, port, comments):
    inside = [[f"    port = {port}"]]
    if chance.often(0.7):
        inside.append(["    " + _assigned(chance, key, chance.choice(LISTENS)).strip()])
    chance.shuffle(inside)
    return [
        f"service {name}-login {{" + chance.choice(["", "  # the door", " "]),
        *chance.noise(comments),
        f"  inet_listener {name} {{",
        *chance.scattered(inside, comments),
        "  }",
        *chance.noise(comments),
        *chance.choice([["  process_min_avail = 1"], []]),
        "}",
    ]


# --- Apache ---

MODULES = ("mpm_event", "authz_core", "authz_host", "access_compat", "alias", "info")


def apache(chance):
    """apache2.conf with its ports and sites."""
    literal = chance.often()
    wanted = {"add": [f"[{A6}]"]} if literal else "*"
    settings = {"Listen": wanted, "VirtualHost": wanted, "networks": NETWORKS}
    ports = chance.sample(["80", "8080", "8443"], chance.randint(1, 3))
    four = A4 if literal else "0.0.0.0"
    listens = []
    for port in ports:
        choice = chance.choice(["any", "any", "literal", "literal", "both", "loopback"])
        lines = {
            "any": [port],
            "literal": [f"{four}:{port}"],
            "both": [f"{four}:{port}", f"[{A6}]:{port}" if literal else f"[::]:{port}"],
            "loopback": [f"127.0.0.1:{port}"],
        }[choice]
        tail = " https" if port == "8443" and choice != "any" else ""
        group = [
            chance.choice(["Listen ", "listen  ", "\tListen\t"]) + _maybe_quoted(chance, line) + tail for line in lines
        ]
        if chance.often(0.2):
            group = ["<IfModule mod_alias.c>", *group, "</IfModule>"]
        elif chance.often(0.2):
            group += ["<IfModule mod_absent.c>", f"  Listen {port}", "</IfModule>"]
        elif chance.often(0.2):
            group += ["<IfModule absent_module>", f"  Listen [::]:{port}", "</IfModule>"]
        listens.append(group)
    names = chance.sample(["a.example", "b.example", "c.example", "d.example"], chance.randint(1, 4))
    if literal and chance.often(0.4):
        settings["sites"] = {names[0]: [B6]}
    sites = {
        f"{PLACE}/sites/{number}-{name}.conf": chance.text(_virtual_host(chance, name, ports, literal))
        for number, name in enumerate(names)
    }
    main = [
        [f"ServerRoot {chance.choice(['', chr(34)])}{PLACE}".replace(f'"{PLACE}', f'"{PLACE}"')],
        *([f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so"] for name in MODULES),
        ["ErrorLog /dev/null"],
        ["ServerName main.example"],
        *chance.choice([[], [["Define RELEASE 12"], ["<IfDefine RELEASE>", "Timeout 30", "</IfDefine>"]]]),
        ["<Directory />", "  Require all denied", "</Directory>"],
        [chance.choice(["Include ports.conf", f"include {PLACE}/ports.conf"])],
        [chance.choice(["IncludeOptional sites/*.conf", "IncludeOptional sites"])],
    ]
    comments = tuple(text for text in COMMENTS if "\\" not in text)
    files = {
        f"{PLACE}/apache2.conf": chance.text(chance.scattered(main, comments)),
        f"{PLACE}/ports.conf": chance.text(chance.scattered(listens, comments)),
        **sites,
    }
    return Case("apache", files, [[f"{PLACE}/apache2.conf", "apache", settings]], ask={"literal": literal})


def _maybe_quoted(chance, word):
    return f'"{word}"' if chance.often(0.1) else word


def _virtual_host(chance, name, ports, literal):
    places = [f"*:{port}" for port in ports]
    if literal:
        places += [f"{A4}:{port}" for port in ports]
        places.append(f"{A4}:{ports[0]} [{A6}]:{ports[0]}")
    where = " ".join(chance.sample(places, min(len(places), chance.choice([1, 1, 2]))))
    where = " ".join(_maybe_quoted(chance, word) for word in dict.fromkeys(where.split()))
    lists = [
        [
            f"  <Directory /srv/{name}>",
            f"    {chance.choice(['Require', 'require'])} ip {_members(chance)}",
            "  </Directory>",
        ],
        [
            "  <Location /private>",
            "    <RequireAll>",
            "      Require all granted",
            f"      Require not ip {_members(chance)}",
            "    </RequireAll>",
            "  </Location>",
        ],
        ["  <Location /old>", "    Order deny,allow", f"    Deny from {_members(chance)}", "  </Location>"],
    ]
    return [
        *chance.noise(("# <VirtualHost 192.0.2.99:80>",)),
        f"{chance.choice(['<VirtualHost ', '<virtualhost  '])}{where}{chance.choice(['>', ' >'])}",
        f"  ServerName {name}",
        *chance.choice([[], [f"  ServerAlias www.{name} \\", f"    old.{name}"], [f"\tServerAlias www.{name}"]]),
        *chance.scattered(chance.some(lists, 2), ("    # Require ip 192.0.2.99",)),
        chance.choice(["</VirtualHost>", "</virtualhost>"]),
    ]


def _members(chance):
    pool = ["192.0.2.0/24", "198.51.100.0/255.255.255.0", "203.0.113.7", "10.", "127.0.0.1", "2001:db8::/64"]
    words = [_maybe_quoted(chance, word) for word in chance.sample(pool, chance.randint(1, 4))]
    return chance.choice([" ", "  "]).join(words) + chance.choice(["", "", " "])


# --- nginx ---


def nginx(chance):
    """nginx.conf whose sites say who they are."""
    names = chance.sample(["a.example", "b.example", "c.example", "d.example"], chance.randint(1, 4))
    settings = {"listen": {"add": [f"[{A6}]"]}, "networks": NETWORKS}
    if chance.often(0.3):
        settings["sites"] = {names[-1]: [B6]}
    defaults, tuned = set(), set()
    servers = [_server(chance, name, defaults, tuned) for name in names]
    spread = chance.often()
    files = {f"{PLACE}/sites/{number}": chance.text(server) for number, server in enumerate(servers) if spread}
    inside = [["include sites/*;"]] if spread else servers
    main = [
        "daemon off; master_process off;",
        f"pid {PLACE}/nginx.pid;",
        "error_log stderr;",
        "worker_processes 1; # { listen 80;",
        "events { worker_connections 64; }",
        "http {",
        "  access_log off;",
        *chance.choice([[], ["  geo $known {", "    default 0;", f"    {A4}/32 1;", "  }"]]),
        *chance.choice([[], ["  map $http_host $odd { default 0; ~^192\\.0 1; 'a b;{' 2; }"]]),
        *chance.scattered(inside),
        "}",
    ]
    files[f"{PLACE}/nginx.conf"] = chance.text(main)
    return Case(
        "nginx", files, [[f"{PLACE}/nginx.conf", "nginx", settings]], ask={"names": [*names, "unknown.example"]}
    )


def _server(chance, name, defaults, tuned):
    listens = []
    for port in chance.sample(["8001", "8002", "8003"], chance.randint(1, 2)):
        address = chance.choice(["", "", "*:", "0.0.0.0:", f"{A4}:", "127.0.0.1:"])
        options = ""
        key = (address.replace("*:", "").replace("0.0.0.0:", ""), port)
        if key not in defaults and chance.often(0.25):
            defaults.add(key)
            options += " default_server"
        if not key[0] and key not in tuned and chance.often(0.2):
            tuned.add(key)
            options += chance.choice([" backlog=64", " so_keepalive=on", " rcvbuf=64k"])
        listens.append(f"listen {address}{port}{options};")
        twin = {"": "[::]:", "*:": "[::]:", "0.0.0.0:": "[::]:", f"{A4}:": f"[{A6}]:"}.get(address)
        if twin and not options and chance.often(0.25):
            listens.append(f"listen {twin}{port};")
    if chance.often(0.3):
        listens = [" ".join(listens)]
    if chance.often(0.2):
        listens = [line.replace("listen ", "listen\n      ", 1) for line in listens]
    head = chance.choice(["", "  # a site", ""])
    if not head and len(listens) > 1 and chance.often():
        head = " " + listens.pop(0)
    rules = [f"allow {word};" for word in chance.some([A4, "192.0.2.0/24", "198.51.100.0/24", "127.0.0.1"], 2)]
    rules = [*([f"deny {B4};"] if chance.often(0.2) else []), *rules, *(["deny all;"] if rules else [])]
    return [
        "server {" + head,
        *chance.scattered([[f"    {line}"] for line in listens]),
        f"  server_name {name} www.{name};",
        *chance.choice([[], ['  set $text "a; } b"; # }'], ["  if ($host = 'x;{') { return 404; }"]]),
        f"  add_header X-Site {name} always;",
        "  location / {",
        *(f"    {rule}" for rule in rules),
        "    empty_gif;",
        "  }",
        *chance.choice([[], ['  location ~ "^/x{2,3}$" { empty_gif; }']]),
        chance.choice(["}", "} # server"]),
    ]


# --- sshd ---


def sshd(chance):
    """sshd_config with a drop-in."""
    settings = {"ListenAddress": {"add": [f"[{A6}]"]}, "networks": NETWORKS, "AddressFamily": "any"}
    groups = [[f"Port {port}"] for port in chance.some(["22", "2222"], 2)]
    listens = chance.some([A4, "0.0.0.0", f"{A4}:2022", "127.0.0.1", f"[{A6}]:22", A6, "::"], 3)
    if "0.0.0.0" in listens or "::" in listens:  # nothing else can be bound beside these
        listens = [word for word in listens if word not in (A4, A6, f"[{A6}]:22")]
    both = any(word.count(":") > 1 for word in listens)
    groups += [[_option(chance, "ListenAddress", _maybe_quoted(chance, word))] for word in listens]
    if chance.often(0.4):
        groups.append([_option(chance, "AddressFamily", chance.choice(["any", "any" if both else "inet"]))])
    if chance.often(0.5):
        users = chance.sample(
            ["root@192.0.2.*", "a@198.51.100.0/24", "b", "a@203.0.113.7", '"c"'], chance.randint(1, 4)
        )
        groups.append([_option(chance, "AllowUsers", " ".join(users))])
    if chance.often(0.3):
        groups.append([_option(chance, "DenyUsers", "mallory@192.0.2.0/24 eve")])
    chance.shuffle(groups)
    drop_in = [groups.pop()] if groups and chance.often(0.4) else []
    matches = []
    for words in chance.some(["192.0.2.0/24", "198.51.100.0/24,203.0.113.7", "203.0.113.0/24,!203.0.113.7"], 2):
        matches.append([_option(chance, "Match", f"Address {words}"), "  X11Forwarding yes", "  MaxAuthTries 3"])
    comments = tuple(text for text in COMMENTS if "\udcfc" not in text)
    main = chance.scattered([[f"Include {PLACE}/sshd_config.d/*.conf"], *groups, *matches], comments)
    files = {f"{PLACE}/sshd_config": chance.text(main)}
    if drop_in:
        files[f"{PLACE}/sshd_config.d/10-first.conf"] = chance.text(chance.scattered(drop_in, comments))
    clients = {"192.0.2.9": "2001:db8::9", "198.51.100.9": "2001:db8:52::9", "203.0.113.7": "2001:db8:7::7"}
    return Case("sshd", files, [[f"{PLACE}/sshd_config", "sshd", settings]], ask={"clients": clients})


def _option(chance, key, value):
    word = chance.choice([key, key.lower(), key.upper()])
    return (
        chance.choice(["", "  "])
        + word
        + chance.choice([" ", "\t", "=", " = "])
        + value
        + chance.choice(["", " ", " # why"])
    )


# --- Varnish ---


def varnish(chance):
    """The host's own drop-in of a unit; the packaged unit serves both families."""
    words = chance.sample(
        ["0.0.0.0:6081", f"{A4}:6082", ":6083", "127.0.0.1:6084", f"web={A4}:6085,PROXY"], chance.randint(1, 4)
    )
    if chance.often(0.2):
        words.append("[::]:6081")
    joint = chance.choice([" ", "  ", " \\\n    ", " \\\n\t"])
    options = [f"-a{chance.choice([' ', '  '])}{word}" for word in words]
    options.insert(chance.randint(0, len(options)), "-T localhost:6090")
    command = joint.join(["/usr/sbin/varnishd", "-F", *options, "-s malloc,64m"])
    lines = [
        "[Unit]",
        "Description=Cache # -a 0.0.0.0:80",
        "[Service]",
        "ExecStart=",
        *chance.noise(("; -a 1", "# -a 2")),
    ]
    drop_in = chance.text([*lines, f"ExecStart={command}", *chance.noise(("# ExecStart=x -a 0.0.0.0:81",))])
    if chance.often(0.3):
        drop_in = drop_in.replace("ExecStart=\n", f"ExecStart=/usr/sbin/varnishd -a {B4}:80\nExecStart=\n", 1)
    unit = "/lib/systemd/system/parsed.service"
    packaged = "[Service]\nType=exec\nExecStart=/usr/sbin/varnishd -F -a :6081 -b 127.0.0.1:80\n"
    return Case(
        "varnish",
        {unit: packaged, "/etc/systemd/system/parsed.service.d/override.conf": drop_in},
        [[unit, "varnish", {"listen": {"add": chance.choice([[f"[{A6}]"], [f"[{A6}]", f"[{B6}]"]])}}]],
        ask={"unit": "parsed.service"},
    )


# --- Pure-FTPd ---


def pureftpd(chance):
    """Options, one in a file; what is in the way of IPv6 is not among them."""
    conf = "/etc/pure-ftpd/conf"
    yes = ("yes", "1", "on", "YES", "Yes")
    pool = {
        "IPV4Only": [*yes, "no", "off"],
        "Bind": ["0.0.0.0,21", ",21", "*,21", "0.0.0.0,2121"],
        "DontResolve": ["no", "yes", "0"],
        "PassivePortRange": ["40000 40100"],
        "ForcePassiveIP": [A4],
        "MaxClientsNumber": ["20"],
    }
    files = {"/etc/default/pure-ftpd-common": "STANDALONE_OR_INETD=standalone\nVIRTUALCHROOT=false\n"}
    for option in chance.some(sorted(pool), len(pool)):
        value = chance.choice(["", "  "]) + chance.choice(pool[option]) + chance.choice(["", " "])
        files[f"{conf}/{option}"] = chance.text([*chance.noise(("# IPV4Only no", "")), value])
    return Case("pureftpd", files, [["/etc/default/pure-ftpd-common", "pureftpd", {"DontResolve": True}]])


# --- resolv.conf and KEY=VALUE ---


def resolv(chance):
    """resolv.conf by hand."""
    servers = chance.sample(
        ["192.0.2.53", "198.51.100.53", "203.0.113.53", "2001:db8::53", "fe80::53%lo"], chance.randint(0, 5)
    )
    groups = [
        [f"nameserver{chance.choice([' ', chr(9), '  '])}{word}{chance.choice(['', ' ', '  # old'])}"]
        for word in servers
    ]
    groups += chance.some([["search a.example b.example"], ["options timeout:2 rotate"], ["domain a.example"]], 2)
    if chance.often(0.5):
        chance.shuffle(groups)
    wanted = chance.sample(["2001:db8:0:1::53", "2001:db8:0:2::53", "2001:db8::53"], chance.randint(1, 3))
    comments = ("# nameserver 192.0.2.99", "; nameserver 192.0.2.99", "#", "# f\udcfcr alle")
    path = "/etc/resolv.conf"
    text = chance.text(chance.scattered(groups, comments))
    return Case("resolv", {path: text}, [[path, "resolv", {"nameserver": {"add": wanted}}]])


def key_value(chance):
    """Assignments that a shell reads."""
    lines = [
        [f"{chance.choice(['', 'export ', '  '])}{key}={chance.choice(['1', chr(34) + 'a b' + chr(34), ''])}"]
        for key in chance.some(["ONE", "TWO", "ONE_MORE", "ONE"], 4)
    ]
    path = f"{PLACE}/values"
    text = chance.text(chance.scattered(lines, ("# ONE=0", "  # TWO=0")))
    return Case("shell", {path: text}, [[path, "key_value", {"ONE": '"new value"', "TWO": "2"}]])


KINDS = {
    "apache": apache,
    "dovecot": dovecot,
    "key_value": key_value,
    "nginx": nginx,
    "postfix": postfix,
    "postfix_table": postfix_table,
    "pureftpd": pureftpd,
    "resolv": resolv,
    "sshd": sshd,
    "varnish": varnish,
}
