"""Patterns over tensor names: what they mean, what they refuse, and that no name can stall them."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptclamp.errors import UsageError
from ckptclamp.spec import patterns as module
from ckptclamp.spec.patterns import PatternChecker, TensorPatterns, literal_head


def matches(patterns, *names):
    rule = [patterns] if isinstance(patterns, str) else patterns
    return bool(TensorPatterns([rule]).matching(names))


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("**/kernel", "kernel"),
        ("**/kernel", "dense/kernel"),
        ("**/kernel", "a/b/c/kernel"),
        ("**/kernel", "model_weights/dense/dense/kernel:0"),
        ("dense/kernel", "model_weights/dense/kernel:0"),
        ("model_weights/dense/*", "model_weights/dense/kernel"),
        ("*/kernel", "dense/kernel"),
        ("de?se/kernel", "dense/kernel"),
        ("dense_[0-3]/kernel", "dense_2/kernel"),
        ("dense_[!0-3]/kernel", "dense_7/kernel"),
        ("a/**/z", "a/z"),
        ("a/**/z", "a/b/c/z"),
        ("a/**", "a/b/c"),
        ("**", "anything/at/all"),
        ("*.weight", "mlp.weight"),
        ("**.weight", "layers.0.mlp.weight"),
        ("**.weight", "weight"),
        ("**.weight", "a/b.weight"),
        ("**_proj.weight", "layers.0.attn.q_proj.weight"),
        ("layers.*.*.weight", "layers.0.mlp.weight"),
        ("layers.**.weight", "layers.0.mlp.weight"),
        ("layers.**.weight", "layers.weight"),
        ("layers.?.weight", "layers.0.weight"),
        ("layers.[!1].weight", "layers.0.weight"),
        ("*/kernel", "conv.1/kernel"),
        ("**/{kernel,bias}", "dense/bias"),
        ("{a,b.{c,d}}.weight", "b.d.weight"),
        ("{**/a,*.b}", "x.b"),
        ("{,q_}proj", "proj"),
        ("x[{]y[}]", "x{y}"),
        ("a.b", "a.b"),
        ("x[[]y", "x[y"),
        ("re:layers\\.\\d+\\.(q|k)_proj", "layers.31.q_proj"),
        ("re:^dense/kernel$", "dense/kernel:0"),
        ("re:.*ker.*", "dense/kernel"),
        ("re:a{2,3}", "aaa"),
        ("re:[^/]+/(kernel|bias)?", "dense/bias"),
    ],
)
def test_matches(pattern, name):
    """The meaning of every sign, on names as files have them."""
    assert matches(pattern, name)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("*/kernel", "a/b/kernel"),
        ("*.weight", "layers.0.mlp.weight"),
        ("layers.*.weight", "layers.0.mlp.weight"),
        ("layers.0?mlp.weight", "layers.0.mlp.weight"),
        ("layers[!0]0", "layers.0"),
        ("**/weight", "layers.0.weight"),
        ("**/{kernel,bias}", "dense/gamma"),
        ("*/kernel", "kernel"),
        ("dense/kernel", "dense/kernels"),
        ("dense/kernel", "Dense/kernel"),
        ("dense/kernel", "dense/kernel:1"),
        ("de?se", "de/se"),
        ("de[!x]se", "de/se"),
        ("a/**", "a"),
        ("a.b", "axb"),
        ("re:kernel", "dense/kernel"),
        ("re:a{2,3}", "a"),
        ("re:a{2}", "aaa"),
    ],
)
def test_does_not_match(pattern, name):
    """A pattern means no more than it says: segments, case, the whole name."""
    assert not matches(pattern, name)


@given(st.data())
def test_dots_part_segments_as_slashes_do(data):
    """A glob means on PyTorch's names what it means on Keras', written with the other sign."""
    name, glob = data.draw(NAMES), data.draw(GLOBS)
    dotted = glob.replace("/", "."), name.replace("/", ".")
    assert matches(glob, name) == matches(*dotted)


@pytest.mark.parametrize("pattern", ["{a", "a}", "{a}", "**/{a,b", "{" * 9 + "a,b" + "}" * 9])
def test_a_brace_that_is_no_choice_is_refused(pattern):
    """A slip must not become a sign that no name has."""
    with pytest.raises(UsageError, match=r"brace|closed|closes"):
        matches(pattern, "a")


def test_exclusion_wins_over_any_name():
    """One alias that is excluded excludes the tensor, whatever the order of patterns."""
    assert not matches(["**/kernel", "!head/**"], "layers/3/vars/kernel", "head/kernel")
    assert not matches(["!head/**", "**/kernel"], "head/kernel")
    assert matches(["**/kernel", "!head/**"], "body/kernel")


def test_any_name_is_enough():
    """A tensor matches by its label as by its own name."""
    assert matches("dense/kernel", "layers/dense/vars/0", "dense/kernel")


def test_rules_are_told_apart():
    """Matching many rules at once gives for each what it gives alone."""
    patterns = TensorPatterns([["a/*"], ["**/b", "!a/b"], ["re:.*"], ["b"]])
    assert patterns.matching(["a/b"]) == {0, 2}
    assert patterns.matching(["c/b"]) == {1, 2}
    assert patterns.matching(["b"]) == {1, 2, 3}


NAMES = st.lists(st.sampled_from(["a", "b", "ab", "kernel", "x-y"]), min_size=1, max_size=5).map(
    "/".join
)
GLOBS = st.lists(
    st.sampled_from(["a", "*", "**", "a*", "*b", "?", "k*r*l", "[ab]", "[!a]*"]),
    min_size=1,
    max_size=4,
).map("/".join)


def slow_match(glob, name):
    """The reference: segment by segment, by definition and without regard to speed."""
    if not glob:
        return not name
    head, *rest = glob
    if head == "**":
        if not rest:
            return bool(name)
        return any(slow_match(rest, name[skip:]) for skip in range(len(name) + 1))
    pattern = re.escape(head).replace(r"\*", ".*").replace(r"\?", ".")
    pattern = pattern.replace(r"\[ab\]", "[ab]").replace(r"\[!a\]", "[^a]")
    return bool(name) and bool(re.fullmatch(pattern, name[0])) and slow_match(rest, name[1:])


@settings(max_examples=500)
@given(GLOBS, NAMES)
def test_globs_agree_with_the_definition(glob, name):
    """Matching gives what a plain recursion over segments gives."""
    assert matches(glob, name) == slow_match(glob.split("/"), name.split("/"))


@settings(max_examples=200)
@given(st.lists(GLOBS, min_size=1, max_size=6), NAMES)
def test_patterns_do_not_disturb_one_another(globs, name):
    """Patterns match together as they do alone, equal ones and those that begin alike too."""
    alone = {index for index, glob in enumerate(globs) if matches(glob, name)}
    assert TensorPatterns([[glob] for glob in globs]).matching([name]) == alone


def test_many_rules_are_told_apart():
    """More rules than are matched at once give what each gives alone, at the borders too."""
    patterns = TensorPatterns([[f"**/layer_{i}/*"] for i in range(1000)] + [["**", "!**/bias"]])
    for i in (0, 199, 200, 201, 999):
        assert patterns.matching([f"model/layer_{i}/kernel"]) == {i, 1000}
        assert patterns.matching([f"model/layer_{i}/bias"]) == {i}
    assert len(patterns.never_met()) == 995


@pytest.mark.parametrize("code", [0, 0x0A, 0x85, 0xD800, 0xDC80, 0x1F600])
def test_any_name_is_matched(code):
    """Names from files hold any character, also halves of surrogate pairs: each is one character."""
    char = chr(code)
    name = f"a{char}b"
    for pattern in ("a?b", "*", "**", f"a[x{char}]b", name, "re:a.b", "re:a[^/]b", f"re:a{char}b"):
        assert matches(pattern, name)
        assert not matches(pattern, f"{name}/{char}c") or pattern == "**"
    for pattern in ("ab", "a??b", "re:ab", "re:a..b", f"a[!{char}]b", f"re:a[^{char}]b"):
        assert not matches(pattern, name)


LITERALS = ["a", "b", ".", "é", r"\.", r"\n", r"\w", r"\W", r"\d", r"\D", r"\s", r"\S"]
CLASSES = ["[ab]", "[^a]", "[]a]", "[^]a]", r"[\]a-]", "[a&&b]", "[[:alpha:]]"]
MIXED_CLASSES = [r"[^\W_]", r"[\Wa]", r"[\d-]", r"[^\s\d]", r"[\d^b]", r"[^\s\S]", r"[\s\S]"]


@pytest.mark.filterwarnings("ignore:Possible .* at position:FutureWarning")
@settings(max_examples=500)
@given(
    st.recursive(
        st.sampled_from(LITERALS + CLASSES + MIXED_CLASSES),
        lambda inner: st.one_of(
            st.tuples(inner, inner).map("".join),
            st.tuples(inner, inner).map(lambda p: f"({p[0]}|{p[1]})"),
            st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,}", "{0,2}"])).map(
                lambda p: f"({p[0]}){p[1]}"
            ),
        ),
        max_leaves=6,
    ),
    st.text("abc", max_size=6) | st.text("ab_-é½٣\n \xa0:]&[", max_size=6),
)
def test_regular_expressions_agree_with_python(expression, name):
    """What is understood means what it means to Python's own `re`, `.` for line ends included."""
    assert matches(f"re:{expression}", name) == bool(re.fullmatch(expression, name, re.DOTALL))


