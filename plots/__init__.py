"""All figures and tables that the notebooks show. Each function returns a matplotlib figure or a table.

In a notebook, end the cell with a semicolon, or the figure is shown twice. Text from the caller (titles and
names of models, datasets and items) is shown as written; only `draw_model` reads `$...$` as mathematics.
"""

# ruff: noqa: F401
import matplotlib.pyplot as plt

from plots.benchmarks import plot_scaling, plot_speed
from plots.catalogue import plot_concentration, plot_map
from plots.comparison import plot_ablation, plot_at_k, plot_by_group, plot_heldout, plot_named_points, plot_pairs
from plots.leakage import plot_leak
from plots.models import draw_model
from plots.sessions import plot_attention, plot_by_length, plot_recommendations, plot_session_graph
from plots.tables import escape_markdown, html_table
from plots.training import plot_learning_curves, plot_training, plot_trials
from plots.tuning import plot_importance, plot_slices, plot_studies
