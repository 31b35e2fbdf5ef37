"""How items are cut into units, and a unit as JSON."""

from pipeline.unit import Input, Unit, slices


def test_slices_hold_every_item_once_in_order_and_are_named_by_what_they_hold():
    parent = Unit("shard", ("shard",), {"shard": Input("x.tar", "d")})
    ids = [f"sa_{n}" for n in range(10)]
    units = list(slices(parent, ids, 4))
    assert [item for unit in units for item in unit.ids] == ids
    assert [len(unit.ids) for unit in units] == [4, 4, 2]
    assert len({unit.name for unit in units}) == 3
    assert all(unit.inputs == parent.inputs for unit in units)
    assert next(slices(parent, ids[:4], 8)).name == units[0].name  # not by where the cut was
    assert list(slices(parent, [], 4)) == []


def test_a_unit_survives_json():
    unit = Unit("a+1-x", ("a",), {"shard": Input("x.tar", "d"), "index": Input("cells/x", "e")})
    assert Unit.from_json(unit.to_json()) == unit
