from flyweight.core.alike import FIRST, first_pieces_alone, pieces


def test_all_pieces_are_done_but_in_a_dry_run():
    assert list(pieces(range(5))) == [0, 1, 2, 3, 4]
    with first_pieces_alone():
        assert list(pieces(range(5))) == [0, 1] and FIRST == 2
        assert list(pieces(range(5), first=1)) == [0]
        assert list(pieces(range(1))) == [0]
    assert len(list(pieces(range(5)))) == 5
