"""The page: complete, well formed, escaped, nothing fetched; and looked at in a browser."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakerun import Truth, scores, write_run, write_scores

from fedmem.errors import DataError
from fedmem.report import svg, write_report
from fedmem.report.page import marked, short_names
from fedmem.report.utility import compare

VOID = {"meta", "link", "br", "hr", "img", "input", "wbr"}
SHAPES = {"circle", "rect", "line", "path", "polygon", "polyline"}


class Page(HTMLParser):
    """Checks nesting; keeps headings, captions, plot titles, ids, links, visible text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.problems, self.tags, self.ids, self.text = [], [], [], [], []
        self.by_tag = {}
        self.attributes = []
        self.feed(text)
        self.close()
        self.problems += [f"<{tag}> is never closed" for tag in self.open]

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in SHAPES:
            self.problems.append(f"<{tag}/> closes itself")

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data):
        self.text.append(data)
        if self.open:
            self.by_tag.setdefault(self.open[-1], []).append(data.strip())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    lower = (0.25, 0.35, 0.4, 0.44, 0.45, 0.46)
    lora = Truth(phi=(0, 0, 0, 1, 1, 2), window=(0,) * 6, exact=(0,) * 6, accuracy=lower)
    return {
        "full": write_run(root / "full", name="quick-full", model={"method": "full"}),
        "lora": write_run(root / "lora", lora, name="quick-lora"),
        "same": write_run(root / "same", Truth(phi=(0, 0, 0, 0, 1, 1)), name="quick-same"),
        "redacted": write_run(root / "redacted", redacted=True, name="real"),
    }


