"""The report and its plots: the JSON's figures, self-contained, harmless whatever the completions hold."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from alignment.errors import InputError
from alignment.evaluation import plots
from alignment.evaluation.evaluation import evaluate
from alignment.evaluation.figures import Settings
from alignment.evaluation.material import Material, ModelCompletions, Probe, ScorerCard
from alignment.evaluation.report import (
    SHOWN_PROMPTS,
    Background,
    render_report,
    shown_rows,
    write_reports,
)
from alignment.evaluation.reward_evidence import evidence_behind
from alignment.evaluation.spans import toxic_spans
from alignment.evaluation.tables import csv_table, markdown
from alignment.records import Completion, Prompt
from tests.test_reward_trust import trust_of

HOSTILE = [
    "<script>alert(1)</script>",
    "${7*7} {{7*7}} {% raw %} #{7*7}",
    "</label></details><img src=x onerror=alert(1)>",
    "bell\x07 escape\x1b[31m null\x00 return\r",
    "turned \u202e around",
    "lone \ud800 surrogate",
    "' onfocus='alert(1)' \" onclick=\"alert(1)\" &amp; &#60;b&#62;",
    "",
]


class Reads:
    """Scores 0.9 for texts that say rude, 0.1 for others."""

    name = "reader <b>"
    blind_spots = "It knows one word & no more."

    def __call__(self, texts):
        return np.array([0.9 if "rude" in text else 0.1 for text in texts])


class Page(HTMLParser):
    """What a browser would make of the page: tags, attributes, the visible text and the figures."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.pieces, self.figures = [], [], [], {}
        self.feed(html)
        self.text = "".join(self.pieces)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        given = dict(attrs)
        if tag == "data":
            self.figures.setdefault(given["data-figure"], set()).add(float(given["value"]))

    def handle_data(self, data):
        self.pieces.append(data)


def evaluation(count=16, hostile=False, likelihoods=True, rude_before=3, trained=False):
    """An evaluation of three models by two scorers, and its material."""
    prompts = [
        Prompt(f"p{i}", f"Prompt {i}", "held-out", "<cat|egory>" if i % 2 else "plain", ("kind 1",))
        for i in range(count)
    ]

    def side(name, rude, place):
        completions = [
            Completion(f"{name}{p}-{i}", f"p{p}", text, i != 1, 5)
            for p in range(count)
            for i, text in enumerate(
                HOSTILE if hostile and p == 0 else [f"rude {p}"] * rude + [f"kind {p}"] * (4 - rude)
            )
        ]
        source = f"/somewhere/private/{name}"
        if not likelihoods:
            return ModelCompletions(name, completions, source=source)
        tokens = np.full(len(completions), 5.0)
        nll = tokens * (2 + place / 10)
        return ModelCompletions(name, completions, nll, tokens, nll - place, source)

    models = (side("base", rude_before, 0), side("step.1", 2, 1), side("aligned", 1, 2))
    reads, cards = Reads(), (ScorerCard("reader <b>", Reads.blind_spots, trained),)
    cards += (ScorerCard("org/second", "Half blind."),) if not trained else ()
    scores = {
        card.name: [reads(m.texts) * factor for m in models]
        for card, factor in zip(cards, (1.0, 0.8), strict=False)
    }
    spans = {
        c.completion_id: ((0, 4),) for m in models for c in m.completions if c.text[:4] == "rude"
    }
    probe = None
    if likelihoods:
        sizes = np.array([10.0, 20, 30])
        probe = Probe({m.name: sizes * (1 + i / 100) for i, m in enumerate(models)}, sizes)
    material = Material(tuple(prompts), models, cards, scores, spans, probe)
    return evaluate(material, Settings(resamples=200, permutations=200)), material


