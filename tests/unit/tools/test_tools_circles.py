"""No module of the package imports one that imports it, directly or through others."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[3]


def circle(folder):
    spec = importlib.util.spec_from_file_location("circles", ROOT / "tools" / "circles.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.circle(folder)


def test_the_package_has_no_circle_of_imports():
    assert circle(ROOT / "src" / "flyweight") == []


def test_a_circle_is_found_where_imports_are_hidden(tmp_path):
    package = tmp_path / "room"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text("def f():\n    from room import b\n")
    (package / "b.py").write_text("if TYPE_CHECKING:\n    from room.c import C\n")
    (package / "c.py").write_text("import room.a\n")
    modules = circle(package)
    assert set(modules) == {"room.a", "room.b", "room.c"} and modules[0] == modules[-1]
    (package / "c.py").write_text("")
    assert circle(package) == []
