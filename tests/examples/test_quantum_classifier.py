"""The circuit of examples/quantum_classifier.py against dense matrices built here from their definitions."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgeattn import theirs
from edgeattn.tasks import digits
from tests.conftest import ROOT

pytestmark = pytest.mark.torch

PLACE = str(ROOT / "examples" / "quantum_classifier.py")
circuit = theirs.load(f"{PLACE}:Circuit", "class")
X, Z, ID = np.array([[0, 1], [1, 0]]), np.diag([1, -1]), np.eye(2)
P0, P1 = np.diag([1, 0]), np.diag([0, 1])


def kron(*factors: np.ndarray) -> np.ndarray:
    return reduce(np.kron, factors)


def on(qubit: int, gate: np.ndarray, count: int) -> np.ndarray:
    return kron(*(gate if q == qubit else ID for q in range(count)))


def ry(angle: float) -> np.ndarray:
    """exp(-i angle Y / 2)."""
    return np.cos(angle / 2) * ID - 1j * np.sin(angle / 2) * np.array([[0, -1j], [1j, 0]])


def rz(angle: float) -> np.ndarray:
    """exp(-i angle Z / 2)."""
    return np.diag([np.exp(-1j * angle / 2), np.exp(1j * angle / 2)])


def cnot(control: int, target: int, count: int) -> np.ndarray:
    return on(control, P0, count) + on(control, P1, count) @ on(target, X, count)


def ring(count: int) -> np.ndarray:
    return reduce(lambda so_far, q: cnot(q, (q + 1) % count, count) @ so_far, range(count), np.eye(2**count))


def final_state(angles: np.ndarray, theta: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """One sample's state, every gate a dense 2^Q x 2^Q matrix."""
    count = len(angles)
    state = kron(*(ry(a) for a in angles)) @ np.eye(2**count)[0]
    for layer in range(len(theta)):
        turned = kron(*(ry(t) @ rz(p) for t, p in zip(theta[layer], phi[layer], strict=True)))
        state = ring(count) @ turned @ state
    return state


@pytest.mark.parametrize(("qubits", "layers"), [(2, 1), (3, 2), (8, 3)])
def test_the_state_is_that_of_the_dense_unitary(qubits: int, layers: int) -> None:
    torch.manual_seed(qubits)
    module = circuit(qubits, layers).double()
    angles = np.random.default_rng(0).uniform(-np.pi, np.pi, (4, qubits))
    with torch.inference_mode():
        state = module.state(torch.from_numpy(angles)).numpy()
        found = module(torch.from_numpy(angles)).numpy()
    theta, phi = (p.detach().numpy() for p in (module.theta, module.phi))
    for row, (angle, (real, imaginary)) in enumerate(zip(angles, state, strict=True)):
        expected = final_state(angle, theta, phi)
        # float64 on both sides: some hundred roundings of 1.1e-16 on amplitudes below 1.
        np.testing.assert_allclose(real + 1j * imaginary, expected, atol=1e-13, rtol=0)
        z = [(expected.conj() @ on(q, Z, qubits) @ expected).real for q in range(qubits)]
        np.testing.assert_allclose(found[row], z, atol=1e-13, rtol=0)


def test_every_state_has_norm_one_and_every_expectation_lies_in_its_range() -> None:
    torch.manual_seed(1)
    module = circuit()
    angles = torch.rand(32, 8) * 20 - 10
    with torch.inference_mode():
        norm = (module.state(angles) ** 2).sum((1, 2))
        # float32: about 60 gates, each within 6e-8 of unitary.
        torch.testing.assert_close(norm, torch.ones(32), atol=1e-5, rtol=0)
        assert module(angles).abs().max() <= 1 + 1e-5


def test_the_ring_entangles_and_is_a_permutation() -> None:
    module = circuit(3, 1)
    assert sorted(module.ring.tolist()) == list(range(8))
    np.testing.assert_array_equal(np.eye(8)[module.ring.numpy()], ring(3))


def test_the_trained_classifier_reads_digits_it_has_not_seen() -> None:
    source = theirs.load(f"{PLACE}:classifier", "factory")()
    images, labels = digits.load("test")
    with torch.inference_mode():
        right = source.graphs["main"].module.eval()(torch.from_numpy(images)).argmax(1).numpy() == labels
    assert right.mean() >= 0.89  # 90.2 % as trained