TRAINING = [
    {"iteration": i, "reward": 0.1 * i, "kl": 0.2 * i, "eval_reward": None if i % 2 else 0.05 * i}
    for i in range(1, 6)
]
CONSENSUS = {
    "method": "factor",
    "labelers": [
        {"labeler_id": "anna", "reliability": 0.9, "low": 0.8, "high": 1.0, "kind": "careful"},
        {
            "labeler_id": "</svg><script>",
            "reliability": -0.7,
            "low": -0.9,
            "high": -0.5,
            "flagged": True,
        },
        {"labeler_id": "new", "reliability": None},
    ],
}
RUNS = [
    {
        "run_id": "run-1",
        "stage": "ppo",
        "status": "finished",
        "config": {"seed": 7, "lora": {"rank": 16}},
        "inputs": {"pairs": [f"pair-{i}" for i in range(20)]},
        "metrics": {"kl": 4.2, "toxicity": {"mean": 0.08, "low": 0.05, "high": 0.12}},
        "versions": {"torch": "2.13.0"},
        "folder": "/somewhere/private",
    }
]


BACKGROUND = Background(
    training=TRAINING,
    consensus=CONSENSUS,
    reward={"accuracy": 0.87, "labeler_agreement": 0.8, "accuracy_low": 0.8, "accuracy_high": 0.9},
    runs=RUNS,
    reviews=[
        {
            "verdict": "needs work",
            "reviewer": "ann <b>",
            "created": "2026-01-01",
            "comment": "Too | curt.\n*See* p3.",
        }
    ],
    people=[{"finding": "Of 20 pairs aligned won 12."}],
)


def full_report(**options):
    return render_report(*evaluation(**options), BACKGROUND, title="Title </title><script>")


def value_at(row, path):
    for part in path.split("::"):
        row = row[int(part)] if isinstance(row, list) else row[part]
    return row


def test_the_figures_are_those_of_the_json():
    found, material = evaluation()
    page = Page(render_report(found, material))
    row = found.to_json()
    for path, values in page.figures.items():
        assert values == {value_at(row, path)}, path
    for name, model in row["models"].items():
        for field, value in model.items():
            path = f"models::{name}::{field}"
            if isinstance(value, float):
                assert path in page.figures, f"the report lacks {path} = {value}"
        for scorer in ("reader <b>", "org/second"):
            assert f"models::{name}::toxicity::{scorer}::mean" in page.figures
        assert f"models::{name}::rouge::rougeLsum" in page.figures
        assert f"models::{name}::toxicity::reader <b>::intervals::probability::1" in page.figures
    for name in ("step.1", "aligned"):
        for figure in ("difference", "low", "high", "p_value", "reduction::high"):
            assert f"pairs::{name}::scorers::org/second::{figure}" in page.figures
    assert "pairs::aligned::categories::plain::reader <b>::difference" in page.figures
    assert "pairs::aligned::probe_change::low" in page.figures
    for text in (found.comparison().finding, *(card.blind_spots for card in found.scorers)):
        assert text in page.text


def test_markdown_holds_the_figures_of_the_json():
    found, _ = evaluation()
    text = markdown(found, BACKGROUND.reviews, BACKGROUND.people)
    row = found.to_json()
    cells = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.split("\n")
        if line[:1] == "|"
    ]
    for name in ("step.1", "aligned"):
        for scorer, label in (("reader <b>", r"reader \<b>"), ("org/second", "org/second")):
            change = row["pairs"][name]["scorers"][scorer]
            (line,) = [c for c in cells if c[0] == name and c[1] == label]
            numbers = [float(n.replace("−", "-")) for n in (line[2], line[3], line[4])]
            means = [row["models"][m]["toxicity"][scorer]["mean"] for m in ("base", name)]
            assert numbers == pytest.approx([*means, change["difference"]], abs=6e-4)
            assert line[8] == change["verdict"]
    lines = {c[0].split(" (")[0]: c[1:] for c in cells if len(c) == 4}
    for label, field, scale in (
        ("Self-BLEU", "self_bleu", 100),
        ("Perplexity", "perplexity", 1),
        ("KL", "kl", 1),
        ("Distinct words", "distinct_1", 1),
    ):
        shown = [float(n.strip("%").replace("−", "-")) for n in lines[label]]
        wanted = [scale * m[field] for m in row["models"].values()]
        assert shown == pytest.approx(wanted, abs=0.051 if scale == 100 else 6e-3), label
    assert "**needs work**, ann <b>" in text and "Too \\| curt. \\*See\\* p3." in text
    assert "Of 20 pairs aligned won 12." in text and row["headline"] in text