@given(st.characters(exclude_categories=()), st.sampled_from("dDwWsS"))
def test_kinds_of_characters_are_those_of_python(char, letter):
    r"""``\d``, ``\w`` and ``\s`` know all scripts: a rule on ``\w+`` must not pass a name by."""
    expected = bool(re.fullmatch(f"\\{letter}", char))
    assert matches(f"re:\\{letter}", char) == expected
    assert matches(f"re:[\\{letter}]", char) == expected
    assert matches(f"re:[^\\{letter}]", char) != expected


def test_a_full_cache_is_no_other_answer():
    """More states than memory holds cost time, and no match is lost or made up."""
    name = "".join(random.Random(1).choices("ab", k=50_000)) + "b"
    patterns = TensorPatterns([[f"re:(a|b)*a.{{{i}}}b"] for i in range(60)])
    assert patterns.matching([name]) == {i for i in range(60) if name[-2 - i] == "a"}


def test_patterns_too_large_together_are_refused():
    """Patterns that are small alone cannot use up the memory together."""
    rules = [[f"re:.{{1000}}{i}"] for i in range(500)]
    assert TensorPatterns(rules[:10]).matching(["é" * 1000 + "7"]) == {7}
    with pytest.raises(UsageError, match="too large together"):
        TensorPatterns(rules)


