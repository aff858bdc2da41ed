"""Figures and tables of small inputs: values, names, panels and escaped text."""

import html
import re
import warnings

import numpy as np
import pandas as pd
import pytest

import plots
from metrics import hit_rate, mean_reciprocal_rank, summarize
from plots import style

RANKS = np.array([1, 2, 3, 4, 30, 7])
MODELS = [f"m{i}" for i in range(14)]
GROUPS = {"neural": MODELS[:6], "baselines": MODELS[6:13], "ensemble": ["m13", "not run"]}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plots.plt.close("all")


def history(epochs=3, value=0.1):
    columns = ["loss", "MRR@20", "HR@20", "accuracy", "seconds"]
    table = pd.DataFrame({name: np.linspace(value, 2 * value, epochs) for name in columns})
    return table.assign(epoch=np.arange(1, epochs + 1))


def coloured(axis):
    return [line for line in axis.lines if line.get_color() != style.GREY]


def shown(figure):
    """All texts as matplotlib draws them. Only the numbers of a logarithmic axis may be mathematics."""
    figure.canvas.draw()
    texts = [text.get_text() for text in figure.findobj(plots.plt.Text)]
    texts = [text for text in texts if text and r"\mathdefault" not in text]
    assert not any(text.count("$") - text.count(r"\$") for text in texts)
    return [text.replace(r"\$", "$") for text in texts]


# Panels


def test_seven_names_share_a_panel_and_more_are_grouped():
    assert style.split_into_panels(MODELS[:7], GROUPS) == [("", MODELS[:7])]
    expected = [("neural", MODELS[:6]), ("baselines", MODELS[6:13]), ("ensemble", ["m13"])]
    assert style.split_into_panels(MODELS, GROUPS) == expected
    assert style.split_into_panels([*MODELS, "mine"], GROUPS) == [*expected, ("other", ["mine"])]
    assert style.split_into_panels(MODELS[:8], {"other": MODELS[:2]}) == [("other", MODELS[:4]), ("other", MODELS[4:8])]
    assert style.split_into_panels(MODELS[:8]) == [("", MODELS[:4]), ("", MODELS[4:8])]


@pytest.mark.parametrize("charts", [1, 2])
def test_fourteen_lines_can_be_distinguished(charts):
    if charts == 1:
        figure = plots.plot_studies({m: [0.1, np.nan, 0.2] for m in MODELS}, groups=GROUPS)
    else:
        figure = plots.plot_at_k({m: [RANKS] for m in MODELS}, groups=GROUPS)
    assert len(figure.axes) == 3 * charts
    for axis, names in zip(figure.axes, [*GROUPS.values()] * charts, strict=True):
        names = [name for name in names if name in MODELS]
        assert sorted(text.get_text().strip() for text in axis.texts) == sorted(names)
        assert len({line.get_color() for line in coloured(axis)}) == len(coloured(axis)) == len(names)
        assert len(axis.lines) == len(MODELS)
    assert figure.axes[0].get_ylim() == figure.axes[2].get_ylim()


def test_line_labels_do_not_overlap():
    _, axis = style.subplots()
    axis.set_ylim(0, 1)
    style.label_line_ends(axis, [(1, 0.99, f"line {i}", "red") for i in range(7)])
    heights = sorted(text.get_position()[1] for text in axis.texts)
    assert np.diff(heights).min() > 0.06
    assert heights[-1] < 1


# Values


def test_at_k_draws_the_mean_of_the_runs():
    other = np.array([2, 2, 9, 9, 9, 9])
    figure = plots.plot_at_k({"NARM": [RANKS, other]})
    for axis, metric in zip(figure.axes, (hit_rate, mean_reciprocal_rank), strict=True):
        expected = [(metric(RANKS, k) + metric(other, k)) / 2 for k in range(1, 21)]
        np.testing.assert_allclose(axis.lines[0].get_ydata(), expected)
    assert [axis.get_ylabel() for axis in figure.axes] == ["HR@K", "MRR@K"]


def test_studies_draw_the_best_so_far():
    figure = plots.plot_studies({"NARM": [0.1, np.nan, 0.05, 0.3]})
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), [0.1, 0.1, 0.1, 0.3])


