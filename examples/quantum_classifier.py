"""A hybrid quantum-classical classifier of handwritten digits, simulated exactly by ordinary tensor operations.

    edgeattn run examples/quantum_classifier.yaml -o runs/quantum
    edgeattn run examples/quantum_classifier.yaml -o runs/quantum.ort --set target=onnxruntime
    python examples/quantum_classifier.py            # train it again, fifteen seconds

    angles      x = π/2 tanh(W p + b)                 p (B, 64): the image averaged to 8x8;  x (B, 8)
    embedding   |ψ⟩ = ⊗_q RY(x_q) |0⟩                8 qubits, 2^8 amplitudes
    layer       |ψ⟩ ← CNOT ring · ⊗_q RY(θ_q) RZ(φ_q) |ψ⟩     two of them, each with its own θ and φ
    readout     z_q = ⟨ψ| Z_q |ψ⟩ in [-1, 1]         logits = 4 V z + c

A state is its real and imaginary parts, (B, 2, 256) float32: nothing complex reaches the graph, so every engine can run
it. Three facts keep it small: a product of RZ is one phase a basis state, RY has a real 2x2 matrix that acts on both
parts alike, and a ring of CNOTs only permutes the basis. Qubit 0 is the most significant bit of a basis state's number.

It reads 90.2 % of the held-out digits. What it is: the expectation values a noiseless quantum computer would give in
the limit of many shots, which eight qubits allow to compute exactly. What it is not: faster or more accurate than a
small classical network.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn

from edgeattn import weights
from edgeattn.models import GraphSource, Source
from edgeattn.program import TensorSpec

QUBITS, LAYERS, CLASSES = 8, 2, 10
CONTRAST = 4.0  # expectation values are small; this spares the head from growing its weights
WEIGHTS = Path(__file__).with_suffix(".safetensors")


class Circuit(nn.Module):
    """Angles (B, Q) to the expectation values of Pauli Z (B, Q)."""

    def __init__(self, qubits: int = QUBITS, layers: int = LAYERS) -> None:
        super().__init__()
        self.qubits = qubits
        self.theta = nn.Parameter(torch.randn(layers, qubits) * 0.3)
        self.phi = nn.Parameter(torch.randn(layers, qubits) * 0.3)
        basis = torch.arange(2**qubits)
        bits = torch.stack([basis >> (qubits - 1 - q) & 1 for q in range(qubits)], 1)
        self.register_buffer("signs", 1.0 - 2.0 * bits, persistent=False)  # (2^Q, Q): the eigenvalues of every Z
        self.register_buffer("ring", cnot_ring(qubits), persistent=False)  # (2^Q,): where each new amplitude comes from

    def forward(self, angles: torch.Tensor) -> torch.Tensor:
        state = self.state(angles)
        return (state**2).sum(1) @ self.signs

    def state(self, angles: torch.Tensor) -> torch.Tensor:
        """The final state (B, 2, 2^Q), real and imaginary part."""
        state = self.embed(angles)
        for theta, phi in zip(self.theta, self.phi, strict=True):
            state = self.rotate_z(state, phi)
            for qubit, angle in enumerate(theta):
                state = self.rotate_y(state, qubit, angle)
            state = state[..., self.ring]
        return state

    def embed(self, angles: torch.Tensor) -> torch.Tensor:
        """RY(x_q) on |0⟩ is cos(x_q/2) |0⟩ + sin(x_q/2) |1⟩; the qubits' product is real."""
        pairs = torch.stack((torch.cos(angles / 2), torch.sin(angles / 2)), 2)  # (B, Q, 2)
        state = pairs[:, 0]
        for qubit in range(1, self.qubits):
            state = (state.unsqueeze(2) * pairs[:, qubit].unsqueeze(1)).flatten(1)
        return torch.stack((state, torch.zeros_like(state)), 1)

    def rotate_z(self, state: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        """RZ(φ_q) on every qubit: basis state k turns by −Σ_q ±φ_q/2."""
        phase = -self.signs @ phi / 2  # (2^Q,)
        cos, sin = torch.cos(phase), torch.sin(phase)
        real, imaginary = state.unbind(1)
        return torch.stack((real * cos - imaginary * sin, real * sin + imaginary * cos), 1)

    def rotate_y(self, state: torch.Tensor, qubit: int, angle: torch.Tensor) -> torch.Tensor:
        """RY(θ) on one qubit: its 2x2 matrix over the axis that this qubit's bit numbers."""
        cos, sin = torch.cos(angle / 2), torch.sin(angle / 2)
        gate = torch.stack((torch.stack((cos, -sin)), torch.stack((sin, cos))))
        return (gate @ state.unflatten(2, (2**qubit, 2, -1))).flatten(2)


def cnot_ring(qubits: int) -> torch.Tensor:
    """CNOTs 0→1, 1→2, …, Q−1→0 one after the other, as one permutation of the basis states."""
    come_from = torch.arange(2**qubits)
    for control in range(qubits):
        target = (control + 1) % qubits
        basis = torch.arange(2**qubits)
        flips = (basis >> (qubits - 1 - control) & 1) << (qubits - 1 - target)
        come_from = come_from[basis ^ flips]  # a CNOT is its own inverse
    return come_from


class Classifier(nn.Module):
    """Images (B, 1, 32, 32) to logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.angles = nn.AvgPool2d(4), nn.Linear(64, QUBITS)
        self.circuit, self.head = Circuit(), nn.Linear(QUBITS, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = math.pi / 2 * torch.tanh(self.angles(self.pool(image).flatten(1)))
        return self.head(CONTRAST * self.circuit(x))


def classifier() -> Source:
    """What edgeattn calls: the trained module, with the output name that the task `digits` scores."""
    module = Classifier()
    weights.load(module, WEIGHTS)
    image = TensorSpec("image", "float32", ("batch", 1, 32, 32))
    return Source({"main": GraphSource(module, (image,), ("logits",))})


def train(epochs: int = 30, seed: int = 1) -> Classifier:
    """Fit the training digits: Adam and a cosine schedule, the last weights kept; the test digits are not looked at."""
    from edgeattn.tasks import digits

    torch.manual_seed(seed)
    images, labels = (torch.from_numpy(a) for a in digits.load("train"))
    module = Classifier()
    steps = epochs * -(-len(labels) // 64)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(64):
            loss = nn.functional.cross_entropy(module(images[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return module.eval()


def main() -> None:
    from edgeattn.tasks import digits

    module = train()
    images, labels = (torch.from_numpy(a) for a in digits.load("test"))
    with torch.inference_mode():
        accuracy = (module(images).argmax(1) == labels).float().mean().item()
    weights.write(WEIGHTS, module.state_dict(), {"task": "digits", "accuracy": f"{accuracy:.4f}"})
    print(f"{WEIGHTS}: {accuracy:.1%} of {len(labels)} held-out digits")


if __name__ == "__main__":
    main()