def test_the_reward_models_section_has_the_same_figures_in_all_three(tokenizer, tmp_path):
    """Two reward models and a callable, as in a weighted sum."""
    trust, result = trust_of(tokenizer)
    models = [{"name": name, "trust": trust, "result": result} for name in ("reward-1", "<other>")]
    evidence = {"models": models, "notes": ["PPO was rewarded by the callable m:f."]}
    written = write_reports(tmp_path, *evaluation(), Background(evidence=evidence))
    html, text, row = (tmp_path / n for n in ("report.html", "report.md", "reward_model.json"))
    assert {html, text, row} <= set(written)
    row = json.loads(row.read_text())
    assert row == evidence
    page, text = Page(html.read_text()), text.read_text()
    figures = {path: v for path, v in page.figures.items() if path.startswith("models::0::trust::")}
    assert len(figures) > 100
    for path, values in page.figures.items():
        if "::trust::" in path:
            assert values == {value_at(row, path)}, path
    shown = re.findall(r'data-figure="models::0::trust::[^"]*">([^<]*)</data>', html.read_text())
    lines = text.partition("### Reward model")[2]
    for figure in shown:
        assert figure in lines
    for words in (
        "callable m:f",
        "Reliability diagram",
        "reward-1",
        "<other>",
        "<b>odd</b> & told",
    ):
        assert words in page.text
    assert "PPO was rewarded by the callable m:f." in lines and "\\<b>odd" in lines
    ids = re.findall(r' id="([^"]+)"', html.read_text())
    assert len(ids) == len(set(ids)), "two sections share a page"
    assert "script" not in page.tags


def test_a_policy_without_a_trained_reward_model_is_told(tmp_path):
    policy = tmp_path / "ppo-1"
    policy.mkdir()
    assert evidence_behind(policy) is None
    terms = [
        {"kind": "callable", "name": "m:f"},
        {"kind": "scorer", "name": "profanity-check"},
        {"kind": "fluency", "name": ""},
        {"kind": "model", "name": str(tmp_path / "gone")},
    ]
    record = {"reward_model": None, "config": {"rewards": terms}}
    (policy / "policy.json").write_text(json.dumps(record))
    evidence = evidence_behind(policy)
    assert evidence == evidence_behind(policy / "checkpoints" / "checkpoint-4")
    assert evidence["models"] == []
    first, *others = evidence["notes"]
    assert "No reward model was trained" in first
    for name, note in zip(
        ("callable m:f", "scorer profanity-check", "lowers perplexity", "model gone"),
        others,
        strict=True,
    ):
        assert name in note
    write_reports(tmp_path, *evaluation(), Background(evidence=evidence))
    for name in ("report.html", "report.md"):
        written = (tmp_path / name).read_text()
        assert "No reward model was trained" in written and "callable m:f" in written


def test_csv_holds_every_completion_and_no_formula():
    found, material = evaluation(count=12)
    first = material.models[0]
    formula = Completion("x", "p0", "=1+1", True, 5)
    models = (
        ModelCompletions("base", [formula, *first.completions[1:]], source="b"),
        *material.models[1:],
    )
    table = csv_table(found, Material(material.prompts, models, material.scorers, material.scores))
    rows = list(csv.DictReader(io.StringIO(table)))
    assert len(rows) == 3 * 48
    assert rows[0]["completion"] == "'=1+1" and rows[0]["category"] == "plain"
    assert float(rows[1]["toxicity org/second"]) == material.scores["org/second"][0][1]


