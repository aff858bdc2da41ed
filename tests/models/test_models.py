"""Models: they equal their papers' equations and depend neither on later items, nor on padding, nor on the batch.

The reference implementations below are numpy loops over one session at a time, written from the equations.
"""

import functools
import math
from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import NEURAL_MODELS, build_model
from models.base import last_step, take_step
from models.GGNNwATT import GGNNwATT
from models.GRU4REC import GRU4REC
from models.GRUwATT import GRUwATT
from models.NARM import NARM
from models.SRGNN import SRGNN
from process_data import Batch
from sessionrec.losses import batch_loss, full_softmax

N_ITEMS, WIDTH = 30, 8
CAUSAL = list(NEURAL_MODELS)
REPEATS = [3, 7, 3, 9, 7, 3, 3, 5]  # items are repeated, directly and later


# --------------------------------------------------------------------------------------------------
# Trained models and batches


def pad(sessions, extra=0):
    longest = max(map(len, sessions)) + extra
    return torch.tensor([[*s, *[0] * (longest - len(s))] for s in sessions])


@torch.enable_grad()  # the first caller may be inside torch.no_grad()
def train_a_little(model, seed=0, steps=30):
    """A few Adam steps on random sessions, so that weights differ from their initial values and biases from 0."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        x = torch.randint(1, model.n_items + 1, (16, 9), generator=generator)
        x *= torch.arange(9) < torch.randint(2, 10, (16, 1), generator=generator)
        y = x[:, 1:]
        loss = batch_loss(model, Batch(x[:, :-1] * (y > 0), y, (y > 0).float()), full_softmax)
        optimizer.zero_grad()
        (loss / 16).backward()
        optimizer.step()
    return model.eval()


@functools.cache
def trained(name, **arguments):
    torch.manual_seed(1)
    return train_a_little(build_model(name, n_items=N_ITEMS, width=WIDTH, **sized(name), **arguments))


def sized(name):
    """Layer widths other than the embedding's, so that mixing them up is an error."""
    return {"GRU4REC": {"hidden": 6}, "NARM": {"hidden": 6}, "GRUwATT": {"hidden": 6}, "SASRec": {"inner": 12}}.get(
        name, {}
    )


sessions_of_a_batch = st.lists(
    st.lists(st.integers(1, 6) | st.integers(1, N_ITEMS), min_size=1, max_size=8), min_size=1, max_size=4
)
BATCH = [REPEATS, [4], [11, 12, 11], [1, 2, 3, 4, 5, 6]]


# --------------------------------------------------------------------------------------------------
# Independence of later items, padding and batch


def assert_same(model, got, want):
    """Compare states up to 1e-5 and their scores up to 1e-4."""
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    items = model.item_matrix().T
    got, want = model.query(got) @ items, model.query(want) @ items
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def check_prefixes(model, sessions):
    """The state of step t in a padded batch equals the model's last state on the prefix 1..t."""
    states = model(pad(sessions))
    for row, session in enumerate(sessions):
        for t in range(1, len(session) + 1):
            assert_same(model, states[row, t - 1], model.last_state(torch.tensor([session[:t]]))[0])


@torch.no_grad()
def check_future(model, sessions):
    """Changing the items after step t does not change the states up to t."""
    for session in sessions:
        states = model(torch.tensor([session]))
        for t in range(1, len(session)):
            changed = session[:t] + [i % N_ITEMS + 1 for i in session[t:]]
            assert_same(model, states[:, :t], model(torch.tensor([changed]))[:, :t])


@torch.no_grad()
def check_padding(model, sessions):
    """Zeros to the right change neither the states nor the index of the last one."""
    tight, loose = pad(sessions), pad(sessions, extra=3)
    mask = tight > 0
    assert_same(model, model(loose)[:, : mask.shape[1]][mask], model(tight)[mask])
    assert_same(model, model.last_state(loose), model.last_state(tight))


