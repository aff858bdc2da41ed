"""Download the public datasets once, verify them, and never change them afterwards.

    python dataset/fetch.py

`DATASET_ROOT` names a folder that is searched for the datasets first. `AMAZON_SESSIONS_URL` is the base URL of a mirror
of the two Amazon datasets, and `LITERATURE_URL` that of a mirror of the literature's files.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import pooch
import requests

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dataset.commands import describe  # noqa: E402
from dataset.parts import part_file, remove_leftovers  # noqa: E402

HERE = Path(__file__).resolve().parent
SUMS = HERE / "SHA256SUMS"
# Short name (as in `test_result_beauty.csv`) -> folder. No other file keeps a list of dataset names.
AMAZON = {"beauty": "Amazon_Beauty", "cell": "Amazon_Cell"}
COMMIT = "618467147cb561614982dfaad0296ffe5da0a2d4"
URL = f"https://raw.githubusercontent.com/SquirrelMz/Sequential-Recommendation/{COMMIT}/dataset"
# The files of the literature's datasets, by the name that they have here (see dataset/literature.py).
_S3_REC = "https://raw.githubusercontent.com/RUCAIBox/CIKM2020-S3Rec/2a81540ae18615d88ef88227b0c066e5b74781e5/data"
_GCE_GNN = "https://raw.githubusercontent.com/CCIIPLab/GCE-GNN/212575302e42d64b8cf0b9ffe1b71b0db398d5be/datasets"
LITERATURE = {
    "S3_Beauty.txt": f"{_S3_REC}/Beauty.txt",
    "S3_Sports_and_Outdoors.txt": f"{_S3_REC}/Sports_and_Outdoors.txt",
    "S3_Toys_and_Games.txt": f"{_S3_REC}/Toys_and_Games.txt",
    "diginetica_all_train_seq.pkl": f"{_GCE_GNN}/diginetica/all_train_seq.txt",
    "diginetica_test.pkl": f"{_GCE_GNN}/diginetica/test.txt",
    "Tmall_all_train_seq.pkl": f"{_GCE_GNN}/Tmall/all_train_seq.txt",
    "Tmall_test.pkl": f"{_GCE_GNN}/Tmall/test.txt",
}
TIMEOUT = 15  # seconds to wait for an answer
SLOWEST = 20_000  # bytes a second; a server that is slower counts as one that does not send the file
LARGEST = 1 << 24  # bytes of a file whose size the sums do not give

pooch.get_logger().setLevel("WARNING")  # its messages would print local paths into notebooks


class ServerUnreachable(ConnectionError):
    """The server did not answer: unknown host name, refused connection, or timeout."""


class DownloadError(RuntimeError):
    """The answer or the file is wrong: HTTP error, incomplete file, or wrong checksum."""


def fetch(name: str, folder: str | Path | None = None, *, sums: str | Path = SUMS, timeout: float = TIMEOUT) -> Path:
    """Return the folder with the verified `train_sessions.csv` and `test_sessions.csv` of a dataset.

    name: "Amazon_Beauty" or "Amazon_Cell".
    folder: where to store the files, by default `dataset/<name>`. Only missing or wrong files are downloaded.
        If `DATASET_ROOT/<name>` exists, it is used instead.
    sums: file with the SHA-256 and the relative path of every CSV, and its size in a comment (`# bytes 123  path`).
    timeout: total seconds to wait for an answer. The file itself must arrive at SLOWEST bytes a second.

    Raises ValueError if `sums` does not list the dataset, ServerUnreachable if there is no answer in time, and
    DownloadError if the server's answer or a file in `DATASET_ROOT` is wrong.
    """
    base = (os.environ.get("AMAZON_SESSIONS_URL") or URL).rstrip("/")
    urls = {file: f"{base}/{name}/{file.name}" for file in _read_sums(name, Path(sums))}
    return _fetch_files(urls, name, HERE / name if folder is None else Path(folder), "AMAZON_SESSIONS_URL", timeout)


def fetch_literature(
    names: Sequence[str], folder: str | Path | None = None, *, sums: str | Path = SUMS, timeout: float = TIMEOUT
) -> list[Path]:
    """Return the verified files of these names, which are keys of LITERATURE.

    folder: where to store them, by default `dataset/literature`. The rest is as in `fetch`, with the folder
    `DATASET_ROOT/literature` and the mirror `LITERATURE_URL`.
    """
    mirror = (os.environ.get("LITERATURE_URL") or "").rstrip("/")
    files = [file for file in _read_sums("literature", Path(sums)) if file.name in names]
    urls = {file: f"{mirror}/{file.name}" if mirror else LITERATURE[file.name] for file in files}
    folder = HERE / "literature" if folder is None else Path(folder)
    found = _fetch_files(urls, "literature", folder, "LITERATURE_URL", timeout)
    return [found / name for name in names]


def _fetch_files(urls: dict[_File, str], name: str, folder: Path, mirror: str, timeout: float) -> Path:
    """Download what is missing or wrong in `folder`, or verify `DATASET_ROOT/name`; the folder that has the files.

    mirror: the environment variable that names one.
    """
    root = os.environ.get("DATASET_ROOT")
    if root and (Path(root) / name).is_dir():
        for file in urls:
            _check_local(Path(root) / name / file.name, file.sha256)
        return Path(root) / name
    for file, url in urls.items():
        path = folder / file.name
        remove_leftovers(path)
        if path.is_file() and pooch.file_hash(str(path)) == file.sha256:
            continue
        with part_file(path) as part:
            _download(url, part, file.size, timeout, mirror)
            if pooch.file_hash(str(part)) != file.sha256:
                raise DownloadError(
                    f"{url} does not have the SHA-256 in {SUMS.name}: try again, or name another mirror in {mirror}."
                )
            part.chmod(0o644)
            part.replace(path)
    return folder


class _File(NamedTuple):
    name: str
    sha256: str
    size: int  # bytes; the largest allowed if the sums do not give it


def _read_sums(name: str, sums: Path) -> list[_File]:
    """The files of one dataset."""
    lines = [line.split() for line in sums.read_text(encoding="utf-8").splitlines() if line.strip()]
    sizes = {line[3]: int(line[2]) for line in lines if line[:2] == ["#", "bytes"]}
    hashes = {line[1]: line[0] for line in lines if not line[0].startswith("#")}
    files = [
        _File(Path(path).name, sha256, sizes.get(path, LARGEST))
        for path, sha256 in hashes.items()
        if Path(path).parent.name == name
    ]
    if not files:
        raise ValueError(f"{sums} does not list a dataset {name!r}.")
    return files


def _check_local(path: Path, sha256: str) -> None:
    """Raise DownloadError unless the file in DATASET_ROOT exists and has this hash."""
    if not path.is_file():
        raise DownloadError(f"{path} is missing: complete the folder or unset DATASET_ROOT.")
    if pooch.file_hash(str(path)) != sha256:
        raise DownloadError(f"{path} differs from the published file (SHA-256): replace it or unset DATASET_ROOT.")


def _download(url: str, path: Path, size: int, timeout: float, mirror: str) -> None:
    """Write the answer of a server into `path`. Raises DownloadError if it is too large or takes too long."""
    response = _get(url, timeout, mirror)
    if response.status_code != 200:
        response.close()
        raise DownloadError(
            f"{url} answered {response.status_code} {response.reason}: check {mirror}, or try again later."
        )
    received, limit = 0, timeout + size / SLOWEST
    with open(path, "wb") as file, closing(_read_body(url, response, limit)) as chunks:
        for chunk in chunks:
            received += len(chunk)
            if received > size:
                raise DownloadError(f"{url} has more than the expected {size} bytes: name another mirror in {mirror}.")
            file.write(chunk)


def _read_body(url: str, response: requests.Response, limit: float) -> Iterator[bytes]:
    """The chunks of a response, all within `limit` seconds."""
    # A thread, since the timeout of requests starts again with every byte that arrives. It closes the response, and
    # ends when no more chunks are taken.
    chunks: queue.Queue = queue.Queue(maxsize=4)
    over = threading.Event()

    def put(chunk: bytes | Exception | None) -> None:
        while not over.is_set():
            try:
                return chunks.put(chunk, timeout=0.1)
            except queue.Full:
                continue

    def read():
        try:
            with response:
                for chunk in response.iter_content(1 << 14):
                    put(chunk)
                    if over.is_set():
                        return
            put(None)
        except Exception as error:  # raised below, in the caller's thread
            put(error)

    threading.Thread(target=read, daemon=True).start()
    end = time.monotonic() + limit
    try:
        while True:
            try:
                chunk = chunks.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise DownloadError(f"{url} did not arrive within {limit:.0f} s: try again.") from None
            if chunk is None:
                return
            if isinstance(chunk, Exception):
                raise DownloadError(f"The transfer of {url} was interrupted: try again.") from chunk
            yield chunk
    finally:
        over.set()
        if hasattr(response.raw, "shutdown"):  # urllib3 2.3: end a read that waits
            with suppress(Exception):
                response.raw.shutdown()


def _get(url: str, timeout: float, mirror: str) -> requests.Response:
    """The response to a GET request, after its headers have arrived and before its body is read."""
    answers: queue.Queue = queue.Queue()

    def get():
        try:
            answers.put(requests.get(url, stream=True, timeout=timeout))
        except Exception as error:  # raised below, in the caller's thread
            answers.put(error)

    # The thread limits the total time. The timeout of requests does not cover the name lookup, and it starts again
    # for each address of the server.
    threading.Thread(target=get, daemon=True).start()
    try:
        answer = answers.get(timeout=timeout)
    except queue.Empty:
        answer = requests.Timeout()
    # In these two cases, requests also raises ConnectionError, although the server answered: with an invalid
    # certificate, or with something other than HTTP.
    answered = isinstance(answer, requests.exceptions.SSLError) or "BadStatusLine" in str(answer)
    if isinstance(answer, (requests.ConnectionError, requests.Timeout)) and not answered:
        raise ServerUnreachable(
            f"No answer for {url} (waited up to {timeout:g} s): check the network, or name a mirror in {mirror}."
        ) from answer
    if isinstance(answer, requests.RequestException):
        raise DownloadError(f"{url} cannot be downloaded ({answer}): check {mirror}.") from answer
    if isinstance(answer, Exception):
        raise answer
    return answer


def main() -> None:
    """Fetch every dataset and print one line for each."""
    try:
        for name in AMAZON.values():
            print(f"{name}: verified in {os.path.relpath(fetch(name))}", flush=True)
    except (OSError, DownloadError) as error:
        sys.exit(describe(error))


if __name__ == "__main__":
    main()
