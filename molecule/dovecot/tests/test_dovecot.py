"""The service greets a client on each of the host's addresses, of either family."""


def test_the_service_greets_on_both_families(lab, machine):
    for client, address in lab.paths(machine):
        assert lab.greeting(client, address, 143).startswith("* OK"), address
