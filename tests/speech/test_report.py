"""Alignments and the report of examples/speech."""

import functools
import html
import html.parser
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.append(str(pathlib.Path(__file__).parents[2]))  # the package under test is installed

pytest.importorskip("flax")
jiwer = pytest.importorskip("jiwer")
for library in ("grain", "optax", "orbax.checkpoint", "rich", "sentencepiece", "soundfile"):
    pytest.importorskip(library)

from stand_in import PIECES, StandInRecognizer, noise  # noqa: E402

import jax_rnnt  # noqa: E402
from examples.speech import align, charts, corpus, evaluate, report  # noqa: E402

DURATIONS = pytest.mark.parametrize("durations", [None, (0, 1, 2, 3)], ids=["rnnt", "tdt"])


@DURATIONS
def test_an_alignment_is_that_of_all_logits(durations):
    recognizer = StandInRecognizer(durations=durations)
    audio, text = noise(3.0), "the toast in a note"
    aligned, _ = align.align_audios(recognizer, [audio, noise(4.0)], [text, "toast"])
    labels = jnp.array(recognizer.tokenizer.encode(text))
    T, U = 38, len(labels) + 1
    assert [word.text for word in aligned.words] == text.split()
    assert all(0 <= word.start < word.end <= 3 for word in aligned.words)
    assert all(0 < word.confidence <= 1 for word in aligned.words)
    assert (np.diff(aligned.frames) >= 0).all()
    np.testing.assert_allclose(aligned.posteriors.sum(0), 1, atol=1e-4)
    assert aligned.posteriors.shape == (T, U - 1)
    model = recognizer.model
    logits = model.joint(recognizer.encode([audio])[0], model.predictor(labels[None]))
    arguments = labels[None], jnp.array([T]), jnp.array([U - 1])
    if durations is None:
        path = jax_rnnt.rnnt_align(logits, *arguments)
        np.testing.assert_array_equal(aligned.frames, path.label_frames[0])
        assert sum(aligned.log_probs) == pytest.approx(float(path.label_log_probs.sum()), abs=1e-3)
        loss = jax_rnnt.rnnt_loss_from_logits
    else:
        loss = functools.partial(jax_rnnt.tdt_loss_from_logits, durations=durations)
    gradient = jax.grad(lambda logits: loss(logits, *arguments).sum())(logits)[0]
    # A logit's gradient is its probability times the posterior of the cell, less its arc's: <unk>,
    # which the text lacks, has no arc.
    likely = jax.nn.softmax(logits[0, ..., : len(PIECES)])
    unknown = PIECES.index("<unk>")
    cells = gradient[..., unknown] / likely[..., unknown]
    columns = jnp.arange(U - 1)
    written = cells[:, :-1] * likely[:, columns, labels] - gradient[:, columns, labels]
    np.testing.assert_allclose(aligned.posteriors, written, atol=2e-3)


def test_a_word_is_aligned_only_if_there_is_one():
    with pytest.raises(ValueError, match="no word"):
        align.align_audios(StandInRecognizer(), [noise(1.0)], [" "])
    with pytest.raises(ValueError, match="no sound"):
        align.align_audios(StandInRecognizer(), [noise(0.0)], ["the"])


def test_errors_are_marked():
    assert charts.pairs("the old cat sat", "a cat sat down") == [
        ("the", "a"),
        ("old", None),
        ("cat", "cat"),
        ("sat", "sat"),
        (None, "down"),
    ]
    assert charts.pairs("", "a b") == [(None, "a"), (None, "b")]
    assert charts.pairs("a b", "") == [("a", None), ("b", None)]
    marked = charts.sentence("<the> old cat", "a cat & dog")
    assert "&lt;the&gt;" in marked
    assert "&amp;" in marked
    assert marked.count("error") == 4


def test_ticks_of_curves():
    assert charts._linear_ticks(0.97) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert charts._linear_ticks(6000) == [0, 2000, 4000, 6000]
    assert charts._log_ticks([2.1, 130.0]) == [2, 5, 10, 20, 50, 100, 200]
    assert charts._log_ticks([1e-3, 1e4])[::7] == [1e-3, 1e4]
    assert charts._log_ticks([1.0]) == [1, 2]
    assert "nothing yet" in charts.curve("loss", [charts.Point(0, float("nan"), "")])


def test_history_of_a_resumed_run(tmp_path):
    records = [
        {"step": 10, "seconds": 1.0, "loss": 5.0},
        {"step": 20, "seconds": 2.0, "loss": 4.0},
        {"step": 20, "seconds": 2.0, "word_error_rate": 0.9, "samples": [["a", "b"]]},
        {"step": 20, "seconds": 2.5, "loss": 3.0},
    ]
    path = tmp_path / "history.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"step": 30, "lo')
    history = report.read_history(path)
    assert [record["loss"] for record in history.losses] == [5.0, 3.0]
    assert history.evaluations == [records[2]]


