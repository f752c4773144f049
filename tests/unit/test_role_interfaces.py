"""A role's defaults are what its argument specification documents, values included."""

import pathlib

import pytest
import yaml

SPECS = sorted((pathlib.Path(__file__).parents[2] / "roles").glob("*/meta/argument_specs.yml"))


def test_every_role_documents_its_interface():
    roles = pathlib.Path(__file__).parents[2] / "roles"
    assert {path.parents[1] for path in SPECS} == set(roles.iterdir())


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.parts[-3])
def test_defaults_are_the_documented_defaults(path):
    options = yaml.safe_load(path.read_text())["argument_specs"]["main"].get("options", {})
    file = path.parents[1] / "defaults" / "main.yml"
    defaults = (yaml.safe_load(file.read_text()) or {}) if file.exists() else {}
    assert defaults == {name: option["default"] for name, option in options.items() if "default" in option}


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.parts[-3])
def test_a_role_reads_like_a_table_of_contents(path):
    lines = (path.parents[1] / "tasks" / "main.yml").read_text().splitlines()
    assert len(lines) <= 25