def test_learning_curves_are_means_over_the_epochs_that_all_runs_have():
    figure = plots.plot_learning_curves({"NARM": [history(3, 0.1), history(2, 0.3)]})
    by_epoch, by_seconds = (axis.lines[0] for axis in figure.axes)
    np.testing.assert_allclose(by_epoch.get_ydata(), [0.2, 0.375])
    np.testing.assert_allclose(by_seconds.get_xdata(), [0.2, 0.575])


def test_training_draws_a_line_per_table_and_names_it():
    figure = plots.plot_training({f"seed {s}": history() for s in range(9)}, "NARM on Beauty")
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert [len(axis.lines) for axis in figure.axes] == [9] * 4
    assert len(looks) == 9
    assert {f" seed {s}" for s in range(9)} | {"NARM on Beauty"} <= set(shown(figure))


def test_trials_show_the_printed_values():
    figure = plots.plot_trials({"NARM": history()}, {2: (0.05, 0.2, 0.1)})
    points = [axis.collections[0].get_offsets().tolist() for axis in figure.axes]
    assert points == [[[2, 0.2]], [[2, 0.05]]]  # HR@20, MRR@20
    assert len(plots.plot_trials({"NARM": history()}).axes) == 2


def test_ablation_shows_means_seeds_and_missing_values():
    values = [0.2, 0.3, np.nan]
    table = pd.DataFrame({"HR@20": values, "MRR@20": values}, index=["full", "full", "a$b$"])
    figure = plots.plot_ablation(table)
    seeds, mean = figure.axes[0].collections
    np.testing.assert_allclose(seeds.get_offsets(), [[0.2, 1], [0.3, 1]])
    np.testing.assert_allclose(mean.get_offsets(), [[0.25, 1]])
    assert {".2500", "not measured", "full", "a$b$"} <= set(shown(figure))


def test_heldout_accepts_a_model_without_metrics():
    figure = plots.plot_heldout({"NARM": summarize(RANKS), "mine": None})
    assert [axis.get_xlabel() for axis in figure.axes] == ["HR@5", "HR@20", "MRR@5", "MRR@20"]
    assert f"{hit_rate(RANKS, 5):.4f}".lstrip("0") in shown(figure)


def test_by_group_omits_empty_groups():
    groups, users = np.array([0, 0, 0, 2, 2, 2]), np.arange(6)
    names = ["head", "middle", "tail"]
    figure = plots.plot_by_group({"NARM": [RANKS]}, groups, names, users, xlabel="target")
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["head\n(3)", "tail\n(3)"]
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), [1, 2 / 3])
    np.testing.assert_allclose(figure.axes[1].lines[0].get_ydata(), [11 / 18, (1 / 4 + 1 / 7) / 3])


def test_by_length_draws_hit_rates_and_counts():
    figure = plots.plot_by_length({"0": RANKS}, np.array([1, 1, 2, 2, 2, 2]), np.arange(6))
    axis = figure.axes[0]
    np.testing.assert_allclose([bar.get_height() for bar in axis.patches], [1, 0.75])
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1\n(2)", "2\n(4)"]


def test_leak_fills_the_share_of_squares():
    figure = plots.plot_leak(np.array([True, False, False, False]), np.array([1, 1, 2, 2]))
    assert figure.axes[0].get_title().startswith("25 of 100")
    assert [bar.get_height() for bar in figure.axes[1].patches] == [0.5, 0]


def test_recommendations_are_drawn_best_first_beside_the_attention():
    figure = plots.plot_recommendations([7, 8], [0.9, 0.1], [1, 2, 3], [0.2, 0.3, 0.5], title="a$b$")
    scores, attention = figure.axes
    assert [label.get_text() for label in scores.get_yticklabels()] == ["item 7", "item 8"]
    assert [bar.get_width() for bar in scores.patches] == [0.9, 0.1]
    assert scores.patches[0].get_y() > scores.patches[1].get_y()
    assert [bar.get_width() for bar in attention.patches] == [0.2, 0.3, 0.5]
    assert "a$b$: the top 2 after 1, 2, 3" in shown(figure)


LONG = [f"Revlon Lipstick, long wear, number {i}, with SPF 15 and ${i}$ off" for i in range(150)]


