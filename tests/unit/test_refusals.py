"""The guide to the way back explains every refusal of the modules and playbooks that it tells of."""

import ast
import pathlib
import re

import pytest

yaml = pytest.importorskip("yaml")

ROOT = pathlib.Path(__file__).parents[2]
CORE = ROOT / "plugins" / "module_utils"
GUIDE = ROOT / "docs" / "docsite" / "rst" / "going_back_guide.rst"
MODULES = [
    "_network_change",
    "_network",
    "_backends",
    "_firewall",
    "_packet_filter_host",
    "_rollback",
    "_transaction_window",
    "_disabled",
    "_dns",
]
# Of the transaction, what a revert can come to.
WAY_BACK = ["_plan_revert", "_put_back", "_restore", "_verify_unchanged"]
PLAYS = [
    "playbooks/revert.yml",
    "playbooks/withdraw.yml",
    "playbooks/tasks/due.yml",
    "roles/interfaces/tasks/main.yml",
    "roles/firewall/tasks/main.yml",
    "roles/dns_publisher/tasks/main.yml",
]
ERRORS = ("DualStackError", "InputError", "ValueError", "_Failure")
SHORTEST = 12  # what is shorter only joins texts from elsewhere


def literals(node):
    """Yield the texts in NODE, with a hole for each value."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from literals(child)


def called(node):
    return getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""


def refusals(tree):
    """Yield the texts of the errors that are raised in TREE, and of the problems that are collected for them."""
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and called(node.exc) in ERRORS:
            for argument in node.exc.args:
                yield from literals(functions.get(called(argument), argument))
        elif called(node) == "append" and ast.unparse(node.func) == "problems.append":
            yield from literals(node)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "reasons":
            yield from (text for text in literals(node.value) if " " in text)


def stable(text, hole="\0"):
    """Return the longest part of TEXT that is the same every time."""
    return max((" ".join(part.split()) for part in re.split(hole, text)), key=len).strip(' :;,.()"')


def known():
    found = {}
    for name in MODULES:
        for text in refusals(ast.parse((CORE / f"{name}.py").read_text())):
            found[stable(text)] = name
    transaction = ast.parse((CORE / "_transaction.py").read_text())
    for node in ast.walk(transaction):
        if isinstance(node, ast.FunctionDef) and node.name in WAY_BACK:
            body = ast.Module(node.body[isinstance(node.body[0], ast.Expr) :], [])
            for text in literals(body):
                if " " in stable(text):
                    found[stable(text)] = "_transaction"
    for path in PLAYS:
        for text in re.findall(
            r"^ +(?:fail_)?msg: *(?:>-?\n)?((?:.+\n)(?:  +(?! *\w+:).+\n)*)", (ROOT / path).read_text(), re.MULTILINE
        ):
            found[stable(text, r"\{\{.*?\}\}")] = path
    return {text: place for text, place in found.items() if len(text) >= SHORTEST}


def explained():
    return " ".join(GUIDE.read_text().replace("``", "`").split())


def test_every_refusal_is_in_the_guide():
    guide = explained()
    assert len(known()) > 60
    assert [f"{place}: {text}" for text, place in known().items() if text not in guide] == []


def test_the_guide_quotes_no_message_that_is_gone():
    sources = [*CORE.glob("_*.py"), *(ROOT / path for path in PLAYS)]
    # Adjacent literals are one text, however the source is broken into lines.
    texts = [text for path in sources if path.suffix == ".py" for text in literals(ast.parse(path.read_text()))]
    whole = " ".join(" ".join([*texts, *((ROOT / path).read_text() for path in PLAYS)]).split())
    section = GUIDE.read_text().partition("What the messages mean\n")[2]
    quoted = [" ".join(quote.replace("``", "`").split()) for quote in re.findall(r'"([^"]+)"', section)]
    assert len(quoted) > 60
    assert [quote for quote in quoted if not all(part in whole for part in re.split(r" ?\.\.\. ?", quote))] == []
