from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcompile.errors import PassError, QCompileError, UsageError
from qcompile.ir.fields import build
from qcompile.ir.literal import Scanner
from qcompile.passmgr import PassRegistry, parse_pipeline, print_pass, print_pipeline
from qcompile.passmgr.options import options_of

FILE = '''
from dataclasses import dataclass
from typing import ClassVar, Literal
from qcompile.passmgr import AllClose, Pass

@dataclass(frozen=True)
class MyPass(Pass):
    """Do nothing, with options."""

    name: ClassVar[str] = "my-pass"
    tolerance: ClassVar = AllClose()
    alpha: float = 2.0
    count: int = 1
    on: bool = False
    mode: Literal["near", "far"] = "near"
    names: tuple[str, ...] = ()
    pair: tuple[int, float] = (1, 0.5)
    label: str | None = None

    def run(self, graph, context):
        pass
'''


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> PassRegistry:
    folder: Path = tmp_path_factory.mktemp("passes")
    (folder / "my_pass.py").write_text(FILE)
    return PassRegistry([folder])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "eliminate-dead",
        "fold-batchnorm,my-pass{alpha=2.5}",
        'my-pass{alpha=0.1, count=-3, on=true, mode="far", names=["a", "b,c"], pair=[4, 2.0], label="x\\"y"}',
        'my-pass{alpha=inf},my-pass,my-pass{names=["only"]}',
    ],
)
def test_text_round_trips(text: str, registry: PassRegistry) -> None:
    passes = parse_pipeline(text, registry)
    assert print_pipeline(passes) == text
    assert parse_pipeline(print_pipeline(passes), registry) == passes


@given(
    alpha=st.floats(allow_nan=False),
    count=st.integers(-(2**40), 2**40),
    on=st.booleans(),
    mode=st.sampled_from(["near", "far"]),
    names=st.lists(st.text(), max_size=3).map(tuple),
    label=st.none() | st.text(),
)
def test_options_round_trip(registry: PassRegistry, **options: object) -> None:
    item = registry.get("my-pass")(**options)
    assert parse_pipeline(print_pass(item), registry) == (item,)


def test_words_underscores_comments_and_integers_are_accepted(registry: PassRegistry) -> None:
    (item,) = parse_pipeline("my_pass{alpha=3, mode=far, label=entropy} // a comment", registry)
    assert item == registry.get("my-pass")(alpha=3.0, mode="far", label="entropy")
    assert isinstance(item.alpha, float)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "error", "message", "hint"),
    [
        ("fold-batchnrm", PassError, "unknown pass 'fold-batchnrm'", "did you mean 'fold-batchnorm'?"),
        ("my-pass{alhpa=1}", UsageError, "pass 'my-pass' has no option 'alhpa'", "did you mean 'alpha'?"),
        ("eliminate-dead{a=1}", UsageError, "has no option 'a'", "pass 'eliminate-dead' has no options"),
        ("my-pass{alpha=big}", UsageError, "option 'alpha' must be float, got \"big\"", None),
        ("my-pass{count=1.5}", UsageError, "option 'count' must be int, got 1.5", None),
        ("my-pass{count=true}", UsageError, "option 'count' must be int, got true", None),
        ("my-pass{on=1}", UsageError, "option 'on' must be bool, got 1", None),
        ("my-pass{mode=middle}", UsageError, 'option \'mode\' must be "near" | "far"', None),
        ("my-pass{names=[1]}", UsageError, "option 'names' must be [str, ...]", None),
        ("my-pass{pair=[1]}", UsageError, "option 'pair' must be [int, float]", None),
        ("my-pass{label=3}", UsageError, "option 'label' must be str | none", None),
        ("my-pass{alpha=1,alpha=2}", UsageError, "option 'alpha' is given twice", None),
        ("my-pass{alpha}", UsageError, "expected '=', found '}'", None),
        ("my-pass{alpha=1", UsageError, "expected ',', found the end", None),
        ("my-pass my-pass", UsageError, "expected ',', found 'my-pass'", None),
        ("my-pass,", UsageError, "expected the name of a pass, found the end", None),
        ("{}", UsageError, "expected the name of a pass, found '{'", None),
        ("my-pass;eliminate-dead", UsageError, "expected ',', found ';'", None),
        ('my-pass{label="open}', UsageError, "expected a token", None),
    ],
)
def test_faulty_text(
    text: str, error: type[QCompileError], message: str, hint: str | None, registry: PassRegistry
) -> None:
    with pytest.raises(error) as caught:
        parse_pipeline(text, registry)
    assert message in str(caught.value)
    assert caught.value.hint is not None
    assert (hint or "`qcompile passes") in caught.value.hint