def test_examples_are_from_all_over_the_corpus():
    assert report.chosen(np.array([2.0, 99.0, 3.0, 4.0, 5.0, 6.0]), ["a"] * 6, 3) == [0, 3, 5]
    assert report.chosen(np.array([2.0]), ["a"], 3) == [0]
    assert report.chosen(np.array([2.0, 3.0, 0.0]), ["?", "a", "a"], 3) == [1]
    assert report.chosen(np.array([40.0, 30.0, 20.0]), ["a"] * 3, 2) == [1, 2]
    assert report.chosen(np.array([1.0]), [""], 2) == []
    assert report.examples_of(StandInRecognizer(), []) == []


class HeldOut:
    """Two recordings, of 3.1 and 2.5 seconds."""

    seconds = np.array([3.1, 2.5])
    texts = ("The TOAST, in a note, unquestionably",) * 2

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> corpus.Utterance:
        return corpus.Utterance("", noise(self.seconds[index]), self.texts[index])


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    """A report of a model of random weights."""
    pytest.importorskip("matplotlib")
    run = tmp_path_factory.mktemp("run")
    samples = [["the cat", "the & cat"], ["a", "a"]]
    records = [{"step": n, "seconds": 1.0 * n, "loss": 100.0 / n} for n in range(1, 50)]
    records += [
        {"step": n, "seconds": 1.0 * n, "word_error_rate": 1 / n, "samples": samples}
        for n in (10, 20, 30)
    ]
    (run / "history.jsonl").write_text("\n".join(map(json.dumps, records)))
    recognizer, held_out = StandInRecognizer(), HeldOut()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "load", lambda settings: (None, held_out))
        patch.setattr(evaluate.Recognizer, "load", lambda run_dir: recognizer)
        report.report(run, run / "report.html", examples=2)
    return (run / "report.html").read_text(encoding="utf-8")


def test_the_report_needs_nothing_else(page):
    links = []

    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            del tag
            links.extend(value for name, value in attrs if name in ("src", "href", "srcset"))

    Parser().feed(page)
    assert len(links) == 4
    assert all(link.startswith("data:") for link in links)
    assert "url(" not in page
    assert "@import" not in page


CHECK = """<script>
addEventListener("load", async () => {
  const sounds = [...document.querySelectorAll("audio")], errors = [];
  onerror = message => errors.push(message);
  for (const sound of sounds)
    if (!sound.readyState) await new Promise(done => sound.onloadedmetadata = done);
  document.querySelector(".word").dispatchEvent(new PointerEvent("pointerover", {bubbles: true}));
  document.querySelectorAll(".word")[1].click();
  const outside = element => {
    const box = element.getBoundingClientRect();
    return !element.closest("svg, pre, script") && (box.left < 0 || box.right > innerWidth);
  };
  parent.postMessage(JSON.stringify({
    width: innerWidth,
    overflow: document.documentElement.scrollWidth > innerWidth,
    outside: [...document.querySelectorAll("body *")].filter(outside).map(x => x.outerHTML),
    seconds: sounds.map(x => x.duration),
    wrapped: [...document.querySelectorAll(".axis span")].filter(x => x.offsetHeight > 24)
      .map(x => x.outerHTML),
    images: [...document.images].map(x => x.naturalWidth),
    marked: Number(document.querySelector(".span").style.opacity) > 0,
    at: sounds[0].currentTime,
    notes: [...document.querySelectorAll("output")].map(x => x.textContent),
    page: getComputedStyle(document.body).backgroundColor,
    errors,
  }), "*");
});
</script></body>"""
# A window has a least width, a frame has none.
FRAME = """<!DOCTYPE html><pre id="checked"></pre>
<script>onmessage = message => checked.textContent = message.data</script>
<iframe style="width: {width}px; height: 900px; border: 0" srcdoc="{page}"></iframe>"""


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1200, "light")])
def test_the_report_in_a_browser(page, tmp_path, width, scheme):
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    if browser is None:
        pytest.skip("There is no Chromium.")
    path = tmp_path / "frame.html"
    checking = html.escape(page.replace("</body>", CHECK))
    path.write_text(FRAME.format(width=width, page=checking), encoding="utf-8")
    run = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
            *("--virtual-time-budget=5000", f"--user-data-dir={tmp_path / 'profile'}"),
            path.as_uri(),
        ],
        capture_output=True,
        timeout=120,
        check=True,
    )
    dom = run.stdout.decode()
    checked = json.loads(html.unescape(dom.partition('<pre id="checked">')[2].partition("<")[0]))
    assert checked["width"] == width
    assert not checked["overflow"]
    assert checked["outside"] == []
    assert checked["seconds"] == [3.1, 2.5]
    assert checked["images"] == [310, 250]
    assert checked["wrapped"] == []
    assert checked["marked"]
    assert checked["at"] > 0
    assert checked["notes"] == ["3.3% at step 30, 30 s", "2.04 at step 49, 49 s"]
    assert checked["errors"] == []
    red = int(checked["page"].removeprefix("rgb(").split(",")[0])
    assert (red > 128) == (scheme == "light")
