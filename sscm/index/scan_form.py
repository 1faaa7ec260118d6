"""The scan form of vectors: int8 codes whose integer products bound every inner product from above.

Let R [d, r] have orthonormal columns: the r principal directions of the vectors, turned at random among themselves so
that every coordinate spreads alike. A vector x has coordinates h = Rᵀx and a rest of length τ = ‖x - R h‖; its codes
are c = round(h / s), off by e = ‖h - s c‖. The same for a query y, with its own scale s' and codes c'. Then

    x·y = h·h' + rest·rest' ≤ s s' c·c' + e ‖h'‖ + ‖s c‖ e' + τ τ'

e and τ are two more codes of x, rounded up, and ‖h'‖ and τ' two more codes of the query, rounded up as well: one
integer product gives all but ‖s c‖ e', for which the longest row stands. Embeddings of a trained encoder fill few
directions: with half as many codes as dimensions τ is small, and a scan reads and multiplies half as much. Nothing
here decides an answer: it decides which rows must be looked at in full.

Source of the bound: the inequality of Cauchy and Schwarz, term by term.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sscm.errors import IntegrityError

TAIL_SHARE = 0.005
"""Share of the squared length that codes may leave out: shorter codes cost more in rows to look at than they save."""
WIDTH = 16
"""Codes of a row come in multiples of this: what int8 instructions take at a time."""
SAMPLE_ROWS = 65_536
"""Rows that directions are found from."""
CHUNK_ROWS = 65_536
"""Rows coded at a time."""
SEED = 0
_EXTRA = 2
_STEP_ERROR, _STEP_REST = 0.1, 1.0
"""Steps of the two last codes in units of the scale: such that those of row and query are both some tens."""
_LEVELS = 127
_UP = 1 + 1e-9
"""Covers what float64 rounds in lengths and quotients of some thousand terms."""

Codes = npt.NDArray[np.int8]
Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class QueryCodes:
    """Queries in scan form: a row's inner product is at most ``unit`` × integer product + ``slack``.

    Args:
        codes: int8 [q, w].
        unit: float64 [q], above 0.
        slack: float64 [q].
    """

    codes: Codes
    unit: Doubles
    slack: Doubles


@dataclass(frozen=True, kw_only=True, eq=False)
class ScanForm:
    """Vectors in scan form.

    Args:
        codes: int8 [n, w], w a multiple of 16; may be memory-mapped.
        basis: float64 [d, r], orthonormal columns.
        scale: length of one step of a coordinate.
        step_error: of one step of the code of a row's error.
        step_rest: of one step of the code of a row's rest.
        coded: longest coded row, ‖s c‖.
        error: largest error of a row.
        rest: longest rest of a row.
        longest: longest row.
    """

    codes: Codes
    basis: Doubles
    scale: float
    step_error: float
    step_rest: float
    coded: float
    error: float
    rest: float
    longest: float

    def __len__(self) -> int:
        return len(self.codes)

    def slice(self, start: int, stop: int) -> ScanForm:
        """Some consecutive rows, as a view."""
        return ScanForm(codes=self.codes[start:stop], basis=self.basis, **self._numbers())

    def queries(self, queries: Floats) -> QueryCodes:
        """Queries float32 [q, d] in the scan form that goes with these rows."""
        values = queries.astype(np.float64)
        coordinates, rest = _project(values, self.basis)
        peaks = np.abs(coordinates).max(axis=1, initial=0.0)
        unit = np.where(peaks > 0, peaks, 1.0) / _LEVELS
        rounded = np.rint(coordinates / unit[:, None])
        error = _lengths(coordinates - unit[:, None] * rounded) * _UP
        coded = _lengths(coordinates) * _UP
        codes = np.zeros((len(queries), self.codes.shape[1]), np.int8)
        codes[:, : rounded.shape[1]] = rounded
        slack = self.coded * error + 1e-9 * self.longest * _lengths(values)
        for place, (factor, step, most) in enumerate(
            ((coded, self.step_error, self.error), (rest, self.step_rest, self.rest))
        ):
            # A row's code times its step is at least what it stands for; so must the query's be.
            wanted = factor * step / (self.scale * unit)
            given = np.minimum(np.ceil(wanted), _LEVELS)
            codes[:, rounded.shape[1] + place] = given
            slack += np.maximum(wanted - given, 0) * (self.scale * unit / step) * most
        return QueryCodes(codes=codes, unit=self.scale * unit, slack=slack)

    def save(self, path: Path) -> None:
        """Write a safetensors file that :func:`load_scan_form` maps."""
        save_file({"codes": self.codes, "basis": self.basis}, path, {"scan": json.dumps(self._numbers())})

    def _numbers(self) -> dict[str, float]:
        return {
            "scale": self.scale,
            "step_error": self.step_error,
            "step_rest": self.step_rest,
            "coded": self.coded,
            "error": self.error,
            "rest": self.rest,
            "longest": self.longest,
        }


def make_scan_form(vectors: Floats) -> ScanForm:
    """Put vectors into scan form.

    Args:
        vectors: float32 [n, d]; read in chunks, never copied as a whole.

    Raises:
        IntegrityError: a value is not finite.
    """
    rows = len(vectors)
    basis = _basis(vectors, _kept(vectors))
    peak = error = rest = coded = longest = 0.0
    for start in range(0, rows, CHUNK_ROWS):
        values = vectors[start : start + CHUNK_ROWS].astype(np.float64)
        if not np.isfinite(values).all():
            raise IntegrityError(f"vectors {start} to {start + len(values)}: one is not finite")
        coordinates, rests = _project(values, basis)
        peak = max(peak, float(np.abs(coordinates).max(initial=0.0)))
        rest = max(rest, float(rests.max(initial=0.0)))
        longest = max(longest, float(_lengths(values).max(initial=0.0)) * _UP)
    scale = (peak or 1.0) / _LEVELS
    # No coordinate is off by more than half a step.
    error = 0.5 * scale * np.sqrt(basis.shape[1]) * _UP
    step_error = max(_STEP_ERROR * scale, error / _LEVELS)
    step_rest = max(_STEP_REST * scale, rest / _LEVELS)
    width = -(-(basis.shape[1] + _EXTRA) // WIDTH) * WIDTH
    codes = np.zeros((rows, width), np.int8)
    error = 0.0
    for start in range(0, rows, CHUNK_ROWS):
        part = slice(start, start + CHUNK_ROWS)
        coordinates, rests = _project(vectors[part].astype(np.float64), basis)
        rounded = np.rint(coordinates / scale)
        errors = _lengths(coordinates - scale * rounded) * _UP
        codes[part, : basis.shape[1]] = rounded
        codes[part, basis.shape[1]] = np.minimum(np.ceil(errors / step_error), _LEVELS)
        codes[part, basis.shape[1] + 1] = np.minimum(np.ceil(rests / step_rest), _LEVELS)
        coded = max(coded, float(_lengths(scale * rounded).max(initial=0.0)) * _UP)
        error = max(error, float(errors.max(initial=0.0)))
    return ScanForm(
        codes=codes,
        basis=basis,
        scale=scale,
        step_error=step_error,
        step_rest=step_rest,
        coded=coded,
        error=error,
        rest=rest,
        longest=longest,
    )


def load_scan_form(path: Path, where: str) -> ScanForm:
    """Map what :meth:`ScanForm.save` wrote.

    Args:
        path: a local file.
        where: its name in messages.

    Raises:
        IntegrityError: it is not a whole file of a scan form.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name).numpy() for name in ("codes", "basis")}
            form = ScanForm(**tensors, **json.loads((file.metadata() or {})["scan"]))
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise IntegrityError(
            f"{where} is not a whole scan form ({error}); restore it, or run `sscm index` again"
        ) from error
    if form.codes.dtype != np.int8 or form.codes.ndim != 2:
        raise IntegrityError(f"{where}: codes are {form.codes.dtype} {form.codes.shape}; expected int8 [rows, codes]")
    return form