def test_options_are_described(registry: PassRegistry) -> None:
    described = [(o.name, o.type, o.default) for o in options_of(registry.get("my-pass"))]
    assert described == [
        ("alpha", "float", "2.0"),
        ("count", "int", "1"),
        ("on", "bool", "false"),
        ("mode", '"near" | "far"', '"near"'),
        ("names", "[str, ...]", "[]"),
        ("pair", "[int, float]", "[1, 0.5]"),
        ("label", "str | none", "none"),
    ]


BOUNDED = (
    FILE.replace("MyPass", "Bounded")
    .replace("my-pass", "bounded")
    .replace("import ClassVar", "import Annotated, ClassVar")
    .replace("AllClose, Pass", "AllClose, Bounds, Pass")
    .replace("alpha: float = 2.0", "parts: Annotated[tuple[float, ...], Bounds(0.0)] = (1.0,)")
    .replace("count: int = 1", "maybe: Annotated[float, Bounds(0.0, below=9.0)] | None = None")
    .replace("on: bool = False", "sizes: tuple[Annotated[int, Bounds(1)], ...] = (3,)")
    .replace("def run", "def __post_init__(self):\n        pass\n\n    def run")
)


def test_bounds_anywhere_in_the_type_of_an_option(tmp_path: Path) -> None:
    """Also where the pass has a check of its own, which may forget that of all passes."""
    (tmp_path / "bounded.py").write_text(BOUNDED)
    registry = PassRegistry([tmp_path])
    kinds = [option.type for option in registry.describe("bounded").options]
    assert kinds[:3] == [
        "[float, ...], each at least 0",
        "float at least 0 and less than 9 | none",
        "[int at least 1, ...]",
    ]
    (item,) = parse_pipeline("bounded{parts=[], maybe=8, sizes=[1, 2]}", registry)
    assert (item.parts, item.maybe, item.sizes) == ((), 8.0, (1, 2))  # type: ignore[attr-defined]
    for text, message in (
        ("parts=[1, -1]", "option 'parts' must be at least 0, got -1"),
        ("maybe=9.0", "option 'maybe' must be at least 0 and less than 9, got 9"),
        ("sizes=[1, 0]", "option 'sizes' must be at least 1, got 0"),
    ):
        with pytest.raises(UsageError, match=f"pass 'bounded': {message}"):
            parse_pipeline(f"bounded{{{text}}}", registry)
    (tmp_path / "bounded.py").write_text(BOUNDED.replace("(1.0,)", "(-1.0,)"))
    with pytest.raises(PassError, match="has a default that it refuses: option 'parts' must be at least 0, got -1"):
        PassRegistry([tmp_path]).get("bounded")


def test_a_pass_may_refuse_its_own_options() -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Picky:
        """Refuse negative numbers."""

        name = "picky"
        alpha: float = 1.0

        def __post_init__(self) -> None:
            if self.alpha < 0:
                raise ValueError(f"alpha {self.alpha} is negative")

    with pytest.raises(UsageError, match=r"alpha -1.0 is negative"):
        build(Picky, {"alpha": -1.0}, "pass 'picky'")


def test_the_scanner_names_the_line() -> None:
    scan = Scanner("a\n\n=", "text")
    scan.advance()
    with pytest.raises(UsageError, match="text, line 3"):
        scan.expect("b")