@pytest.fixture(scope="module")
def pages(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("pages")
    several = [runs["full"], runs["lora"]]
    return {
        "one": write_report([runs["full"]], out / "one.html"),
        "two": write_report(several, out / "sub" / "two.html"),
        "redacted": write_report([runs["redacted"]], out / "redacted.html"),
    }


def read(pages, name):
    text = pages[name].read_text(encoding="utf-8")
    return text, Page(text)


@pytest.mark.parametrize("name", ["one", "two", "redacted"])
def test_well_formed_and_self_contained(pages, name):
    text, page = read(pages, name)
    assert page.problems == []
    assert len(page.ids) == len(set(page.ids))
    assert "script" not in page.tags and "img" not in page.tags and "link" not in page.tags
    assert not re.search(r"https?://|@import|url\(", text)
    assert not {"src", "href", "onclick", "onload"} & {name for name, _ in page.attributes}


def test_every_plot_and_table_says_what_it_shows(pages):
    text, page = read(pages, "two")
    plots = text.count('class="plot"')
    assert plots == text.count("<figcaption>") == text.count("<figure>") >= 13
    assert len(re.findall(r"<title id=\"plot-", text)) == plots
    assert page.tags.count("table") == page.tags.count("caption")
    assert 'role="img"' in text and 'lang="en"' in text
    labels = re.findall(r'aria-labelledby="([^"]+)"', text)
    assert set(labels) <= set(page.ids)


def test_sections_in_order(pages):
    _, page = read(pages, "one")
    assert [heading for heading in page.by_tag["h2"] if heading] == [
        "How to read this",
        "Client by client",
        "Leakage, round by round",
        "Who could read whom",
        "How often a note was written",
        "How much of the note was given",
        "Which kinds of PHI",
        "At what price",
        "Attack against attack",
        "The worst case",
        "What the model learned",
        "What protects whom",
        "The worst leaks",
        "The run",
        "Limits",
    ]


def test_the_answer_stands_first(pages):
    _, page = read(pages, "one")
    said = " ".join("".join(page.text).replace("\u00a0", " ").split())
    answer = said.index("gave back PHI from 7 of 16 notes written 10 times (44 %")
    assert answer < said.index("How to read this") < said.index("Leakage, round by round")
    assert "same utility" not in said and "in the run's summary.json" in said
    # The figures stand as text too, not only as shapes.
    assert "7 of 16, 44 % (23–67 %)" in said and "1 of 32, 3 % (1–16 %)" in said


def test_text_of_notes_is_escaped_and_marked(pages):
    text, page = read(pages, "one")
    assert "<b>" not in text and "b" not in page.tags
    assert "<mark>&lt;b&gt;Ada&lt;/b&gt; &amp; note-10x-02</mark>" in text
    assert '<span class="kept">555-0102</span>' in text


def test_a_redacted_run_shows_no_text(pages):
    text, _ = read(pages, "redacted")
    assert "ids and lengths only" in text and "note-10x-02" in text
    for secret in ("&gt;Ada", "metformin", "555-01", "blockquote>"):
        assert secret not in text


def test_arms_side_by_side(pages):
    text, page = read(pages, "two")
    said = " ".join("".join(page.text).split())
    assert "Arms are not compared" in said and "has no answers.parquet" in said
    assert "full against lora: they differ in utility on mcq (accuracy); cannot tell on" in said
    assert "in each run's summary.json" in said
    assert "Where the configs differ" in said and "model.method" in said
    assert 'class="line c0 main"' in text and 'class="line c1 main"' in text


def test_arms_of_like_utility_are_not_compared_in_leakage(runs, tmp_path):
    text = write_report([runs["full"], runs["same"]], tmp_path / "a.html").read_text()
    said = " ".join("".join(Page(text).text).replace("\u00a0", " ").split())
    assert "full against same: cannot tell on flashcards (loss of the answers), mcq" in said
    assert "cannot tell: overlap is no proof of equal utility" in said
    assert "7 of 16, 44 % (23–67 %) against" not in said and "clear of zero" not in said


@pytest.mark.parametrize("name", ["one", "two", "redacted"])
def test_rows_are_as_wide_as_their_head(pages, name):
    text, _ = read(pages, name)
    assert "<caption>Mean loss of the notes" in text
    check_widths(text)


def check_widths(text):
    tables = re.findall(r"<table.*?</table>", text, re.S)
    assert len(tables) > 10
    for table in tables:
        widths = [
            sum(int((re.findall(r'colspan="(\d+)"', cell) or [1])[0]) for cell in cells)
            for row in re.findall(r"<tr.*?</tr>", table, re.S)
            if (cells := re.findall(r"<(?:th|td)\b[^>]*>", row))
        ]
        assert len(set(widths)) == 1, table[:300]


def test_pairs_show_the_twins(pages):
    text, _ = read(pages, "one")
    assert "<small>twins 1 of 11</small>" in text and "<small>twins 0 of 10</small>" in text


def test_notes_left_out_of_a_pair(tmp_path):
    run = write_run(tmp_path / "run")
    table = pq.read_table(run / "canaries.parquet").to_pylist()
    table[0]["owners"] = ["north", "south"]
    pq.write_table(pa.Table.from_pylist(table), run / "canaries.parquet")
    text = write_report([run], tmp_path / "a.html").read_text()
    assert "<caption>Notes left out of a pair" in text
    check_widths(text)


def test_a_manifest_still_running_says_nothing_of_it(tmp_path):
    run = write_run(tmp_path / "run")
    manifest = {"status": "running", "finished": None, "versions": {"torch": "2.9.0"}}
    (run / "manifest.json").write_text(json.dumps(manifest))
    text = write_report([run], tmp_path / "a.html").read_text()
    assert "versions.torch" in text and "running" not in text
    (run / "manifest.json").unlink()
    text = write_report([run], tmp_path / "a.html").read_text()
    assert Page(text).problems == [] and "Versions, seeds" not in text
    (run / "manifest.json").write_text("[]")
    with pytest.raises(DataError, match="must hold an object"):
        write_report([run], tmp_path / "a.html")


def test_same_runs_same_bytes(runs, pages, tmp_path):
    again = write_report([runs["full"]], tmp_path / "again.html")
    assert again.read_bytes() == pages["one"].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.html"]


def test_a_run_in_which_nothing_leaked(tmp_path):
    nothing = (0,) * 6
    run = write_run(tmp_path / "run", Truth(nothing, nothing, nothing, nothing))
    text = write_report([run], tmp_path / "a.html").read_text()
    assert Page(text).problems == []
    assert "What came closest" in text and "this measure shows no leak" in text


@pytest.mark.parametrize("keep", ["phi", "extraction", "loss", "nothing"])
def test_a_run_with_one_attack_only(tmp_path, keep):
    run = write_run(tmp_path / "run")
    rows = [row for row in scores(Truth()) if row["attack"] == keep]
    write_scores(run, rows)
    (run / "utility.json").write_text("[]")
    page = Page(write_report([run], tmp_path / "a.html").read_text())
    assert page.problems == []


def test_no_run_no_report(tmp_path):
    with pytest.raises(DataError, match="at least one"):
        write_report([], tmp_path / "a.html")
    with pytest.raises(DataError, match="no run directory"):
        write_report([tmp_path], tmp_path / "a.html")
    assert list(tmp_path.iterdir()) == []


def test_names_of_arms():
    assert short_names(["quick-full", "quick-lora"]) == ["full", "lora"]
    assert short_names(["a-x-1", "a-x-2", "a-y"]) == ["x-1", "x-2", "y"]
    assert short_names(["run", "run"]) == ["run (1)", "run (2)"]
    assert short_names(["only-one"]) == ["only-one"]


def test_marking_overlapping_values():
    text = "Ada Lovelace, Lovelace, 36"
    assert marked(text, ["Ada Lovelace", "Lovelace", "36", "absent", ""], {1}) == [
        ("", "Ada "),
        ("leak", "Lovelace"),
        ("", ", Lovelace, "),
        ("kept", "36"),
    ]


def test_axes():
    assert svg.rate_top([0.04]) == 0.1 and svg.rate_top([0.3, 0.6]) == 1.0
    assert svg.span([0.55, 1.3]) == (0.5, 1.5)
    assert svg.span([2.0, 2.0])[0] <= 2.0 <= svg.span([2.0, 2.0])[1]
    assert svg.ticks(0, 0.5) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_plots_escape_names():
    point = svg.Point(0, 0.5, 0.2, 0.8, "<i>")
    line = svg.Series('<b title="x">', 0, [point])
    plot = svg.line_chart("<script>", ["<u>"], [line])
    bars = svg.bar_chart("<script>", [("<u>", [svg.Bar("<b>", 0, 0.5, 0.2, 0.8, "<i>")])])
    for found in (plot, bars):
        assert not re.search(r"<(script|u|b|i)\b", found)


def test_one_arm_compares_with_nothing():
    assert compare([]) == ([], None)


WRAP = """<body style="margin:0"><iframe src="{page}" style="width:{width}px;height:900px;border:0">
</iframe><script>onload = () => {{
const d = document.querySelector("iframe").contentDocument;
d.querySelectorAll("details").forEach(e => e.open = true);
const root = d.documentElement;
document.body.dataset.found = root.scrollWidth + " " + root.clientWidth + " "
  + getComputedStyle(d.body).backgroundColor;
}}</script></body>"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [1200, 380])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(pages, tmp_path, width, scheme):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium, which is not installed")
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(WRAP.format(page=pages["two"].as_uri(), width=width))
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
    command += ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
    command += ["--disable-sync", "--hide-scrollbars", "--allow-file-access-from-files"]
    command += [f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"]
    command += [f"--window-size={width},2400"]

    def browse(name, *more):
        profile = f"--user-data-dir={tmp_path / name}"
        return subprocess.run(
            [*command, profile, *more], capture_output=True, text=True, timeout=120, check=True
        ).stdout

    dom = browse("dom", "--dump-dom", wrapper.as_uri())
    scroll, client, paper = re.search(r'data-found="(\d+) (\d+) ([^"]+)"', dom).groups()
    assert int(scroll) <= int(client) <= width  # with every table open
    shades = [int(x) for x in re.findall(r"\d+", paper)]
    assert max(shades) < 60 if scheme == "dark" else min(shades) > 200
    shot = tmp_path / "shot.png"
    browse("shot", f"--screenshot={shot}", pages["two"].as_uri())
    assert shot.stat().st_size > 20_000
