"""README.md and docs/: their Python runs and prints what they say, and messages are the package's.

In a page, ```python blocks run one after the other in one namespace, and with them what a comment
that begins <!--python hides from readers; ```pycon blocks are doctests there. ```py is code of
other libraries and not run.
"""

import ast
import doctest
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_rnnt

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("manual/*.md"))]
BLOCK = re.compile(r"^(?:```(python|pycon)|<!--python)\n(.*?)^(?:```|-->)$", re.M | re.S)


def _blocks(page: pathlib.Path):
    text = page.read_text()
    for found in BLOCK.finditer(text):
        yield found[1] or "python", found[2], text.count("\n", 0, found.start(2))


WITH_CODE = [page for page in PAGES if any(_blocks(page))]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_runs(page):
    names = _names_of_readme() if page == README else {}
    # As readers have it, who have set no option.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for language, source, line in _blocks(page):
            try:
                _run(language, source, line, page, names)
            except ModuleNotFoundError as error:
                pytest.skip(f"{page.name} needs {error.name}")


def _run(language, source, line, page, names) -> None:
    if language == "python":
        exec(compile("\n" * line + source, str(page), "exec"), names)
        return
    test = doctest.DocTestParser().get_doctest(source, names, page.name, str(page), line)
    report: list[str] = []
    doctest.DocTestRunner(verbose=False).run(test, out=report.append, clear_globs=False)
    names.update(test.globs)
    assert not report, "".join(report)


def _names_of_readme() -> dict:
    """What the README's pieces of programs take for granted."""
    N, T, U, H, V = 2, 5, 3, 8, 6
    return dict(
        jax_rnnt=jax_rnnt,
        encoder=jnp.ones((N, T, H)),
        predictor=jnp.ones((N, U, H)),
        kernel=jnp.ones((H, V)),
        bias=jnp.zeros(V),
        key=jax.random.key(0),
        batch=dict(
            labels=np.array([[1, 2], [3, -1]]),
            frames_lengths=np.array([5, 4]),
            labels_lengths=np.array([2, 1]),
        ),
    )


@pytest.mark.skipif(not DOCS.exists(), reason="a source distribution has no docs")
def test_messages_of_the_troubleshooting_page_are_the_packages():
    package = pathlib.Path(jax_rnnt.__file__).parent
    sources = [ast.parse(path.read_text()) for path in package.rglob("*.py")]
    texts = [text for source in sources for text in _strings(source)]
    texts += [path.read_text() for path in (ROOT / "cpp" / "ffi").glob("*.h")]
    page = (DOCS / "manual" / "troubleshooting.md").read_text()
    messages = re.findall(r"^\| `([^`]*(?:…|\.)[^`]*)` \|", page, re.M)
    assert len(messages) > 15
    for message in messages:
        # The argument's name, where one message is that of several.
        said = re.sub(r"^(\w+_lengths|where|durations) ", "", message)
        for part in map(str.strip, said.split("…")):
            assert any(part in text for text in texts), message


def _strings(tree: ast.AST):
    """Each literal, an f-string with … for what it is filled in with."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(x.value if isinstance(x, ast.Constant) else "…" for x in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)(?:#([^)]+))?\)", README.read_text())
    assert links
    for path, anchor in links:
        if path.startswith("docs/") and not DOCS.exists():
            continue
        assert (ROOT / path).exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(), re.M)
            slugs = [re.sub(r"[^\w -]", "", heading).lower() for heading in headings]
            assert anchor in [slug.replace(" ", "-") for slug in slugs], (path, anchor)