@pytest.mark.parametrize(("k", "steps"), [(1, 1), (20, 5), (5, 20), (7, 7), (100, 50)])
def test_recommendations_stay_readable_for_long_names_and_many_items(k, steps):
    figure = plots.plot_recommendations(LONG[:k], np.arange(k), LONG[100 : 100 + steps], np.ones(steps), title="x")
    figure.canvas.draw()
    assert [len(axis.patches) for axis in figure.axes] == [k, steps]
    for axis in figure.axes:
        assert axis.patches[0].get_window_extent().height >= 0.12 * figure.dpi  # the labels are 0.11 inches high
        assert axis.get_window_extent().width > 1.5 * figure.dpi
        boxes = [label.get_window_extent() for label in axis.get_yticklabels()]
        assert all(lower.y1 <= upper.y0 for upper, lower in zip(boxes, boxes[1:], strict=False))
        assert all(0 <= box.x0 and box.x1 <= axis.get_window_extent().x0 for box in boxes)
    heights = [axis.patches[0].get_window_extent().height for axis in figure.axes]
    assert heights[0] == pytest.approx(heights[1], rel=0.1)  # bars of both panels are equally thick
    right, left = figure.axes[0].get_tightbbox().x1, figure.axes[1].get_tightbbox().x0
    assert right < left
    label = figure.axes[0].get_yticklabels()[0].get_text()
    assert label == r"Revlon Lipstick, long wear,…15 and \$0\$ off"


def test_a_long_session_has_a_title_of_three_lines_with_its_last_items():
    figure = plots.plot_recommendations([7], [1], range(400, 440), title="x")
    lines = figure.get_suptitle().split("\n")
    assert len(lines) == 3 and lines[-1].endswith("438, 439")
    left_out = int(re.match("x: the top 1 after ([0-9]+) earlier items and ", " ".join(lines))[1])
    assert " ".join(lines).split("items and ")[1].split(", ") == [str(i) for i in range(400 + left_out, 440)]


def test_popular_items_are_not_drawn_as_scores():
    figure = plots.plot_recommendations([7, 8], [30, 20], ["new"], title="x", popular=True)
    assert figure.axes[0].get_xlabel() == "occurrences in training"
    assert figure.get_suptitle().split() == "x: the 2 most popular items, because these are unknown: new".split()


def test_shortened_text_keeps_both_ends():
    assert style.shorten("a" * 42) == "a" * 42
    assert style.shorten("abcdefghijkl", 10) == "abcdef…jkl"


