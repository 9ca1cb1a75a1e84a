"""That the checks of `Opened` themselves see a request, a script that ran, and a failure."""

import pytest

PAGE = "<!doctype html><meta charset=utf-8><title>t</title>"


@pytest.mark.parametrize(
    "planted",
    [
        "<img src='https://example.org/a.png'>",
        "<script>window.ran = 1</script>",
        "<script>throw new Error('broken')</script>",
        "<script>alert(1)</script>",
    ],
)
def test_the_checks_see_what_a_page_must_not_do(browser, tmp_path, planted):
    from tests.browser.conftest import Opened

    path = tmp_path / "bad.html"
    path.write_text(PAGE + planted, encoding="utf-8")
    context = browser.new_context(offline=True)
    opened = Opened(context.new_page(), path.as_uri())
    with pytest.raises(AssertionError):
        opened.check()
    context.close()
