"""The past of simulated processes, as Prometheus's remote write: encoded with arrays, which is fast enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from _scaling_page import Page
    from numpy.typing import NDArray

__all__ = ["Past", "labels_of", "write_request"]

_SAMPLE = 18  # bytes: tag, length, tag and the value, tag and six bytes of the time
_PROCESSES = 8  # in a request


def labels_of(number: int, jobs: int) -> dict[str, str]:
    """Return the labels of a process's target."""
    return {"instance": f"host-{number:05}:9464", "job": f"job-{number % jobs:03}"}


class Past:
    """The past of all processes.

    Args:
        page: The page of a process.
        endpoints: The number of processes.
        jobs: The number of jobs that they belong to.
        start: The Unix time at which their counters were 0.
    """

    def __init__(self, page: Page, endpoints: int, jobs: int, start: float) -> None:
        self._page = page
        self._endpoints = endpoints
        self._jobs = jobs
        self._start = start
        series = [page.series[at] for at in page.stored]
        self._fixed = [_split(each.name, each.labels) for each in series]
        self._up = _split("up", {})

    def requests(self, times: NDArray[np.float64]) -> Iterator[tuple[bytes, int]]:
        """Yield compressed requests with the samples at these times, and the number in each."""
        stamps = _stamps(times)
        for first in range(0, self._endpoints, _PROCESSES):
            numbers = range(first, min(first + _PROCESSES, self._endpoints))
            parts = [part for each in numbers for part in self._of_process(each, times, stamps)]
            yield snappy(b"".join(parts)), len(parts) // 3 * len(times)

    def _of_process(
        self, number: int, times: NDArray[np.float64], stamps: NDArray[np.uint8]
    ) -> Iterator[bytes]:
        values = self._page.values(number, times, self._start)[self._page.stored]
        values = np.vstack([values, np.ones(len(times))])
        encoded = np.empty((*values.shape, _SAMPLE), np.uint8)
        encoded[..., :3] = (0x12, _SAMPLE - 2, 0x09)
        encoded[..., 3:11] = values.astype("<f8")[..., None].view(np.uint8)
        encoded[..., 11:] = stamps
        target = labels_of(number, self._jobs)
        middle = b"".join(_label(name, value) for name, value in sorted(target.items()))
        for (head, tail), samples in zip([*self._fixed, self._up], encoded, strict=True):
            labels = head + middle + tail
            body = samples.tobytes()
            yield b"\x0a" + _varint(len(labels) + len(body))
            yield labels
            yield body


def write_request(
    series: Mapping[tuple[tuple[str, str], ...], NDArray[np.float64]], times: NDArray[np.float64]
) -> bytes:
    """Return a compressed request of a few series by their labels, all with the same times."""
    stamps, parts = _stamps(times), []
    for labels, values in series.items():
        encoded = np.empty((len(times), _SAMPLE), np.uint8)
        encoded[:, :3] = (0x12, _SAMPLE - 2, 0x09)
        encoded[:, 3:11] = values.astype("<f8")[:, None].view(np.uint8)
        encoded[:, 11:] = stamps
        body = b"".join(_label(*each) for each in sorted(labels)) + encoded.tobytes()
        parts.append(b"\x0a" + _varint(len(body)) + body)
    return snappy(b"".join(parts))


def snappy(plain: bytes) -> bytes:
    """Frame bytes as snappy's block format, as one literal."""
    return _varint(len(plain)) + b"\xfc" + (len(plain) - 1).to_bytes(4, "little") + plain


def _split(name: str, labels: Mapping[str, str]) -> tuple[bytes, bytes]:
    """Return the encoded labels before and after those of the target; labels are sorted."""
    ordered = sorted({"__name__": name, **labels}.items())
    head = b"".join(_label(*each) for each in ordered if each[0] < "instance")
    return head, b"".join(_label(*each) for each in ordered if each[0] > "instance")


def _label(name: str, value: str) -> bytes:
    fields = b"".join(
        bytes([tag]) + _varint(len(text)) + text
        for tag, text in ((0x0A, name.encode()), (0x12, value.encode()))
    )
    return b"\x0a" + _varint(len(fields)) + fields


def _stamps(times: NDArray[np.float64]) -> NDArray[np.uint8]:
    encoded = [b"\x10" + _varint(round(each * 1_000)) for each in times.tolist()]
    return np.frombuffer(b"".join(encoded), np.uint8).reshape(len(times), -1)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)