def test_attention_hides_later_items():
    figure = plots.plot_attention(np.arange(4.0).reshape(2, 2), [5, 6], step_names=["one", "two"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.00", "2.00", "3.00"]


def test_session_graph_shows_nodes_and_weights():
    A = np.zeros((3, 6))
    A[1, 3 + 2], A[2, 3 + 2] = 1, 0.5
    figure = plots.plot_session_graph([0, 11, 22], A, [1, 2])
    assert {"item\n11", "item\n22", "1", "↻ 0.5"} <= set(shown(figure))


def test_slices_show_the_trial_of_the_recipe_as_a_cross():
    table = pd.DataFrame({"value": [0.1, 0.2], "fit.lr": [0.001, 0.01], "is_recipe": [True, False]})
    axis = plots.plot_slices({"NARM": table}, ["fit.lr"], log=["fit.lr"]).axes[0]
    assert [points.get_offsets().tolist() for points in axis.collections] == [[[0.01, 1]], [[0.001, 0.5]]]
    assert axis.get_xscale() == "log"


def test_scaling_and_speed_name_their_lines():
    figure = plots.plot_scaling({"seconds against sessions": {"load": ([1, 10], [1, 10], 1.0)}})
    assert figure.axes[0].get_ylabel() == "seconds"
    assert " load (1.00)" in shown(figure)
    epochs = [{"seconds": 2, "valid_seconds": 1, "MRR@20": 0.1}] * 2
    figure = plots.plot_speed({"NARM": {"ours": epochs, "a$b$": epochs}})
    assert figure.axes[0].lines[0].get_xdata().tolist() == [3, 6]
    assert {"ours", " a$b$"} <= set(shown(figure))


def test_map_and_concentration():
    rng = np.random.default_rng(0)
    figure = plots.plot_map(rng.normal(size=(20, 4)), np.arange(20), title="a$b$")
    assert len(figure.axes[0].collections[0].get_offsets()) == 20
    figure = plots.plot_concentration(np.array([[1, 2], [1, 3]]), np.array([0, 5, 0, 1, 2]))
    expected = [[5, 2], [0, 1], [1, 1], [2, 0]]
    assert figure.axes[0].collections[0].get_offsets().tolist() == expected


# Text


def test_dollars_in_names_are_shown_as_written():
    name, title, one_group = "a$b$c", "$x$ on a_b", np.zeros(6, int)
    table = pd.DataFrame({name: [0.1, 0.2], "two": [0.2, 0.3]}, index=[name, "other"])
    figures = [
        plots.plot_at_k({name: [RANKS]}, title=title),
        plots.plot_at_k({m: [RANKS] for m in [*MODELS, name]}, groups={"$g$": [name]}, title=title),
        plots.plot_training({name: history(), "b": history()}, title),
        plots.plot_pairs(table, xlabel=name, title=title),
        plots.plot_importance(table, title=title),
        plots.plot_named_points({name: (1, 2), "b": (2, 3)}, xlabel=name, ylabel=name, title=title),
        plots.plot_by_group({name: [RANKS]}, one_group, [name], np.arange(6), xlabel=name, title=title),
    ]
    for figure in figures:
        texts = shown(figure)
        assert title in texts
        assert any(name in text for text in texts)


HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "$x^2$",
    r"a\$b$",
    r"\alpha_{1}^{2",
    "$",
    "%d {0} {",
    "_hidden",
    "a\x00\x1bb\udcff",
]


@pytest.mark.parametrize("name", ["$x^2$ <b>", r"a\$b$ \alpha_{1}^{2 %d {0}", "_hidden\x00\x1b\udcff"])
def test_any_name_is_drawn_as_written(name):
    """Every figure that takes names: of models, datasets, items, groups, variants, metrics and parameters."""
    frame = pd.DataFrame({name: [1.0, 2.0]}, index=[name, "b"])
    ranks, users = {name: [RANKS]}, np.arange(6)
    trial = pd.DataFrame({name: [0.1, 0.2], "value": [0.1, 0.2], "is_recipe": [True, False]})
    epochs = [{"seconds": 1.0, "valid_seconds": 1.0, "MRR@20": 0.1}] * 2
    as_shown = name.replace("\x00", "\ufffd").replace("\x1b", "\ufffd").replace("\udcff", "\ufffd")
    for figure in (
        plots.plot_ablation(frame.set_axis(["HR@20"], axis=1), metrics=["HR@20"], title=name),
        plots.plot_heldout({name: {"HR@5": 0.1}}, title=name),
        plots.plot_pairs(frame, xlabel=name, title=name),
        plots.plot_at_k(ranks, title=name),
        plots.plot_by_group(ranks, np.zeros(6, int), [name], users, xlabel=name, title=name),
        plots.plot_named_points({name: (1, 2)}, xlabel=name, ylabel=name, title=name),
        plots.plot_training({name: history(), "b": history()}, title=name),
        plots.plot_trials({name: history()}, {1: (0.1, 0.2)}, title=name),
        plots.plot_learning_curves({name: [history()]}, title=name),
        plots.plot_studies({name: [0.1, 0.2]}, groups={name: [name]}, title=name),
        plots.plot_importance(frame, title=name),
        plots.plot_slices({name: trial}, [name], title=name),
        plots.plot_speed({name: {name: epochs}}),
        plots.plot_scaling({f"{name} against {name}": {name: ([1, 10], [1, 10], 1.0)}}),
        plots.plot_concentration(np.array([[1, 2]]), np.array([0, 1, 1]), title=name),
        plots.plot_map(np.eye(4), np.arange(4), title=name),
        plots.plot_leak(np.array([True, False]), np.array([1, 2]), title=name),
        plots.plot_by_length(ranks | {name: RANKS}, np.ones(6, int), users, title=name),
        plots.plot_attention([0.1, 0.9], [name, 2], step_names=[name], title=name),
        plots.plot_recommendations([name], [0.9], [name, 1], [0.2, 0.8], title=name),
        plots.plot_session_graph([name, 2], np.ones((2, 4)), [0, 1]),
        plots.draw_model(name, ["a", "b"]),
    ):  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            texts = " ".join(shown(figure)).split()
        words = as_shown.replace("_", " ").split() if figure.axes[0].images else as_shown.split()
        assert "".join(words) in "".join(texts).replace("_", "" if figure.axes[0].images else "_"), texts
        plots.plt.close(figure)


def test_draw_model_keeps_mathematics_in_blocks_only():
    figure = plots.draw_model("a$b$", ["session\n$x_1$", "scores"], {0: "state $h_t$"})
    assert figure.axes[0].get_title() == r"a\$b\$"
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert {"session\n$x_1$", "scores", "state $h_t$"} <= set(texts)


# Tables


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_is_text_in_markdown_and_html(name):
    text = plots.escape_markdown(name)
    text = text.removeprefix("<code>").removesuffix("</code>")
    assert html.unescape(text) == name or "\x00" in name
    assert not set(text) & set("<>$_*`[]\\^{}%|~=+!'\"")
    table = plots.html_table(pd.DataFrame({name: [name]}, index=pd.Index([name], name=name)), caption=name).html
    assert table.count(html.escape(name)) == 5 and "<img" not in table
    assert table.startswith('<table class="tex2jax_ignore mathjax_ignore">')
    shown_by_pandas = pd.DataFrame({name: [name]}, index=pd.Index([name], name=name))._repr_html_()
    assert "<img" not in shown_by_pandas and "mathjax_ignore" in shown_by_pandas


def test_markdown_is_one_line():
    assert plots.escape_markdown("1. a\n# b | c\r\n- d") == "<code>1. a &#35; b &#124; c - d</code>"
    assert plots.escape_markdown("Amazon Beauty-2") == "Amazon Beauty-2"


def test_html_table_escapes_text_and_prints_bold_cells():
    frame = pd.DataFrame({"<HR>": [0.25581, np.nan], "n": [1, 2]}, index=pd.Index(["a<b", "c"], name="m&m"))
    bold = pd.DataFrame({"x": [True, False], "y": [False, True]})
    table = plots.html_table(frame, caption="<i>", bold=bold, formats={"<HR>": "{:.3f}"})
    assert table._repr_html_() == (
        '<table class="tex2jax_ignore mathjax_ignore">\n<caption>&lt;i&gt;</caption>\n'
        "<tr><th>m&amp;m</th><th>&lt;HR&gt;</th><th>n</th></tr>\n"
        "<tr><th>a&lt;b</th><td><b>0.256</b></td><td>1</td></tr>\n"
        "<tr><th>c</th><td></td><td><b>2</b></td></tr>\n</table>"
    )
    assert "0.256" in repr(table)


def test_html_table_formats_numbers_only_and_hides_a_default_index():
    html = plots.html_table(pd.DataFrame({"a": [0.5], "b": ["x ± y"], "c": [True]}), formats="{:.2f}").html
    assert "<td>0.50</td><td>x\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}y</td><td>True</td>" in html
    assert html.count("<th>") == 3


def test_html_table_of_several_levels_repeats_no_label():
    columns = pd.MultiIndex.from_tuples([("p", "a"), ("p", "b"), ("q", "a")])
    index = pd.MultiIndex.from_tuples([("x", 1), ("x", 2)], names=["k", "l"])
    frame = pd.DataFrame(np.ones((2, 3)), index, columns)
    lines = plots.html_table(frame, formats="{:.0f}").html.splitlines()
    assert lines[1] == "<tr><th></th><th></th><th>p</th><th></th><th>q</th></tr>"
    assert lines[2] == "<tr><th>k</th><th>l</th><th>a</th><th>b</th><th>a</th></tr>"
    assert lines[4] == "<tr><th></th><th>2</th><td>1</td><td>1</td><td>1</td></tr>"


def test_html_table_refuses_a_wrong_shape_of_bold():
    with pytest.raises(ValueError, match=r"bold has the shape \(1, 1\)"):
        plots.html_table(pd.DataFrame({"a": [1, 2]}), bold=pd.DataFrame({"a": [True]}))
