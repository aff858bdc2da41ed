"""The command line of train.py: its files, messages and exit codes."""

import json
import os

import numpy as np
import pytest
import torch
from planted import N_ITEMS, assert_same_bits, interrupt, planted_walks, write_planted
from safetensors.torch import load_file

import train
from metrics import summarize
from models import MODELS
from process_data import load_dataset, prepare
from sessionrec import fit as fit_module
from sessionrec.checkpoint import load_checkpoint
from sessionrec.scoring import rank_labels
from train import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset folder of 150 users and 40 items, see planted.py."""
    return write_planted(tmp_path_factory.mktemp("data") / "Planted")


def run_main(folder, output, *options, model="GRU4REC", epochs=2):
    arguments = ["--dataset", folder, "--model", model, "--output", output, "--epochs", epochs]
    return main([*map(str, arguments), "--device", "cpu", *map(str, options)])


@pytest.mark.parametrize(("split", "held_out_splits"), [("user", ["valid", "test"]), ("row", ["valid"])])
def test_held_out_ranks_are_those_of_the_saved_model_in_file_order(split, held_out_splits, folder, tmp_path):
    output, result = tmp_path / "x.safetensors", tmp_path / "new" / "x.json"
    options = ["--split", split, "--split-seed", 4, "--seed", 2, "--json", result]
    assert run_main(folder, output, *options) == 0
    assert sorted(os.listdir(tmp_path)) == ["new", "x.safetensors"]  # the resume file is gone

    found = json.loads(result.read_text())
    saved = load_checkpoint(output)
    dataset = load_dataset(folder)
    data = prepare(dataset, split=split, split_seed=4)
    raw = [(dataset.train[r], dataset.train.labels[r]) for r in range(len(dataset.train))]
    assert list(found["ranks"]) == list(found["metrics"]) == held_out_splits
    for name in held_out_splits:
        held_out = getattr(data, name)
        ranks = rank_labels(saved.model, held_out).tolist()
        assert found["ranks"][name] == ranks
        assert found["queries"][name] == len(ranks) > 0
        assert found["metrics"][name]["HR@20"] == np.mean([rank <= 20 for rank in ranks])
        assert found["metrics"][name]["accuracy"] == np.mean([rank == 1 for rank in ranks])
        assert found["metrics"][name] == saved.header["metrics"][name]
        # The rows are in the order of the file.
        file_rows = iter(raw)
        for row in range(len(held_out)):
            session = saved.vocabulary.decode(held_out[row]).tolist()
            label = int(saved.vocabulary.decode(held_out.labels[row]))
            assert (session, label) in file_rows
    settings = {"dataset": "Planted", "recipe": "best", "split": split, "split_seed": 4, "seed": 2}
    for key, value in settings.items():
        assert found[key] == saved.header[key] == value
    assert saved.header["sha256"] == dataset.sha256
    assert saved.header["mask_seen"] is True
    assert saved.header["epochs"] == 1 + int(np.argmax(found["table"]["MRR@20"]))
    assert found["table"]["epoch"] == [1, 2]
    assert found["parameters"] == sum(p.numel() for p in saved.model.parameters())


def test_training_on_all_rows_takes_the_epochs_of_the_held_out_run(folder, tmp_path, capsys):
    heldout, whole = tmp_path / "heldout.safetensors", tmp_path / "whole.safetensors"
    assert run_main(folder, heldout, epochs=3) == 0
    assert run_main(folder, whole, "--split", "none", epochs=3) == 0
    assert sorted(os.listdir(tmp_path)) == ["heldout.safetensors", "whole.safetensors"]
    of_heldout, of_whole = load_checkpoint(heldout).header, load_checkpoint(whole).header
    assert of_whole["split"] == "none"
    assert of_whole["epochs"] == of_heldout["epochs"]
    assert of_whole["metrics"] == {
        "heldout_valid": of_heldout["metrics"]["valid"],
        "heldout_test": of_heldout["metrics"]["test"],
    }
    assert "heldout_test: HR@20" in capsys.readouterr().out
    # All rows are used: the items of each user count once.
    walks = planted_walks(0, 150)
    counts = np.bincount([i for walk in walks for i in walk], minlength=N_ITEMS + 1)
    assert load_checkpoint(whole).popularity.tolist() == counts.tolist()


def test_shares_can_be_set(folder, tmp_path):
    result = tmp_path / "x.json"
    shares = ["--valid-share", 0.3, "--test-share", 0, "--json", result]
    assert run_main(folder, tmp_path / "x.safetensors", *shares, epochs=1) == 0
    users = prepare(load_dataset(folder), valid_share=0.3, test_share=0).valid.users
    assert len(np.unique(users)) == 45
    assert json.loads(result.read_text())["queries"] == {"valid": len(users)}


@pytest.mark.parametrize("name", [name for name in MODELS if name != "GRU4REC"])
def test_every_model_can_be_trained(name, folder, tmp_path):
    output = tmp_path / "x.safetensors"
    assert run_main(folder, output, "--recipe", "report", model=name, epochs=1) == 0
    assert load_checkpoint(output).model.name == name


def test_compact_storage_does_not_change_metrics(folder, tmp_path):
    whole, compact = tmp_path / "whole.safetensors", tmp_path / "compact.safetensors"
    assert run_main(folder, whole) == 0
    assert run_main(folder, compact, "--compact") == 0
    assert compact.stat().st_size < 0.55 * whole.stat().st_size
    data = prepare(load_dataset(folder))
    metrics = [summarize(rank_labels(load_checkpoint(f).model, data.test)) for f in (whole, compact)]
    assert metrics[1] == pytest.approx(metrics[0], abs=0.03)


# Calls of rank_labels: one per epoch, two for the held-out splits, and none when all rows train.
@pytest.mark.parametrize(
    ("split", "function", "call"),
    [
        ("user", "batch_loss", 2),
        ("user", "rank_labels", 3),
        ("none", "rank_labels", 2),
        ("none", "batch_loss", 5),  # after the four batches of the held-out run: in the run on all rows
    ],
)
def test_an_interrupted_command_resumes_to_the_same_file(split, function, call, folder, tmp_path, monkeypatch, capsys):
    options = ["--split", split, "--recipe", "report"]
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    assert run_main(folder, whole, *options, epochs=4) == 0
    with monkeypatch.context() as patch:
        interrupt(patch, function, call)
        assert run_main(folder, broken, *options, epochs=4) == 130
    assert not broken.exists()
    assert "with --resume continues from" in capsys.readouterr().out
    trained = []
    with monkeypatch.context() as patch:
        loss = fit_module.batch_loss
        patch.setattr(fit_module, "batch_loss", lambda *a, **k: (trained.append(1), loss(*a, **k))[1])
        assert run_main(folder, broken, *options, "--resume", epochs=4) == 0
    assert_same_bits(load_file(broken), load_file(whole))
    assert load_checkpoint(broken).header == load_checkpoint(whole).header
    assert sorted(os.listdir(tmp_path)) == ["broken.safetensors", "whole.safetensors"]
    if (split, function) == ("none", "batch_loss"):  # the held-out run was not trained again
        assert len(trained) == load_checkpoint(whole).header["epochs"]


def test_without_resume_the_file_of_an_interrupted_run_is_discarded(folder, tmp_path, monkeypatch):
    whole, again = tmp_path / "whole.safetensors", tmp_path / "again.safetensors"
    assert run_main(folder, whole) == 0
    with monkeypatch.context() as patch:
        interrupt(patch, "rank_labels", 2)
        assert run_main(folder, again, "--seed", 1) == 130
    assert again.with_suffix(".state.safetensors").exists()
    assert run_main(folder, again) == 0
    assert_same_bits(load_file(again), load_file(whole))
    assert sorted(os.listdir(tmp_path)) == ["again.safetensors", "whole.safetensors"]


def test_a_resume_file_of_another_run_is_reported_in_one_line(folder, tmp_path, monkeypatch, capsys):
    output = tmp_path / "x.safetensors"
    with monkeypatch.context() as patch:
        interrupt(patch, "rank_labels", 2)
        assert run_main(folder, output, "--seed", 1) == 130
    capsys.readouterr()
    code = run_main(folder, output, "--resume")
    assert_fails_in_a_sentence(capsys, code, "x.state.safetensors belongs to another run", "seed differ")


def assert_fails_in_a_sentence(capsys, code, *words):
    assert code == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = [line for line in shown.err.splitlines() if line.startswith("train.py: ")]
    assert len(lines) == 1
    assert "Traceback" not in shown.err
    for word in words:
        assert word in lines[0]


def test_an_error_is_reported_in_one_line(folder, tmp_path, monkeypatch, capsys):
    output = tmp_path / "x.safetensors"
    code = run_main("Amazon_Books", output)
    assert_fails_in_a_sentence(capsys, code, "Amazon_Books", "is not a dataset folder", "Demo")
    code = run_main(folder, output, "--recipe", "slow")
    assert_fails_in_a_sentence(capsys, code, "no recipe 'slow'; there are best")
    code = run_main(folder, output, "--valid-share", 0.001)
    assert_fails_in_a_sentence(capsys, code, "150 users are too few for a validation share")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code = run_main(folder, output, "--device", "cuda")
    assert_fails_in_a_sentence(capsys, code, "device 'cuda' is not available")
    output.with_suffix(".state.safetensors").write_text("no state")
    code = run_main(folder, output, "--resume")
    assert_fails_in_a_sentence(capsys, code, "x.state.safetensors is no checkpoint")
    (tmp_path / "file").write_text("")
    code = run_main(folder, tmp_path / "file" / "x.safetensors", epochs=1)
    assert_fails_in_a_sentence(capsys, code, "file")
    assert not output.exists()


def test_the_metrics_do_not_replace_the_checkpoint(folder, tmp_path, capsys):
    code = run_main(folder, tmp_path / "x.safetensors", "--json", str(tmp_path / "." / "x.safetensors"))
    assert_fails_in_a_sentence(capsys, code, "x.safetensors is named for two outputs")


def test_ctrl_c_outside_of_training_is_reported_in_one_line(folder, tmp_path, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "load_dataset", stop)
    assert run_main(folder, tmp_path / "x.safetensors", epochs=1) == 130
    assert capsys.readouterr().err == "train.py: interrupted\n"  # no resume file is mentioned
    monkeypatch.undo()
    monkeypatch.setattr(train, "summarize_run", stop)
    output = tmp_path / "y.safetensors"
    assert run_main(folder, output, "--json", str(tmp_path / "y.json"), epochs=1) == 130
    shown = capsys.readouterr().err
    assert f"--resume continues from {output.with_suffix('.state.safetensors')}" in shown
    monkeypatch.undo()
    assert run_main(folder, output, "--resume", epochs=1) == 0
    assert "to resume from" not in capsys.readouterr().out
    assert run_main(folder, output, "--resume", epochs=1) == 0
    assert "to resume from; the run starts anew" in capsys.readouterr().out


def test_a_malformed_file_is_reported_with_its_line(tmp_path, capsys):
    (tmp_path / "train_sessions.csv").write_text("session,label\n[1],2\n[x],3\n")
    (tmp_path / "test_sessions.csv").write_text("session\n[1]\n")
    code = run_main(tmp_path, tmp_path / "x.safetensors")
    assert_fails_in_a_sentence(capsys, code, "train_sessions.csv, line 3", "'x'")


def test_a_damaged_download_is_reported_in_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "Amazon_Beauty").mkdir()
    for file in ("train_sessions.csv", "test_sessions.csv"):
        (tmp_path / "Amazon_Beauty" / file).write_text("session,label\n[1],2\n")
    monkeypatch.setenv("DATASET_ROOT", str(tmp_path))
    code = run_main("Amazon_Beauty", tmp_path / "x.safetensors")
    assert_fails_in_a_sentence(capsys, code, "_sessions.csv", "SHA-256")


@pytest.mark.parametrize(
    "wrong",
    [
        ["--epochs", "0"],
        ["--output", "x.pt"],
        ["--model", "LSTM"],
        ["--split", "time"],
        ["--learning-rate", "1"],
        ["--split-seed", "-1"],
        ["--split-seed", "4294967296"],
        ["--seed", "-1"],
        ["--seed", str(2**63)],
        ["--seed", "1.5"],
    ],
)
def test_wrong_options_are_usage_errors(wrong, folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_main(folder, tmp_path / "x.safetensors", *wrong)
    assert stopped.value.code == 2
    assert wrong[0] in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_any_value_of_the_recipe_can_be_set(folder, tmp_path):
    output = tmp_path / "x.safetensors"
    arguments = ["--dataset", folder, "--model", "GRU4REC", "--output", output, "--device", "cpu"]
    settings = ["fit.epochs=1", "fit.lr=0.02", "model.width=8", "model.hidden=8", "fit.schedule=cosine"]
    settings += ["data.fold=true"]
    assert main([*map(str, arguments), *(word for setting in settings for word in ("--set", setting))]) == 0
    header = load_checkpoint(output).header
    values = header["recipe_values"]
    assert (values["fit"]["lr"], values["fit"]["epochs"], values["fit"]["schedule"]) == (0.02, 1, "cosine")
    assert (values["model"]["width"], header["arguments"]["width"], values["data"]["fold"]) == (8, 8, True)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("fit.lr=fast", "fit.lr='fast': must be a number above 0"),
        ("fit.lr=-1", "fit.lr=-1: must be a number above 0"),
        ("fit.epochs=1.5", "fit.epochs=1.5: must be a whole number of at least 1"),
        ("fit.learning_rate=1", "fit takes no learning_rate; it takes batch_size, "),
        ("data.fold=1", "data.fold=1: must be true or false"),
        ("model.depth=2", "GRU4REC takes no depth; it takes "),
        ("model.width=1.5", "width=1.5: must be a whole number"),
    ],
)
def test_a_wrong_value_of_the_recipe_is_one_sentence(setting, message, folder, tmp_path, capsys):
    arguments = ["--dataset", folder, "--model", "GRU4REC", "--output", tmp_path / "x.safetensors", "--set", setting]
    assert main(list(map(str, arguments))) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"train.py: {message}") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lr", "0.01"], "unrecognized arguments: --lr 0.01; values of the recipe are set by --set, for example "),
        (["--lr", "0.01"], "for example --set fit.lr=VALUE"),
        (["--batch-size=5"], "for example --set fit.batch_size=VALUE"),
        (["--hidden", "5"], "for example --set model.hidden=VALUE"),
        (["--fold"], "for example --set data.fold=VALUE"),
        (["--nonsense"], "for example --set fit.lr=VALUE"),
        (["--set", "lr=1"], "'lr=1' sets nothing: write SECTION.KEY=VALUE, for example fit.lr=0.01"),
        (["--epochs", "1", "--set", "fit.epochs=2"], "--epochs and --set fit.epochs=... say the same; omit one"),
    ],
)
def test_an_option_that_does_not_exist_points_to_set(options, message, folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        main(["--dataset", str(folder), "--model", "NARM", "--output", str(tmp_path / "x.safetensors"), *options])
    assert error.value.code == 2 and message in capsys.readouterr().err