@torch.no_grad()
def check_batch(model, sessions):
    """A session has the same states alone and in a batch, in any order."""
    x = pad(sessions)
    states, last = model(x), model.last_state(x)
    assert_same(model, model(x.flip(0)).flip(0)[x > 0], states[x > 0])
    for row in range(len(sessions)):
        alone = x[row : row + 1]
        real = alone[0] > 0
        assert_same(model, model(alone)[0, real], states[row, real])
        assert_same(model, model.last_state(alone)[0], last[row])


CHECKS = [check_prefixes, check_future, check_padding, check_batch]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", CAUSAL)
def test_states_depend_only_on_their_prefix(name, check):
    @settings(max_examples=25)
    @given(sessions_of_a_batch)
    def for_any_sessions(sessions):
        check(trained(name), sessions)

    check(trained(name), BATCH)
    for_any_sessions()


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("GRU4REC", {"layers": 2}),
        ("SRGNN", {"graph_steps": 2}),
        ("GGNNwATT", {"graph_steps": 2}),
        ("SASRec", {"layers": 2, "heads": 4}),
        *((name, {"score": "dot"}) for name in CAUSAL),
    ],
)
def test_states_of_deeper_models_and_dot_products_depend_only_on_their_prefix(name, arguments, check):
    check(trained(name, **arguments), BATCH)


# Each model below contains one mistake that the checks must find.


class UnmaskedNARM(NARM):
    def attention_weights(self, h):
        return self.attention(h[:, :, None], h[:, None, :])  # no .tril()


class WholeSessionSRGNN(SRGNN):
    def forward(self, x):
        v = self.step_nodes(x)  # one graph of the whole session
        alpha = self.attention(v[:, :, None], v[:, None, :]).tril()
        return self.W3(torch.cat([v, alpha @ v], -1))


class PaddingAttendingSRGNN(SRGNN):
    def attention_weights(self, v, x):
        return self.attention(take_step(v, last_step(x))[:, None], v)  # no mask


class LastColumnGRU(GRU4REC):
    def last_state(self, x):
        return self(x)[:, -1]


class BatchCentredGRU(GRU4REC):
    def forward(self, x):
        h = super().forward(x)
        return h - h.mean(0)


BROKEN = [
    (check_prefixes, "GRUwATT", functools.partial(GRUwATT, causal=False)),
    (check_prefixes, "GGNNwATT", functools.partial(GGNNwATT, causal=False)),
    (check_prefixes, "NARM", UnmaskedNARM),
    (check_prefixes, "SRGNN", WholeSessionSRGNN),
    (check_future, "GRUwATT", functools.partial(GRUwATT, causal=False)),
    (check_future, "GGNNwATT", functools.partial(GGNNwATT, causal=False)),
    (check_future, "NARM", UnmaskedNARM),
    (check_future, "SRGNN", WholeSessionSRGNN),
    (check_padding, "GRU4REC", LastColumnGRU),
    (check_padding, "SRGNN", PaddingAttendingSRGNN),
    (check_batch, "GRU4REC", BatchCentredGRU),
]


@pytest.mark.parametrize(("check", "name", "broken"), BROKEN)
def test_each_check_catches_a_broken_model(check, name, broken):
    whole = trained(name)
    model = broken(n_items=N_ITEMS, width=WIDTH, **sized(name))
    model.load_state_dict(whole.state_dict())
    check(whole, BATCH)
    with pytest.raises(AssertionError, match="not close"):
        check(model.eval(), BATCH)


@pytest.mark.parametrize("check", [check_padding, check_batch])
@pytest.mark.parametrize("name", ["GRUwATT", "GGNNwATT"])
def test_the_report_form_ignores_padding_and_batch_too(name, check):
    check(trained(name, causal=False), BATCH)


# --------------------------------------------------------------------------------------------------
# The papers' equations