def _kept(vectors: Floats) -> int:
    """How many directions codes hold: so many that little is left out and no code is idle."""
    dimension = int(vectors.shape[1])
    energy = np.maximum(np.linalg.eigvalsh(_moments(vectors))[::-1], 0)
    left = 1 - np.cumsum(energy) / (energy.sum() or 1.0)
    for width in range(2 * WIDTH, dimension, WIDTH):
        if left[width - _EXTRA - 1] <= TAIL_SHARE:
            return width - _EXTRA
    return dimension


def _basis(vectors: Floats, kept: int) -> Doubles:
    _, directions = np.linalg.eigh(_moments(vectors))
    turn, _ = np.linalg.qr(np.random.default_rng(SEED).standard_normal((kept, kept)))
    # Orthonormal to the last bits of float64 whatever the eigenvectors' own rounding.
    basis, _ = np.linalg.qr(directions[:, ::-1][:, :kept] @ turn)
    return np.ascontiguousarray(basis)


def _moments(vectors: Floats) -> Doubles:
    """Second moments float64 [d, d] of some rows."""
    step = max(1, len(vectors) // SAMPLE_ROWS)
    sample = vectors[::step][:SAMPLE_ROWS].astype(np.float64)
    return np.asarray(np.nan_to_num(sample.T @ sample, posinf=0, neginf=0))


def _project(values: Doubles, basis: Doubles) -> tuple[Doubles, Doubles]:
    """Coordinates [n, r], and the length [n] of what they leave out, rounded up."""
    coordinates = values @ basis
    if basis.shape[0] == basis.shape[1]:
        # A full basis leaves out nothing but rounding, which the slack of the bound covers.
        return coordinates, np.zeros(len(values))
    return coordinates, _lengths(values - coordinates @ basis.T) * _UP


def _lengths(values: Doubles) -> Doubles:
    return np.asarray(np.sqrt(np.einsum("nd,nd->n", values, values)))
