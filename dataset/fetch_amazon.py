"""The two Amazon datasets: downloaded once, verified, and left alone from then on.

    python dataset/fetch_amazon.py

`DATASET_ROOT` names a folder in which the datasets are looked for first, `AMAZON_SESSIONS_URL` the
base URL of a mirror.
"""

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
NAMES = ("Amazon_Beauty", "Amazon_Cell")
COMMIT = "618467147cb561614982dfaad0296ffe5da0a2d4"
URL = f"https://raw.githubusercontent.com/SquirrelMz/Sequential-Recommendation/{COMMIT}/dataset"
TIMEOUT = 15  # seconds without an answer

pooch.get_logger().setLevel("WARNING")  # it would print the paths of this machine into notebooks


class ServerUnreachable(ConnectionError):
    """No answer: the name unknown, the connection refused, or silence until the time was up."""


class DownloadError(RuntimeError):
    """An answer or a file, but not the right one: an HTTP error, cut short, another checksum."""


def fetch(name, folder=None, *, sums=SUMS, timeout=TIMEOUT):
    """Folder with the verified `train_sessions.csv` and `test_sessions.csv` of a dataset.

    Args:
        name: "Amazon_Beauty" or "Amazon_Cell".
        folder: where the files are kept, by default `dataset/<name>`. Files that are already there
            and right are not downloaded again. `DATASET_ROOT/<name>` comes first, if it exists.
        sums: file with the SHA-256 and the relative path of every CSV.
        timeout: seconds to wait for an answer, all addresses of the server together.

    Raises:
        ValueError: `sums` knows no such dataset.
        ServerUnreachable: nothing answered within `timeout`.
        DownloadError: the server answered, or `DATASET_ROOT` held, something else than the file.
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
        try:
            # Writes beside the target and renames once the hash is right.
            pooch.retrieve(
                url,
                known_hash=f"sha256:{sha256}",
                path=folder,
                fname=file,
                downloader=partial(_download, timeout=timeout),
            )
        except ValueError as error:
            raise DownloadError(
                f"{url} has another SHA-256 than the one in {sums.name}: "
                "try again, or name another mirror in AMAZON_SESSIONS_URL."
            ) from error
    return folder


def _read_hashes(name, sums):
    """{file: SHA-256} of one dataset."""
    hashes = {}
    for line in sums.read_text().splitlines():
        sha256, path = line.split()
        if Path(path).parent.name == name:
            hashes[Path(path).name] = sha256
    if not hashes:
        raise ValueError(f"{name!r} is not a dataset that {sums} lists.")
    return hashes


def _check_local(path, sha256):
    """Raise DownloadError unless the file in DATASET_ROOT is there and right."""
    if not path.is_file():
        raise DownloadError(f"{path} is missing: complete the folder or unset DATASET_ROOT.")
    if pooch.file_hash(str(path)) != sha256:
        raise DownloadError(
            f"{path} has another SHA-256 than the published file: replace it or unset DATASET_ROOT."
        )


def _download(url, output, _pooch, *, timeout):
    """A pooch downloader that tells no answer from a wrong one."""
    with _ask(url, timeout) as response:
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
            raise DownloadError(f"The transfer of {url} broke off before its end: try again.") from error


def _ask(url, timeout):
    """The response to a GET once its headers have arrived; its body is still to be read."""
    answers = queue.Queue()

    def get():
        try:
            answers.put(requests.get(url, stream=True, timeout=timeout))
        except Exception as error:  # raised below, where someone can catch it
            answers.put(error)

    # In a thread, because the timeout of requests holds for each address of the server anew, and
    # not at all for looking up its name.
    threading.Thread(target=get, daemon=True).start()
    try:
        answer = answers.get(timeout=timeout)
    except queue.Empty:
        answer = requests.Timeout()
    # requests calls these two connection errors, but something did answer: with a certificate that
    # does not hold, or with something that is not HTTP.
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


def main():
    """Fetch every dataset, a line each."""
    try:
        for name in NAMES:
            print(f"{name}: verified in {os.path.relpath(fetch(name))}")
    except (OSError, DownloadError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
