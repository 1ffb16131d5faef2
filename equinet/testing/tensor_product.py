"""The contract of tensor products: what every method keeps, in its roles, on every spec that it supports."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor

from equinet.ops import ManyBodySpec, Method, TensorProductSpec
from equinet.ops.edges import Edges
from equinet.ops.methods.reference import reference_executor
from equinet.ops.methods.roles import executor_of, refusal

from .roles import ConvolutionRole, ManyBodyRole, PairRole, normal, turn

EXACT, FIT = 1e-12, 1e-10  # what rounding may make of an exact method, and of a least-squares fit
FLOAT32, FLOAT32_FLOOR = 1e-5, 1e-7  # the most; and of a form whose twin happens to err by next to nothing
UNIT, ORDER_ONE = 0.1, math.log(8)  # how far a mean square may be from one, or its logarithm from zero


class TensorProductContract:
    """All that models rely on, checked for one method and one spec.

    Values are those that ``path_weights`` says with e3nn's couplings (many-body: those of the reference form, and an equivariant
    polynomial of degree ``correlation``), and so are two derivatives in features, weights and edge vectors; the result turns
    with its inputs; edges may come in pairs; nothing goes wrong without edges or nodes; float32 errs little more than the reference form does; unit inputs
    give unit results (many-body: of order one); moves, copies and saved states lose no digit.

    Weights of a pair product are those of each row in some checks and shared by all in others.

    Numbers are errors relative to the size of the result, each output irrep and each derivative by itself. Where the irreps
    of a convolution's second input allow it, that is harmonics of edge vectors.

    Args:
        method: Method to test. With its field ``backend`` set to ``"reference"`` it is the reference form.
        spec: A convolution, a pair product or a many-body product.
        error: Largest error of an approximate method in float64; by default rounding.
        float32_factor: Largest ratio of a float32 result's error to that of its reference form.

    Raises:
        AssertionError: If a check fails, or ``method`` does not support ``spec``; says what is wrong and by how much.

    >>> from equinet.ops import GauntGrid
    >>> contract = TensorProductContract(GauntGrid(), TensorProductSpec("3x0e+3x1o", "0e+1o", "0e+1o"))
    >>> contract.check()["values"] < 1e-12
    True
    """

    def __init__(
        self,
        method: Method,
        spec: TensorProductSpec | ManyBodySpec,
        *,
        error: float = EXACT,
        float32_factor: float = 2.0,
    ) -> None:
        self.method, self.spec, self.error, self.float32_factor = method, spec, error, float32_factor
        self.measured: dict[str, float] = {}
        reason = refusal(method, spec)
        self._require(reason is None, f"not supported: {reason}")
        self.executor = self._build(method)
        twin: Any = reference_executor(method, spec)
        self.twin = twin.double()
        role: Any = ManyBodyRole if isinstance(spec, ManyBodySpec) else PairRole if spec.pair else ConvolutionRole
        self.role = role(spec, self.executor, self.twin)

    def check(self) -> dict[str, float]:
        """Run every check; returns what was measured."""
        for name in [name for name in dir(self) if name.startswith("check_")]:
            getattr(self, name)()
        return self.measured

    def check_values(self) -> None:
        """Compare values with an independent oracle, with the reference form and, for powers, with the fitted polynomial."""
        for seed in range(2):
            plain, index = self._inputs(seed)
            found = self.role.run(self.executor, plain, index)
            self._compare("values", found, self.role.expected(plain, index))
            self._compare("values of the twin", self.role.run(self.twin, plain, index), found)
        if isinstance(self.role, ManyBodyRole):
            self._compare("polynomial", *self.role.predicted(), max(FIT, self.error))

    def check_first_derivatives(self) -> None:
        """Compare gradients in all inputs and weights with those of the reference form."""
        self._compare_derivatives("first derivative", 1)

    def check_second_derivatives(self) -> None:
        """Compare gradients of gradients, which training on forces needs, with those of the reference form."""
        self._compare_derivatives("second derivative", 2)

    def check_rotations(self) -> None:
        """Compare the result of rotated inputs with the rotated result, for two random rotations."""
        for seed in range(2):
            matrix = torch.linalg.qr(normal(seed)(3, 3))[0]
            self._compare_turned("rotations", matrix * torch.linalg.det(matrix))

    def check_inversion(self) -> None:
        """Compare the result of inverted inputs with the inverted result."""
        self._compare_turned("inversion", -torch.eye(3, dtype=torch.float64))

    def check_shapes(self) -> None:
        """Check shapes, values and finite gradients without edges, for one node and for odd sizes."""
        for sizes in self.role.edge_cases:
            plain, index = self._inputs(0, *sizes)
            found = self.role.run(self.executor, [leaf.requires_grad_() for leaf in plain], index)
            shape = (sizes[0], self.role.slots.dim, self.spec.channels)
            self._require(found.shape == shape, f"the result is {tuple(found.shape)}, not {shape}")
            self._compare("shapes", found, self.role.expected(plain, index))
            gradients = torch.autograd.grad(found.square().sum(), plain, materialize_grads=True)
            self._require(
                all(bool(s.isfinite().all()) for s in gradients), f"a gradient is not finite for sizes {sizes}"
            )

    def check_pairs(self) -> None:
        """Compare the result for edges in pairs, each row an edge and its reverse, with that for the single directions."""
        if not isinstance(self.role, ConvolutionRole):
            return
        (features, second, weight), index = self._inputs(4)
        signs = torch.cat([torch.full((ir.dim,), (-1.0) ** ir.l) for ir in self.role.filters]).double()
        both = [features, torch.cat([second, signs * second]), torch.cat([weight, weight])]
        found = self.role.run(self.executor, [features, second, weight], Edges(index, len(features), mirrored=True))
        self._compare("pairs", found, self.role.expected(both, torch.cat([index, index.flip(0)], dim=1)))

    def check_dtype(self) -> None:
        """Compare errors of float32 with those that the reference form makes in float32."""
        squares = torch.zeros(2, 3)  # of values and gradients: errors of executor and twin, size
        for seed in range(3):
            plain, index = self._inputs(seed, *(10 * size for size in self.role.sizes))
            forms = [(form, dtype) for form in (self.executor, self.twin) for dtype in (torch.float32, torch.float64)]
            results = [self._value_and_gradient(*form, [leaf.float() for leaf in plain], index) for form in forms]
            for n, (low, high, twin_low, twin_high) in enumerate(zip(*results)):
                squares[n] += torch.stack([x.square().sum() for x in (low - high, twin_low - twin_high, high)])
        for name, (off, twin_off, size) in zip(("values", "gradients"), squares.tolist()):
            allowed = min(FLOAT32, self.float32_factor * math.sqrt(twin_off / size) + FLOAT32_FLOOR)
            self._at_most(f"float32 {name}", math.sqrt(off / size), allowed)

    def check_unit_variance(self) -> None:
        """Check that inputs and weights of unit variance give every block of the result a mean square of order one."""
        if many_body := isinstance(self.role, ManyBodyRole):
            (features, weight), index = self._inputs(3, 2000)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                drawn = [self.executor.initial_weight().double() for _ in range(8)]
            self._require(drawn[0].shape == weight.shape, f"initial weights are {tuple(drawn[0].shape)}")
            result = torch.cat([self.role.run(self.executor, [features, each], index) for each in drawn])
        elif isinstance(self.role, PairRole):  # signs have unit variance too, and less spread
            (x, y, weight), index = self._inputs(4, 3000)
            weight = weight.sign() * self.executor.initial_scale.unsqueeze(1)
            result = self.role.run(self.executor, [x.sign(), y.sign(), weight], index)
        else:
            (features, second, weight), _ = self._inputs(3, 3000, 3000)
            index = torch.arange(3000).repeat(2, 1)
            result = self.role.run(self.executor, [features.sign(), second, weight.sign()], index)
        for name, block in self._blocks(result):
            size = block.square().mean().item()
            off, allowed = (abs(math.log(size)), ORDER_ONE) if many_body else (abs(size - 1), UNIT + 2 * self.error)
            self._at_most("unit variance", off, allowed, f"{name} with mean square {size:.2g}")

    def check_moves(self) -> None:
        """Check that a copy, a detour through float32 and a saved state change no value, and that a copy shares no memory."""
        plain, index = self._inputs(0)
        before = self.role.run(self.executor, plain, index)
        copied, moved, restored = copy.deepcopy(self.executor), copy.deepcopy(self.executor), self._build(self.method)
        restored.load_state_dict(self.executor.state_dict())
        modules = {"copy": copied, "detour through float32": moved.float().double(), "saved state": restored}
        for what, module in modules.items():
            self._require(torch.equal(self.role.run(module, plain, index), before), f"a {what} gives another result")
        self._require(str(self.spec) in repr(copied), "`repr` does not say what is computed")
        for tensor in [*copied.parameters(), *copied.buffers()]:
            tensor.data.zero_()
        self._require(torch.equal(self.role.run(self.executor, plain, index), before), "a copy shares memory")

    def _build(self, method: Method) -> Any:
        executor: Any = executor_of(method, self.spec)
        return executor.double()

    def _inputs(self, seed: int, *sizes: int) -> tuple[list[Tensor], Tensor]:
        leaves, index = self.role.inputs(seed, *(sizes or self.role.sizes))
        return self.role.plain(leaves), index

    def _compare_derivatives(self, name: str, order: int) -> None:
        for seed in self.role.seeds:
            leaves, index = self.role.inputs(seed, *self.role.sizes)
            gradients = []
            for run in (lambda *given: self.role.run(self.executor, *given), self.role.expected):
                draw, inputs = normal(9), [leaf.clone().requires_grad_() for leaf in leaves]
                out = run(self.role.plain(inputs), index)
                gradient = torch.autograd.grad(out, inputs, draw(*out.shape), create_graph=True, materialize_grads=True)
                if order == 2:
                    mixed = torch.stack([(part * draw(*part.shape)).sum() for part in gradient]).sum()
                    gradient = torch.autograd.grad(mixed, inputs, materialize_grads=True)
                gradients.append(gradient)
            for leaf, found, expected in zip(self.role.names, *gradients):
                self._compare_one(f"{name}, {leaf}", found, expected, 10 * self.error)

    def _value_and_gradient(self, form: Any, dtype: torch.dtype, rounded: list[Tensor], index: Tensor) -> list[Tensor]:
        inputs = [leaf.to(dtype, copy=True).requires_grad_() for leaf in rounded]
        out = self.role.run(form.to(dtype), inputs, index)
        form.double()
        gradients = torch.autograd.grad(out.sum(), inputs, materialize_grads=True)
        self._require(out.dtype == dtype, f"with inputs in {dtype} the result is {out.dtype}")
        return [out.detach(), torch.cat([gradient.flatten() for gradient in gradients])]

    def _compare_turned(self, name: str, matrix: Tensor) -> None:
        leaves, index = self.role.inputs(0, *self.role.sizes)
        both = map(self.role.plain, (leaves, self.role.turned(leaves, matrix)))
        before, after = (self.role.run(self.executor, plain, index) for plain in both)
        self._compare(name, after, turn(self.role.slots, matrix, before))

    def _blocks(self, result: Tensor) -> list[tuple[str, Tensor]]:
        parts = result.split([ir.dim for _, ir in self.role.slots], dim=1)
        return [(f" ({ir}, slot {n})", part) for n, ((_, ir), part) in enumerate(zip(self.role.slots, parts))]

    def _compare(self, name: str, found: Tensor, expected: Tensor, allowed: float | None = None) -> None:
        for (slot, mine), (_, other) in zip(self._blocks(found), self._blocks(expected)):
            self._compare_one(name, mine, other, allowed or self.error, slot)

    def _compare_one(self, name: str, found: Tensor, expected: Tensor, allowed: float, where: str = "") -> None:
        size = expected.norm().item()
        # What is zero by symmetry, such as the gradient of an isotropic filter, has to be small in itself.
        self._at_most(name, (found - expected).norm().item() / (size if size > 1e-10 else 1.0), allowed, where)

    def _at_most(self, name: str, value: float, allowed: float, where: str = "") -> None:
        self.measured[name] = max(value, self.measured.get(name, 0.0))
        self._require(value <= allowed, f"{name}: off by {value:.1e}, allowed is {allowed:.1e}{where}")

    def _require(self, holds: bool, message: str) -> None:
        if not holds:
            raise AssertionError(f"{self.method} on {self.spec}: {message}")
