import pytest

from alnb.panels.markup import Safe, SafeHTML, element, together

EVIL = '<img src=x onerror="alert(1)">'


def test_text_and_attributes_are_escaped_and_built_markup_is_not():
    assert element("p", EVIL, title=EVIL) == (
        '<p title="&lt;img src=x onerror=&quot;alert(1)&quot;&gt;">'
        "&lt;img src=x onerror=&quot;alert(1)&quot;&gt;</p>"
    )
    inner = element("b", "a & b")
    assert together(inner, " < ", inner) == "<b>a &amp; b</b> &lt; <b>a &amp; b</b>"


@pytest.mark.parametrize("build", [lambda s: s + EVIL, lambda s: s.upper(), lambda s: f"{s}{EVIL}"])
def test_what_string_arithmetic_made_of_it_is_text_again(build):
    assert not isinstance(build(element("b", "x")), Safe)


def test_the_widget_shows_any_other_string_as_text():
    shown = SafeHTML(EVIL)
    assert "<img" not in shown.value
    shown.value = element("b", "x")
    assert shown.value == "<b>x</b>"
    shown.value = EVIL
    assert "<img" not in shown.value
