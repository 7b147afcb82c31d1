"""The report and its plots: the JSON's figures, self-contained, harmless whatever the completions hold."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from alignment.errors import InputError
from alignment.evaluation import plots
from alignment.evaluation.compare import Comparison, ModelCompletions, compare
from alignment.evaluation.report import SHOWN_PROMPTS, render_report, write_report
from alignment.records import Completion, Prompt

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


def comparison(count=16, hostile=False, likelihoods=True, rude_before=3) -> Comparison:
    prompts = [Prompt(f"p{i}", f"Prompt {i}", "held-out") for i in range(count)]

    def side(name, rude):
        completions = [
            Completion(f"{name}{p}-{i}", f"p{p}", text, i != 1, 5)
            for p in range(count)
            for i, text in enumerate(
                HOSTILE if hostile and p == 0 else [f"rude {p}"] * rude + [f"kind {p}"] * (4 - rude)
            )
        ]
        if not likelihoods:
            return ModelCompletions(name, completions)
        tokens = np.full(len(completions), 5.0)
        return ModelCompletions(name, completions, tokens * 2, tokens)

    return compare(
        prompts, side("base <i>", rude_before), side("$aligned$", 1), Reads(), resamples=200
    )


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


def full_report(**options):
    return render_report(
        comparison(**options),
        title="Title </title><script>",
        training=TRAINING,
        consensus=CONSENSUS,
        reward={
            "accuracy": 0.87,
            "labeler_agreement": 0.8,
            "accuracy_low": 0.8,
            "accuracy_high": 0.9,
        },
        runs=RUNS,
    )


def test_the_figures_are_those_of_the_json():
    found = comparison()
    page = Page(render_report(found))
    row = found.to_json()
    shown = set()
    for name, values in page.figures.items():
        value = row
        for part in name.split("."):
            value = value[part]
        value = value["mean"] if isinstance(value, dict) else value
        assert values == {value}, name
        shown.add(name)
    for side in ("before", "after"):
        for field, value in row[side].items():
            if field not in ("name", "completions"):
                assert f"{side}.{field}" in shown, f"the report lacks {side}.{field} = {value}"
    assert {"difference", "reduction.low", "perplexity_change.high"} <= shown
    assert found.finding in page.text and found.blind_spots in page.text


def test_one_file_that_needs_no_network_and_runs_no_script(tmp_path):
    path = write_report(tmp_path / "deep" / "report.html", comparison(), training=TRAINING)
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
        "base <i>",
        "$aligned$",
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
    html = render_report(comparison())
    veiled = re.findall(r'<label class="veil"><input type="checkbox".*?</label>', html)
    assert len(veiled) == 16 * (3 + 1)
    assert all("rude" in text for text in veiled)
    assert "kind" not in "".join(veiled)


def test_worst_regressions_first_and_a_bounded_page():
    page = render_report(comparison(count=SHOWN_PROMPTS + 20, likelihoods=False, rude_before=0))
    assert page.count('<details class="card row') == SHOWN_PROMPTS
    assert f"first {SHOWN_PROMPTS} prompts; the other 20 are in the JSON" in page
    assert "Perplexity" not in page, "no figure is shown that was not measured"


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
    html = render_report(comparison(rude_before=rude, count=count))
    assert re.search(rf'<p class="verdict [a-z-]+">.*</span>{words}</p>', html)
    judged = re.findall(r"<span>Mean toxicity</span><span class=\"chip (\w+)\">", html)
    assert judged == [{"Better": "good", "Worse": "bad"}.get(words, "even")]


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
        write_report(tmp_path, comparison(count=3))


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
