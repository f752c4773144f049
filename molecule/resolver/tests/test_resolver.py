"""The hosts have a name server of each family, three at the most, and it answers."""


def test_both_families_are_listed_and_the_old_server_stays_first(lab, machine):
    lines = lab(machine).file("/etc/resolv.conf").content_string.splitlines()
    servers = [line.split()[1] for line in lines if line.startswith("nameserver")]
    assert servers == ["198.51.100.53", "2001:db8:100:1::ad:53"]
    assert "search example.net" in lines
    assert "options timeout:2" in lines


def test_the_new_server_answers(lab, machine):
    answer = lab(machine).check_output("dig +short +time=2 +tries=1 @2001:db8:100:1::ad:53 bac1.example.net A")
    assert answer == "198.51.100.10"