def test_one_file_that_needs_no_network_and_runs_no_script(tmp_path):
    path, *others = write_reports(tmp_path / "deep", *evaluation(), BACKGROUND)
    assert [p.name for p in others] == ["report.md", "completions.csv"]
    assert all(p.is_file() for p in others)
    html = path.read_text(encoding="utf-8")
    namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"(?:https?:)?//[\w.]+[^\s\"'<)]*", html)) <= namespaces
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "embed", "img"} & set(page.tags)
    assert any("default-src 'none'" in (value or "") for _, value in page.attributes)
    for key, value in page.attributes:
        assert not key.startswith("on"), (key, value)
        if key in ("src", "href", "xlink:href"):
            assert value.startswith("#"), value
    assert "url(" not in re.sub(r"url\(#[\w.-]+\)", "", html)
    assert "@import" not in html


def test_hostile_texts_show_as_text():
    html = full_report(hostile=True)
    page = Page(html)
    assert "script" not in page.tags and "img" not in page.tags and "b" in page.tags
    for text in (
        HOSTILE[0],
        HOSTILE[1],
        HOSTILE[2],
        HOSTILE[6],
        "reader <b>",
        "<cat|egory>",
        "ann <b>",
    ):
        assert text in page.text
    assert "bell⟨U+0007⟩ escape⟨U+001B⟩[31m null⟨U+0000⟩ return⟨U+000D⟩" in page.text
    assert "turned ⟨U+202E⟩ around" in page.text
    assert "lone \ufffd surrogate" in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", html)
    assert not [key for key, _ in page.attributes if key.startswith("on")]
    assert html.count("</svg>") == html.count("<svg"), "no text can end a drawing"
    html.encode("utf-8")


def test_toxic_texts_and_no_others_are_veiled_by_a_checkbox():
    html = render_report(*evaluation())
    veiled = re.findall(r'<label class="veil"><input type="checkbox".*?</label>', html)
    assert len(veiled) == 16 * (3 + 1)
    assert all("rude" in text for text in veiled)
    assert "kind" not in "".join(veiled)
    assert all("<mark>rude</mark>" in text for text in veiled)
    assert html.count("<mark>") == len(veiled)


def test_toxic_words_are_found_where_they_stand():
    class Words:
        """Two words are toxic; one insult is enough."""

        name = "words"
        blind_spots = "Most."

        def __call__(self, texts):
            return np.array([0.9 if re.search("rude|fool", text) else 0.1 for text in texts])

    texts = ["You rude  fool !", "A kind word", "so rude", "rude", "rude and again rude"]
    scores = [0.9, 0.1, 0.9, 0.9, 0.9]
    found = toxic_spans(texts, scores, Words(), 0.5)
    assert [[text[a:b] for a, b in spans] for text, spans in zip(texts, found, strict=True)] == [
        ["rude  fool"],
        [],
        ["rude"],
        ["rude"],
        ["rude", "rude"],
    ]


def test_worst_regressions_first_and_a_bounded_page():
    found, material = evaluation(count=SHOWN_PROMPTS + 20, likelihoods=False, rude_before=0)
    page = render_report(found, material)
    assert page.count('<details class="card row') == SHOWN_PROMPTS
    assert "the other 20 are in the CSV" in page
    assert "Perplexity" not in page, "no figure is shown that was not measured"
    rows = found.comparison(material).worst_first()
    kept, left_out = shown_rows(rows)
    assert (kept[0], kept[-1], left_out) == (rows[0], rows[-1], 20)


def test_categories_can_be_chosen():
    html = full_report()
    assert '<details class="card row good category-2"' in html
    assert "#texts:has(#category-2:checked) .row:not(.category-2)" in html


@pytest.mark.parametrize(
    ("rude", "count", "words"),
    [
        (3, 16, "Better"),
        (1, 16, "No clear difference"),
        (0, 16, "Worse"),
        (3, 4, "Too few prompts"),
    ],
)
def test_the_verdict_is_that_of_the_comparison(rude, count, words):
    html = render_report(*evaluation(rude_before=rude, count=count))
    assert re.search(rf'<p class="verdict [a-z-]+">.*</span>{words}</p>', html)
    judged = re.findall(r"<span>Mean toxicity</span><span class=\"chip (\w+)\">", html)
    assert judged == [{"Better": "good", "Worse": "bad"}.get(words, "even")]


def test_the_scorer_that_trained_it_is_no_witness():
    html = render_report(*evaluation(trained=True))
    assert "Not shown: no independent scorer" in html and 'class="verdict better"' not in html
    assert "trained the policy" in Page(html).text


