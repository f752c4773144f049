"""What runs on managed hosts needs nothing but Python's standard library, 3.9 or later."""

import ast
import pathlib
import sys

import pytest

CORE = sorted((pathlib.Path(__file__).parents[2] / "plugins" / "module_utils").glob("*.py"))


@pytest.mark.skipif(sys.version_info < (3, 10), reason="Python 3.9 has no list of its own modules")
@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_the_core_imports_only_the_standard_library_and_itself(path):
    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    foreign = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            foreign |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            foreign.add(node.module.split(".")[0])
    assert foreign <= set(sys.stdlib_module_names)