def weights_of(model):
    """Parameters as float64 arrays, by name."""
    return {name: value.double().numpy() for name, value in model.state_dict().items()}


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def gru_step(w_in, w_state, b_in, b_state, x, h):
    """Hidasi 2016 eq. 1-4 in torch's variant: gates r, z, n; z weighs the old state, and r is applied to U h."""
    i_r, i_z, i_n = np.split(w_in @ x + b_in, 3)
    s_r, s_z, s_n = np.split(w_state @ h + b_state, 3)
    r, z = sigmoid(i_r + s_r), sigmoid(i_z + s_z)
    n = np.tanh(i_n + r * s_n)
    return (1 - z) * n + z * h


def gru(p, inputs, layer=0):
    w = [p[f"gru.{kind}_l{layer}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    states, h = [], np.zeros(w[1].shape[1])
    for x in inputs:
        h = gru_step(*w, x, h)
        states.append(h)
    return states


def attention(p, query, key):
    """v^T sigmoid(A1 query + A2 key + c)"""
    inner = p["attention.A1.weight"] @ query + p["attention.A2.weight"] @ key
    return p["attention.v.weight"][0] @ sigmoid(inner + p.get("attention.A2.bias", 0))


def gru4rec_states(p, session):
    states = gru(p, p["embedding.weight"][session])
    if "gru.weight_ih_l1" in p:
        states = gru(p, states, layer=1)
    return [p["head.weight"] @ h + p["head.bias"] for h in states]


def narm_states(p, session):
    h = gru(p, p["embedding.weight"][session])
    states = []
    for t in range(len(session)):
        c_local = sum(attention(p, h[t], h[j]) * h[j] for j in range(t + 1))
        states.append(p["decoder.weight"] @ np.concatenate([h[t], c_local]))
    return states


def gruwatt_states(p, session, causal):
    h = gru(p, p["embedding.weight"][session])
    states = []
    for t in range(len(session)):
        c = attention(p, h[t] if causal else h[-1], h[t]) * h[t]
        states.append(p["head.weight"] @ np.concatenate([h[t], c]) + p["head.bias"])
    return states


def node_vectors(p, session):
    """{item: vector} after one step of SR-GNN's eq. 1-5 on the session's graph; an edge counts once."""
    edges = set(zip(session, session[1:], strict=False))
    width = p["embedding.weight"].shape[1]
    vectors = {}
    for i in set(session):
        messages = []
        for kind, neighbours in (("in", [u for u, v in edges if v == i]), ("out", [v for u, v in edges if u == i])):
            weight, bias = p[f"graph.message_{kind}.weight"], p[f"graph.message_{kind}.bias"]
            sent = [weight @ p["embedding.weight"][j] + bias for j in neighbours]
            messages.append(np.mean(sent, 0) if sent else np.zeros(width))
        w = [p[f"graph.update.{k}"] for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        vectors[i] = gru_step(*w, np.concatenate(messages), p["embedding.weight"][i])
    return vectors


def srgnn_states(p, session):
    states = []
    for t in range(1, len(session) + 1):
        nodes = node_vectors(p, session[:t])
        v = [nodes[i] for i in session[:t]]
        s_global = sum(attention(p, v[-1], v_i) * v_i for v_i in v)
        states.append(p["W3.weight"] @ np.concatenate([v[-1], s_global]))
    return states


def ggnnwatt_states(p, session, causal):
    states = []
    for t in range(1, len(session) + 1):
        nodes = node_vectors(p, session[:t] if causal else session)
        v, query = nodes[session[t - 1]], nodes[session[t - 1] if causal else session[-1]]
        c = attention(p, query, v) * v
        states.append(p["W3.weight"] @ np.concatenate([v, c]))
    return states


def layer_norm(p, name, x):
    z = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    return z * p[f"{name}.weight"] + p[f"{name}.bias"]


def sasrec_states(p, session, heads=2):
    """Kang 2018 section III: one block, with normalisation before each layer and GELU instead of ReLU."""

    def linear(name, a):
        return p[f"blocks.0.{name}.weight"] @ a + p[f"blocks.0.{name}.bias"]

    def gelu(a):
        return a * (1 + np.vectorize(math.erf)(a / math.sqrt(2))) / 2

    x = [p["embedding.weight"][i] * math.sqrt(WIDTH) + p["position.weight"][t] for t, i in enumerate(session)]
    q, k, v = zip(*[np.split(linear("project_in", layer_norm(p, "blocks.0.norm1", a)), 3) for a in x], strict=True)
    parts = np.split(np.arange(WIDTH), heads)
    states = []
    for t in range(len(session)):
        out = np.zeros(WIDTH)
        for part in parts:
            match = np.array([q[t][part] @ k[j][part] / math.sqrt(len(part)) for j in range(t + 1)])
            share = np.exp(match) / np.exp(match).sum()
            out[part] = sum(a * v[j][part] for j, a in enumerate(share))
        h = x[t] + linear("project_out", out)
        inner = gelu(linear("feed_forward.0", layer_norm(p, "blocks.0.norm2", h)))
        states.append(layer_norm(p, "norm", h + linear("feed_forward.2", inner)))
    return states


EQUATIONS = [
    ("GRU4REC", {}, gru4rec_states),
    ("GRU4REC", {"layers": 2}, gru4rec_states),
    ("NARM", {}, narm_states),
    ("SRGNN", {}, srgnn_states),
    ("GRUwATT", {}, functools.partial(gruwatt_states, causal=True)),
    ("GRUwATT", {"causal": False}, functools.partial(gruwatt_states, causal=False)),
    ("GGNNwATT", {}, functools.partial(ggnnwatt_states, causal=True)),
    ("GGNNwATT", {"causal": False}, functools.partial(ggnnwatt_states, causal=False)),
    ("SASRec", {}, sasrec_states),
]


@pytest.mark.parametrize(("name", "arguments", "reference"), EQUATIONS)
def test_forward_equals_the_equations(name, arguments, reference):
    model = trained(name, **arguments)
    with torch.no_grad():
        states = model(pad(BATCH)).numpy()
    for row, session in enumerate(BATCH):
        want = np.array(reference(weights_of(model), session))
        np.testing.assert_allclose(states[row, : len(session)], want, atol=1e-5, rtol=1e-5)


# --------------------------------------------------------------------------------------------------
# The sums that the report's two models omit


def read_by(layer, model, x):
    """The input of one layer when the model runs on x."""
    seen = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(x)
    handle.remove()
    return seen[0]


def with_weights(other, model):
    """`model` with the weights of `other` in every layer that both have."""
    own = model.state_dict()
    shared = {k: v for k, v in other.state_dict().items() if k in own and own[k].shape == v.shape}
    model.load_state_dict(own | shared)
    return model.eval()


def test_gruwatt_summed_is_narm():
    narm = trained("NARM")
    local = read_by(narm.decoder, narm, torch.tensor([REPEATS]))[0, :, 6:]  # c_l of every step
    sizes = {"n_items": N_ITEMS, "width": WIDTH, "hidden": 6}
    report = with_weights(narm, GRUwATT(**sizes, causal=False))
    causal = with_weights(narm, GRUwATT(**sizes))
    own = read_by(causal.head, causal, torch.tensor([REPEATS]))[0, :, 6:]
    for t in range(1, len(REPEATS) + 1):
        # On the prefix the report's query is h_t, so its c_j are a_tj h_j, j <= t.
        terms = read_by(report.head, report, torch.tensor([REPEATS[:t]]))[0, :, 6:]
        torch.testing.assert_close(terms.sum(0), local[t - 1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(terms[-1], own[t - 1], atol=1e-5, rtol=1e-5)


def test_ggnnwatt_summed_is_srgnn():
    srgnn = trained("SRGNN")
    report = with_weights(srgnn, GGNNwATT(n_items=N_ITEMS, width=WIDTH, causal=False))
    causal = with_weights(srgnn, GGNNwATT(n_items=N_ITEMS, width=WIDTH))
    x = torch.tensor([REPEATS])
    with torch.no_grad():
        states, own = srgnn(x)[0], causal(x)[0]
        for t in range(1, len(REPEATS) + 1):
            v, c = read_by(report.W3, report, x[:, :t])[0].split(WIDTH, -1)  # (t, D) each
            summed = torch.cat([v[-1], c.sum(0)])
            torch.testing.assert_close(srgnn.W3(summed), states[t - 1], atol=1e-5, rtol=1e-5)
            alone = torch.cat([v[-1], c[-1]])
            torch.testing.assert_close(srgnn.W3(alone), own[t - 1], atol=1e-5, rtol=1e-5)


# --------------------------------------------------------------------------------------------------
# Scores, padding, memory


@pytest.mark.parametrize("score", ["dot", "cosine"])
@pytest.mark.parametrize("name", CAUSAL)
def test_padding_stays_zero_while_the_items_move(name, score):
    model = build_model(name, n_items=N_ITEMS, width=WIDTH, score=score)
    before = model.embedding.weight.detach().clone()
    assert not before[0].any()
    train_a_little(model, steps=3)
    assert not model.embedding.weight[0].any()
    assert (model.embedding.weight[1:] != before[1:]).any(1).all()


@pytest.mark.parametrize("name", CAUSAL)
def test_cosine_scores_are_bounded_and_do_not_depend_on_the_norm(name):
    model = trained(name, score="cosine", scale=7.0)
    with torch.no_grad():
        states = model.last_state(pad(BATCH))
        items = model.item_matrix().T
        scores = model.query(states) @ items
        assert scores.abs().max() <= 7 * (1 + 1e-5)
        assert scores.std() > 0.1
        torch.testing.assert_close(model.query(states * 1000) @ items, scores)
        assert not scores[:, 0].any()


def test_an_empty_session_has_a_finite_state():
    x = torch.tensor([[0, 0], [3, 4]])
    for name in CAUSAL:
        with torch.no_grad():
            assert torch.isfinite(trained(name).last_state(x)).all(), name


def test_dropout_is_applied_only_in_training():
    for name in CAUSAL:
        for kind in ("dropout", "hidden_dropout"):
            rates = {"dropout": 0.0, "hidden_dropout": 0.0} | {kind: 0.5}
            model = build_model(name, n_items=N_ITEMS, width=WIDTH, **rates)
            x = pad(BATCH)
            assert not torch.equal(model(x), model(x)), (name, kind)
            model.eval()
            assert torch.equal(model(x), model(x)), (name, kind)


def test_sasrec_names_its_longest_session():
    model = build_model("SASRec", n_items=9, width=WIDTH, longest=3)
    with pytest.raises(ValueError, match="4 items in a session; this SASRec takes 3"):
        model(torch.tensor([[1, 2, 3, 4]]))


def test_last_state_of_narm_equals_its_last_step():
    model = build_model("NARM", n_items=N_ITEMS).eval()
    x = pad([[3], REPEATS, [5, 1, 2]], extra=2)
    assert_same(model, model.last_state(x), take_step(model(x), last_step(x)))


@pytest.mark.parametrize("name", ["SRGNN", "GGNNwATT"])
def test_graphs_in_chunks_give_the_same_gradients(name, monkeypatch):
    module = import_module("models.SRGNN")
    x = pad([REPEATS, [1, 2], [4]])

    def gradients(dropout):
        torch.manual_seed(0)
        model = build_model(name, n_items=N_ITEMS, width=WIDTH, dropout=dropout, hidden_dropout=dropout)
        model(x).square().sum().backward()
        return {key: p.grad for key, p in model.named_parameters() if p.grad is not None}

    whole = gradients(0.0)
    monkeypatch.setattr(module, "MOST_NODES", 20)  # two graphs at a time
    parts, dropped = gradients(0.0), gradients(0.5)
    assert whole.keys() == parts.keys() and "embedding.weight" in whole
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, msg=key)
    monkeypatch.setattr(module, "checkpoint", lambda function, part, **_: function(part))
    kept = gradients(0.5)  # the parts' graphs are kept, so their dropout masks are drawn once
    assert all(dropped[key].equal(value) for key, value in kept.items())