def test_runs_settings_and_versions_are_listed():
    text = Page(full_report()).text
    for word in (
        "run-1",
        "lora.rank",
        "2.13.0",
        "(20 in all)",
        "seed 0",
        "Hesterberg",
        "transformers",
    ):
        assert word in text
    assert "/somewhere/private" not in text, "a report that is passed on names no folder"


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        write_reports(tmp_path.parent, *evaluation(count=3), html_name=tmp_path.name)


@pytest.mark.parametrize("name", ["x.md", "x.CSV"])
def test_a_page_that_its_own_markdown_or_csv_would_overwrite_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"End its name in \.html: x\.html"):
        write_reports(tmp_path, *evaluation(count=3), html_name=name)
    assert list(tmp_path.iterdir()) == []
    written = write_reports(tmp_path, *evaluation(count=3), html_name="x.htm")
    assert sorted(path.name for path in written) == ["x.csv", "x.htm", "x.md"]


def every_plot():
    return {
        "distribution": plots.toxicity_distribution([0.1, 0.9], [0.1], ("a", "b"), 0.5),
        "scatter": plots.prompt_scatter([0.1, 0.9], [0.5, 0.2]),
        "kl": plots.toxicity_versus_kl([{"kl": 1, "toxicity": 0.3, "low": 0.2, "high": 0.4}]),
        "training": plots.training_curves(TRAINING),
        "reliability": plots.labeler_reliability(CONSENSUS["labelers"]),
        "accuracy": plots.reward_accuracy({"accuracy": 0.9, "labeler_agreement": 0.8}),
    }


def test_plots_take_the_colours_of_the_page_and_share_a_page():
    ids = []
    for name, svg in every_plot().items():
        page = Page(svg)
        assert page.tags[0] == "svg" and ("role", "img") in page.attributes, name
        assert "currentColor" in svg and "#010203" not in svg, name
        assert "#000000" not in svg and "#ffffff" not in svg.lower(), (
            "black or white is lost in one mode"
        )
        assert "pt" not in dict(page.attributes)["viewbox"] and ("width", "100%") in page.attributes
        ids += [value for key, value in page.attributes if key == "id"]
    assert len(ids) == len(set(ids))


def test_plots_are_the_same_each_time():
    assert every_plot() == every_plot()


def test_data_colours_stand_out_in_light_and_dark():
    """WCAG contrast of at least 3:1 for graphics, on the report's two backgrounds."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return np.dot([0.2126, 0.7152, 0.0722], linear)

    for colour in (plots.BEFORE, plots.AFTER, plots.NEUTRAL):
        for page in ("#ffffff", "#1b1e23"):
            high, low = sorted((luminance(colour), luminance(page)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 3, (colour, page)


def test_training_curves_draw_what_is_there():
    svg = plots.training_curves([{"reward": 1.0}, {"reward": None}, {"reward": float("nan")}])
    assert "Reward" in svg and "Value loss" not in svg and "nan" not in svg.lower()
    assert plots.training_curves([]) == ""
    assert plots.training_curves([{"note": "no figures"}]) == ""


def test_reliability_marks_the_flagged_in_words():
    svg = plots.labeler_reliability(CONSENSUS["labelers"])
    assert "&lt;/svg&gt;&lt;script&gt; · flagged" in svg
    assert "anna (careful)" in svg and "anna (careful) · flagged" not in svg
    assert plots.labeler_reliability([{"labeler_id": "x"}]) == ""
    assert plots.reward_accuracy({}) == ""


def test_many_prompts_become_an_image_inside_the_file():
    many = np.random.default_rng(0).uniform(size=5000)
    svg = plots.prompt_scatter(many, many[::-1])
    assert svg.count("data:image/png;base64") == 1 and len(svg) < 500_000


def test_names_are_not_read_as_mathematics():
    svg = plots.toxicity_distribution([0.1], [0.2], ("$x^2$", "a$b"))
    assert "$x^2$" in Page(svg).text and "a$b" in Page(svg).text
