"""The order of the rooms: every module imports only from rooms below its own, and none in a circle.

Imports inside functions and for type checkers count like any other. Nothing is exempt.
"""

import ast
import functools

import pytest

from mmlib.store.files import project_root

ROOT = project_root()
# From the ground up; a room may import from itself and from the rooms before it.
ROOMS = ["store", "formula", "draw", "synthetic", "data", "models", "losses", "read", "measure",
         "train", "study", "show", "cli"]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
           for folder in ("mmlib", "scripts") for path in sorted((ROOT / folder).rglob("*.py"))}


def room_of(module):
    """Where a module stands; scripts stand above all rooms, the package's own two files nowhere."""
    parts = module.split(".")
    if parts[0] == "scripts":
        return len(ROOMS)
    return ROOMS.index(parts[1]) if len(parts) > 1 and parts[1] != "__main__" else None


def imported(nodes):
    """The modules that import statements name, a function's own file for an imported function."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module


@functools.cache
def edges():
    """Each module with the modules of ours that it imports anywhere."""
    trees = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}
    return {name: {other for other in imported(ast.walk(tree)) if other in MODULES}
            for name, tree in trees.items()}


def test_every_room_is_in_the_list():
    rooms = {name.split(".")[1] for name in MODULES if name.startswith("mmlib.")} - {"__main__"}
    assert rooms == set(ROOMS)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_rooms_below(module):
    here = room_of(module)
    if here is not None:
        above = [other for other in edges()[module] if (there := room_of(other)) is not None
                 and there > here]
        assert not above


def test_no_file_imports_itself_in_a_circle():
    graph = edges()
    done = set()

    def visit(module, path):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for other in graph[module] - {module}:
                visit(other, [*path, module])
            done.add(module)

    for module in graph:
        visit(module, [])
