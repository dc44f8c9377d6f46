"""A table that is embedding and head has one gradient, with the bits of two that are added."""

import pytest
import torch
import torch.nn.functional as F

from flyweight.model.head import rows_and_table


def gradient(index, read_rows, read_table, together):
    """Return the gradient of a table whose rows or product, or both, are read."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(11, 5, generator=generator).requires_grad_()
    states = torch.randn(7, 5, generator=generator)
    factors = torch.randn(*index.shape, 5, generator=generator)
    rows, head = rows_and_table(table, index) if together else (F.embedding(index, table), table)
    total = torch.zeros(())
    if read_rows:
        total = total + (rows * factors).sum()
    if read_table:
        total = total + F.linear(states, head).square().sum()
    total.backward()
    return table.grad


@pytest.mark.parametrize(("rows", "table"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("index", [[[3, 3, 9, 0], [3, 10, 9, 1]], [[4, 4, 4, 4]], [[6]]])
def test_the_one_gradient_is_that_of_two_readers_to_the_bit(index, rows, table):
    index = torch.tensor(index)
    assert torch.equal(
        gradient(index, rows, table, together=True), gradient(index, rows, table, together=False)
    )


def test_what_is_read_is_the_table():
    table = torch.randn(4, 3, requires_grad=True)
    rows, head = rows_and_table(table, torch.tensor([[2, 0]]))
    assert torch.equal(rows, table[[2, 0]][None])
    assert head.data_ptr() == table.data_ptr()
