"""What every loss must keep to: sums over positions, with gradients that push the right way."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lmrs.losses import Charge, Output
from lmrs.negatives import Drawn
from lmrs.testing import tiny
from lmrs.testing.values import check_repr

M, E, V = 7, 5, 13


class LossTests:
    """Subclass, name it Test..., set `part` to the loss."""

    part: ClassVar[Charge]

    def material(self) -> tuple[Tensor, Output, Tensor, Drawn | None]:
        """States, item space, targets and negatives for M positions, fp64, with gradients on."""
        rng = torch.Generator().manual_seed(5)
        states = torch.randn(M, E, dtype=torch.float64, generator=rng).requires_grad_()
        table = torch.randn(V, E, dtype=torch.float64, generator=rng).requires_grad_()
        bias = torch.randn(V, dtype=torch.float64, generator=rng).requires_grad_()
        target = torch.arange(M) % (V - 3)
        negatives = self.part.negatives
        if negatives is None:
            return states, Output(table, bias), target, None
        shape = (negatives.k,) if negatives.shared else (M, negatives.k)
        drawn = torch.randint(V - 3, V, shape, generator=rng)  # none of them is a target
        counts = torch.from_numpy(tiny.split().train.counts()).double() + 1
        log_q = (counts / counts.sum()).log() if type(negatives).__name__ == "ByPopularity" else None
        return states, Output(table, bias), target, Drawn(drawn, log_q, negatives.k, V)

    def some(self, drawn: Drawn | None, which: slice) -> Drawn | None:
        if drawn is None or drawn.items.ndim == 1:
            return drawn
        return Drawn(drawn.items[which], drawn.log_q, drawn.draws, drawn.n_items)

    def test_repr_evaluates_to_an_equal_value(self) -> None:
        check_repr(self.part)

    def test_it_is_a_sum_over_positions(self) -> None:
        states, output, target, drawn = self.material()
        whole = self.part.charge(states, output, target, drawn)
        assert whole.ndim == 0
        assert whole > 0
        each = [
            self.part.charge(states[at : at + 1], output, target[at : at + 1], self.some(drawn, slice(at, at + 1)))
            for at in range(M)
        ]
        assert torch.allclose(torch.stack(each).sum(), whole, rtol=1e-10, atol=0), "the parts do not add up to the whole"

    def test_no_position_costs_nothing(self) -> None:
        states, output, target, drawn = self.material()
        assert float(self.part.charge(states[:0], output, target[:0], self.some(drawn, slice(0, 0))).detach()) == 0

    def test_gradients_agree_with_differences(self) -> None:
        states, output, target, drawn = self.material()
        assert output.bias is not None
        wanted = torch.autograd.grad(self.part.charge(states, output, target, drawn), (states, output.table, output.bias))
        for at, leaf in enumerate((states, output.table, output.bias)):
            step = torch.randn(leaf.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
            values = []
            for sign in (1, -1):
                moved = [states.detach(), output.table.detach(), output.bias.detach()]
                moved[at] = moved[at] + sign * 1e-6 * step
                values.append(float(self.part.charge(moved[0], Output(moved[1], moved[2]), target, drawn)))
            slope, found = (values[0] - values[1]) / 2e-6, float((wanted[at] * step).sum())
            assert abs(slope - found) < 1e-5 * max(1.0, abs(slope)), f"gradient {at}: {found}, by differences {slope}"

    def test_a_better_score_of_the_target_costs_less(self) -> None:
        states, output, target, drawn = self.material()
        assert output.bias is not None
        before = self.part.charge(states, output, target, drawn)
        raised = output.bias.detach().clone()
        raised[target] += 0.1
        assert self.part.charge(states, Output(output.table, raised), target, drawn) < before

    def test_inputs_are_left_alone(self) -> None:
        states, output, target, drawn = self.material()
        before = [states.detach().clone(), output.table.detach().clone(), target.clone()]
        self.part.charge(states, output, target, drawn).backward()
        assert all(torch.equal(a, b) for a, b in zip(before, (states, output.table, target)))