@pytest.mark.parametrize("pattern", ["re:.{1000}", "re:" + ".{1000}" * 9, "re:(x*){1000}[z-a]?"])
def test_checking_is_bounded_too(pattern):
    """A pattern is compiled to be checked: of those that are too large only a few may be."""
    checker, before = PatternChecker(), module.compiled.cache_info().misses
    refused = []
    for i in range(2_000):
        try:
            checker.check([f"{pattern}{i}"])
        except UsageError as error:
            refused.append(error)
    assert refused
    assert module.compiled.cache_info().misses - before < 500


def test_small_patterns_are_bounded_by_their_number():
    """However small patterns are, each costs something."""
    checker = PatternChecker()
    checker.check([f"a{i}" for i in range(20_000)])
    with pytest.raises(UsageError, match="too large together"):
        checker.check([f"b{i}" for i in range(20_000)])


def test_too_little_memory_is_an_error(monkeypatch):
    """Where RE2 has no memory for its states, that is an error and no name that matches nothing."""
    monkeypatch.setattr(module, "_GROUP_MEMORY", 1 << 13)
    with pytest.raises(UsageError, match="too large"):
        TensorPatterns([[f"**/a{i}/*"] for i in range(100)])


@pytest.mark.parametrize(
    "pattern",
    ["re:(a+)+$", "re:(a|a)*b", "re:(.*a){20}", "**/a*a*a*a*a*a*b", "**/a/**/a/**/a/**/b"],
)
def test_no_name_stalls_a_pattern(pattern):
    """Names that make a backtracking matcher run for ever are answered as others are."""
    for name in (
        "a" * 20_000 + "c",
        "a/" * 20_000 + "c",
        "é" * 20_000,
        "".join(map(chr, range(32, 9000))),
    ):
        assert not matches(pattern, name)


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "!",
        "[z-a]",
        "re:(?=a)b",
        "re:(?i)a",
        r"re:(a)\1",
        r"re:\bword",
        "re:a**",
        "re:a*?",
        "re:(a",
        "re:a)",
        "re:a)(b",
        "re:[a",
        "re:*a",
        "re:a^b",
        "re:a{3,2}",
        "re:(a{1000}){1000}",
        "re:(((a{99}){99}){99}){99}",
        "re:a{99999999999999999999}",
        "re:a{01}",
        "re:a{100000}",
        "re:a{,2}",
        "re:a{٣}",
        "re:a\\",
        "re:" + ".{1000}" * 100,
        "re:" + "(" * 5_000 + ")" * 5_000,
        "a" * 100_000,
    ],
)
def test_what_cannot_be_understood_is_refused(pattern):
    """A pattern that is malformed, not regular or too large is an error, not an empty match."""
    with pytest.raises(UsageError):
        PatternChecker().check([pattern])
    with pytest.raises(UsageError):
        TensorPatterns([[pattern]])


def test_only_exclusions_are_refused():
    """A rule that only excludes would match nothing, and look as if it matched the rest."""
    with pytest.raises(UsageError, match="only exclusions"):
        TensorPatterns([["!head/**"]])


@pytest.mark.parametrize(
    ("pattern", "head"),
    [
        ("optimizer/**", "optimizer/"),
        ("**/kernel", ""),
        ("a/b", "a/b"),
        (r"re:optimizer/\d+", "optimizer/"),
        ("!x*", "x"),
    ],
)
def test_literal_head(pattern, head):
    """What a pattern says before it begins to vary decides what it names on purpose."""
    assert literal_head(pattern) == head
