"""dataset/fetch.py with a local server that fails in several ways."""

import hashlib
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dataset.fetch import LITERATURE, SUMS, DownloadError, ServerUnreachable, fetch, fetch_literature

NAME = "Amazon_Beauty"
FILES = {"test_sessions.csv": b"session\n[7]\n", "train_sessions.csv": b"session,label\r\n[0],1\r\n" * 50}


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`. `fault` is the kind of error in the answer for train_sessions.csv."""

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files = files
        self.fault = None
        self.requests = []
        self.over = threading.Event()
        self.gone = threading.Event()  # the client of an endless answer has hung up
        self.sent = 0


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append(self.path)
        fault = server.fault if self.path.endswith("train_sessions.csv") else None
        body = server.files.get(self.path)
        if body is None:
            return self.send_error(404)
        if isinstance(fault, int):
            return self.send_error(fault)
        if fault == "silent":
            return server.over.wait(10)
        if fault == "closed":
            return None
        if fault == "not HTTP":
            return self.wfile.write(b"SSH-2.0-OpenSSH\r\n")
        if fault in ("drips", "never ends"):
            return self._go_on(drips=fault == "drips")
        if fault == "corrupt":
            body = body.replace(b"1", b"2")
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault in ("truncated", "stalled") else body)
        if fault == "stalled":
            self.wfile.flush()
            server.over.wait(10)

    def _go_on(self, drips):
        """Send bytes until the test is over, or the client has gone: one in a while, or as many as fit."""
        self.send_response(200)
        self.end_headers()
        try:
            while not self.server.over.wait(0.05 if drips else 0):
                self.wfile.write(b"x" if drips else b"x" * (1 << 20))
                self.server.sent += 1 if drips else 1 << 20
        except OSError:
            self.server.gone.set()

    def log_message(self, *args):
        pass


@pytest.fixture
def serve(monkeypatch):
    """Start servers for {path: bytes}, each set as the mirror."""
    started = []

    def start(files):
        server = Server(files)
        listen = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        listen.start()
        monkeypatch.setenv("AMAZON_SESSIONS_URL", server.url)
        started.append(server)
        return server

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("DATASET_ROOT", raising=False)
    yield start
    for server in started:
        server.over.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def server(serve):
    return serve({f"/{NAME}/{file}": body for file, body in FILES.items()})


@pytest.fixture
def sums(tmp_path):
    path = tmp_path / "SHA256SUMS"
    lines = [f"# bytes {len(body)}  {NAME}/{file}\n{sha256(body)}  {NAME}/{file}\n" for file, body in FILES.items()]
    path.write_text("".join(lines))
    return path


def closed_port():
    """URL of a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def sha256(body):
    return hashlib.sha256(body).hexdigest()


def read_folder(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_files_are_downloaded_once(server, sums, tmp_path):
    folder = fetch(NAME, tmp_path / NAME, sums=sums)
    assert folder == tmp_path / NAME
    assert read_folder(folder) == FILES
    assert fetch(NAME, folder, sums=sums) == folder
    assert len(server.requests) == len(FILES)


def test_only_what_is_missing_or_damaged_is_downloaded(server, sums, tmp_path):
    folder = fetch(NAME, tmp_path / NAME, sums=sums)
    server.requests.clear()
    (folder / "train_sessions.csv").write_bytes(b"half a fi")
    fetch(NAME, folder, sums=sums)
    assert read_folder(folder) == FILES
    assert server.requests == [f"/{NAME}/train_sessions.csv"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("corrupt", "SHA-256"),
        ("truncated", "was interrupted"),
        ("stalled", "was interrupted"),
        ("not HTTP", "cannot be downloaded"),
        (404, "404 Not Found"),
        (503, "503 Service Unavailable"),
    ],
)
@pytest.mark.parametrize("earlier", [None, b"an earlier version"])
def test_wrong_answer_is_an_error_that_keeps_earlier_files(server, sums, tmp_path, fault, words, earlier):
    folder = tmp_path / NAME
    before = {"test_sessions.csv": FILES["test_sessions.csv"]}
    if earlier:
        before["train_sessions.csv"] = earlier
        folder.mkdir()
        (folder / "train_sessions.csv").write_bytes(earlier)
    server.fault = fault
    with pytest.raises(DownloadError, match=words) as error:
        fetch(NAME, folder, sums=sums, timeout=0.5)
    assert f"{NAME}/train_sessions.csv" in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert read_folder(folder) == before  # no temporary file either


@pytest.mark.parametrize(("fault", "words"), [("drips", "did not arrive within"), ("never ends", "more than the exp")])
def test_an_answer_without_an_end_is_bounded_in_time_and_size(server, sums, tmp_path, fault, words):
    server.fault = fault
    start = time.monotonic()
    with pytest.raises(DownloadError, match=words) as error:
        fetch(NAME, tmp_path / NAME, sums=sums, timeout=1)
    assert time.monotonic() - start < 5
    assert f"{NAME}/train_sessions.csv" in str(error.value) and len(str(error.value).splitlines()) == 1
    assert [path.name for path in (tmp_path / NAME).iterdir()] == ["test_sessions.csv"]
    assert server.sent < 2**26
    assert server.gone.wait(5)  # the connection does not stay open


def test_the_sizes_are_a_comment_for_sha256sum():
    lines = SUMS.read_text().splitlines()
    assert len(lines) == 8 + 2 * len(LITERATURE)
    for comment, line in zip(lines[::2], lines[1::2], strict=True):
        assert comment.startswith("# bytes ") and comment.split()[3] == line.split()[1]


def test_the_literatures_files_from_a_mirror(serve, tmp_path, monkeypatch):
    bodies = {name: name.encode() for name in LITERATURE}
    sums = tmp_path / "SHA256SUMS"
    sums.write_text("".join(f"{sha256(body)}  literature/{name}\n" for name, body in bodies.items()))
    server = serve({f"/{name}": body for name, body in bodies.items()})
    monkeypatch.setenv("LITERATURE_URL", server.url)
    wanted = ["Tmall_test.pkl", "S3_Beauty.txt"]
    paths = fetch_literature(wanted, tmp_path / "files", sums=sums)
    assert [path.read_bytes() for path in paths] == [bodies[name] for name in wanted]
    assert sorted(server.requests) == ["/S3_Beauty.txt", "/Tmall_test.pkl"]
    server.files["/S3_Toys_and_Games.txt"] = b"other"
    with pytest.raises(DownloadError, match="does not have the SHA-256 .* another mirror in LITERATURE_URL"):
        fetch_literature(["S3_Toys_and_Games.txt"], tmp_path / "files", sums=sums)
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == sorted(wanted)
    monkeypatch.setenv("DATASET_ROOT", str(tmp_path))
    (tmp_path / "literature").mkdir()
    with pytest.raises(DownloadError, match="S3_Beauty.txt is missing: complete the folder or unset DATASET_ROOT"):
        fetch_literature(["S3_Beauty.txt"], sums=sums)


def test_sums_without_sizes_are_accepted(server, tmp_path):
    plain = tmp_path / "SHA256SUMS"
    plain.write_text("".join(f"{sha256(body)}  {NAME}/{file}\n" for file, body in FILES.items()))
    assert read_folder(fetch(NAME, tmp_path / NAME, sums=plain)) == FILES


KILLED = """
import sys
from pathlib import Path
from dataset.fetch import fetch
fetch("Amazon_Beauty", Path(sys.argv[1]), sums=sys.argv[2])
"""


def test_the_temporary_file_of_a_killed_download_is_removed(server, sums, tmp_path):
    folder = tmp_path / NAME
    server.fault = "drips"
    run = subprocess.Popen([sys.executable, "-c", KILLED, folder, sums], cwd=SUMS.parent.parent)
    while not (server.sent and list(folder.glob(".train*.part"))):
        time.sleep(0.01)
    part = next(folder.glob(".train*.part"))
    with pytest.raises(DownloadError):  # another run leaves the file of a run that lives
        fetch(NAME, folder, sums=sums, timeout=0.5)
    assert part.exists()
    run.kill()
    run.wait()
    assert part.exists()
    server.fault = None
    assert read_folder(fetch(NAME, folder, sums=sums)) == FILES


def test_download_succeeds_after_an_earlier_fault(server, sums, tmp_path):
    server.fault = "truncated"
    with pytest.raises(DownloadError):
        fetch(NAME, tmp_path / NAME, sums=sums)
    server.fault = None
    assert read_folder(fetch(NAME, tmp_path / NAME, sums=sums)) == FILES


@pytest.mark.parametrize("fault", ["silent", "closed"])
def test_no_answer_is_server_unreachable(server, sums, tmp_path, fault):
    server.fault = fault
    start = time.monotonic()
    with pytest.raises(ServerUnreachable, match="No answer"):
        fetch(NAME, tmp_path / NAME, sums=sums, timeout=0.5)
    assert time.monotonic() - start < 2


def test_closed_port_is_server_unreachable(server, sums, tmp_path, monkeypatch):
    monkeypatch.setenv("AMAZON_SESSIONS_URL", closed_port())
    with pytest.raises(ServerUnreachable, match="No answer"):
        fetch(NAME, tmp_path / NAME, sums=sums)


def test_failing_proxy_is_server_unreachable(server, sums, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "")  # lower case wins over upper case
    monkeypatch.setenv("http_proxy", closed_port())
    with pytest.raises(ServerUnreachable, match="No answer"):
        fetch(NAME, tmp_path / NAME, sums=sums)


def test_slow_name_lookup_counts_as_no_answer(sums, tmp_path, monkeypatch):
    monkeypatch.delenv("DATASET_ROOT", raising=False)
    monkeypatch.setenv("AMAZON_SESSIONS_URL", "http://mirror.invalid")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: time.sleep(5))
    start = time.monotonic()
    with pytest.raises(ServerUnreachable):
        fetch(NAME, tmp_path / NAME, sums=sums, timeout=0.3)
    assert time.monotonic() - start < 2


def test_mirror_may_end_in_a_slash_and_must_be_a_url(server, sums, tmp_path, monkeypatch):
    monkeypatch.setenv("AMAZON_SESSIONS_URL", f"{server.url}/")
    fetch(NAME, tmp_path / "slash", sums=sums)
    assert server.requests[0] == f"/{NAME}/test_sessions.csv"
    monkeypatch.setenv("AMAZON_SESSIONS_URL", "not-a-url")
    with pytest.raises(DownloadError, match="check AMAZON_SESSIONS_URL"):
        fetch(NAME, tmp_path / "no-url", sums=sums)


def test_dataset_root_comes_first_and_is_verified(server, sums, tmp_path, monkeypatch):
    root = tmp_path / "root"
    (root / NAME).mkdir(parents=True)
    for file, body in FILES.items():
        (root / NAME / file).write_bytes(body)
    monkeypatch.setenv("DATASET_ROOT", str(root))
    assert fetch(NAME, tmp_path / NAME, sums=sums) == root / NAME

    (root / NAME / "train_sessions.csv").write_bytes(b"other")
    with pytest.raises(DownloadError, match=r"root/Amazon_Beauty/train_sessions\.csv differs from"):
        fetch(NAME, tmp_path / NAME, sums=sums)
    (root / NAME / "train_sessions.csv").unlink()
    with pytest.raises(DownloadError, match=r"root/Amazon_Beauty/train_sessions\.csv is missing"):
        fetch(NAME, tmp_path / NAME, sums=sums)
    assert server.requests == []


def test_dataset_that_dataset_root_lacks_is_downloaded(server, sums, tmp_path, monkeypatch):
    monkeypatch.setenv("DATASET_ROOT", str(tmp_path / "elsewhere"))
    assert read_folder(fetch(NAME, tmp_path / NAME, sums=sums)) == FILES


def test_unknown_dataset_is_a_value_error():
    with pytest.raises(ValueError, match="Amazon_Books"):
        fetch("Amazon_Books")


def test_command_line_prints_one_line_and_exits_with_1(tmp_path):
    script = SUMS.with_name("fetch.py")
    environment = {**os.environ, "DATASET_ROOT": str(tmp_path)}
    (tmp_path / NAME).mkdir()  # empty, so that the real data folder of this checkout is not used
    run = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stdout == ""
    assert "test_sessions.csv is missing" in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_command_line_verifies_the_real_data(real_data):
    script = SUMS.with_name("fetch.py")
    environment = {**os.environ, "DATASET_ROOT": str(real_data)}
    run = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
    assert [line.split(":")[0] for line in run.stdout.splitlines()] == [NAME, "Amazon_Cell"]
    assert run.stderr == ""


@pytest.mark.parametrize("name", [NAME, "Amazon_Cell"])
def test_real_data_from_a_mirror_matches_the_committed_sums(real_data, serve, tmp_path, name):
    paths = Path(real_data, name).glob("*.csv")
    server = serve({f"/{name}/{path.name}": path.read_bytes() for path in paths})
    folder = fetch(name, tmp_path / name)
    assert len(server.requests) == 2
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
