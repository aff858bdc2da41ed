"""Download the two Amazon datasets once, verify them, and never change them afterwards.

    python dataset/fetch.py

`DATASET_ROOT` names a folder that is searched for the datasets first. `AMAZON_SESSIONS_URL` is the base URL
of a mirror.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from functools import partial
from pathlib import Path

import pooch
import requests

HERE = Path(__file__).resolve().parent
SUMS = HERE / "SHA256SUMS"
# Short name (as in `test_result_beauty.csv`) -> folder. No other file keeps a list of dataset names.
AMAZON = {"beauty": "Amazon_Beauty", "cell": "Amazon_Cell"}
COMMIT = "618467147cb561614982dfaad0296ffe5da0a2d4"
URL = f"https://raw.githubusercontent.com/SquirrelMz/Sequential-Recommendation/{COMMIT}/dataset"
TIMEOUT = 15  # seconds to wait for an answer

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
    sums: file with the SHA-256 and the relative path of every CSV.
    timeout: total seconds to wait for an answer.

    Raises ValueError if `sums` does not list the dataset, ServerUnreachable if there is no answer in time, and
    DownloadError if the server's answer or a file in `DATASET_ROOT` is wrong.
    """
    sums = Path(sums)
    hashes = _read_hashes(name, sums)
    root = os.environ.get("DATASET_ROOT")
    if root and (Path(root) / name).is_dir():
        for file, sha256 in hashes.items():
            _check_local(Path(root) / name / file, sha256)
        return Path(root) / name

    folder = HERE / name if folder is None else Path(folder)
    base = (os.environ.get("AMAZON_SESSIONS_URL") or URL).rstrip("/")
    for file, sha256 in hashes.items():
        url = f"{base}/{name}/{file}"
        options = {"path": folder, "fname": file, "downloader": partial(_download, timeout=timeout)}
        try:  # pooch writes a temporary file and renames it after checking the hash
            pooch.retrieve(url, f"sha256:{sha256}", **options)
        except ValueError as error:
            raise DownloadError(
                f"{url} does not have the SHA-256 in {sums.name}: "
                "try again, or name another mirror in AMAZON_SESSIONS_URL."
            ) from error
    return folder


def _read_hashes(name: str, sums: Path) -> dict[str, str]:
    """{file: SHA-256} of one dataset."""
    lines = [line.split() for line in sums.read_text().splitlines()]
    hashes = {Path(path).name: sha256 for sha256, path in lines if Path(path).parent.name == name}
    if not hashes:
        raise ValueError(f"{sums} does not list a dataset {name!r}.")
    return hashes


def _check_local(path: Path, sha256: str) -> None:
    """Raise DownloadError unless the file in DATASET_ROOT exists and has this hash."""
    if not path.is_file():
        raise DownloadError(f"{path} is missing: complete the folder or unset DATASET_ROOT.")
    if pooch.file_hash(str(path)) != sha256:
        raise DownloadError(f"{path} differs from the published file (SHA-256): replace it or unset DATASET_ROOT.")


def _download(url: str, output: str, _pooch: object, *, timeout: float) -> None:
    """A downloader for pooch that distinguishes a missing answer from a wrong one."""
    with _get(url, timeout) as response:
        if response.status_code != 200:
            raise DownloadError(
                f"{url} answered {response.status_code} {response.reason}: "
                "check AMAZON_SESSIONS_URL, or try again later."
            )
        try:
            with open(output, "wb") as file:
                for chunk in response.iter_content(1 << 16):
                    file.write(chunk)
        except requests.RequestException as error:
            raise DownloadError(f"The transfer of {url} was interrupted: try again.") from error


def _get(url: str, timeout: float) -> requests.Response:
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
            f"No answer for {url} (waited up to {timeout:g} s): check the network, "
            "or name a mirror in AMAZON_SESSIONS_URL."
        ) from answer
    if isinstance(answer, requests.RequestException):
        raise DownloadError(f"{url} cannot be downloaded ({answer}): check AMAZON_SESSIONS_URL.") from answer
    if isinstance(answer, Exception):
        raise answer
    return answer


def main() -> None:
    """Fetch every dataset and print one line for each."""
    try:
        for name in AMAZON.values():
            print(f"{name}: verified in {os.path.relpath(fetch(name))}")
    except (OSError, DownloadError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
