"""Progress bars."""

from sessionrec.progress import TERMINAL, progress_bar


def test_a_named_terminal_gets_the_bar(tmp_path, monkeypatch, capsys):
    """As in the process of the notebook that `make results` executes; a file stands in for the terminal."""
    terminal = tmp_path / "terminal"
    terminal.touch()
    monkeypatch.setenv(TERMINAL, str(terminal))
    with progress_bar(total=3, desc="GRU4REC", disable=False) as bar:
        bar.update(3)
    assert "GRU4REC: 100%" in terminal.read_text() and "3/3" in terminal.read_text()
    assert capsys.readouterr() == ("", "")


def test_without_one_it_is_shown_where_the_program_runs(monkeypatch, capsys):
    monkeypatch.delenv(TERMINAL, raising=False)
    with progress_bar(total=3, desc="GRU4REC", disable=False) as bar:
        bar.update(3)
    assert "GRU4REC: 100%" in capsys.readouterr().err
