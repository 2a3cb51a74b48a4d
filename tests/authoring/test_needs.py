from __future__ import annotations

from fairbench.authoring.needs import needs_of
from fairbench.method.composition import build_method, resolve_method
from fairbench.plugins.source import Registration
from fairbench.registry import methods, policies


def test_what_is_read_from_the_source_is_what_each_built_in_method_needs():
    read = {name: needs_of(name, methods.scan(), policies.scan()) for name in methods.scan()}
    built = {name: tuple(sorted(build_method(resolve_method(name)).required)) for name in read}
    assert read == built
    assert {"teacher", "natural_teacher", "warm_start", "method_split"} == {
        need for needs in read.values() for need in needs
    }


def test_a_class_inherits_what_it_needs_from_a_neighbour_and_may_need_less(tmp_path):
    (tmp_path / "first.py").write_text(
        'class First(Method):\n    needs: ClassVar[tuple[str, ...]] = ("teacher",)\n', encoding="utf-8"
    )
    (tmp_path / "second.py").write_text(
        "from .first import First\n"
        '@register_method("heir", summary="")\nclass Heir(First):\n    pass\n'
        '@register_method("free", summary="")\nclass Free(Heir):\n    needs = ()\n',
        encoding="utf-8",
    )
    found = {name: Registration(name, tmp_path / "second.py", "second") for name in ("heir", "free")}
    assert needs_of("heir", found, {}) == ("teacher",)
    assert needs_of("free", found, {}) == ()
    assert needs_of("unknown", found, {}) == ()
