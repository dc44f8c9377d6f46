import pytest
from hypothesis import given, strategies as st

from flyweight.config import units


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("6GB", 6_000_000_000),
        ("6GiB", 6 * 2**30),
        ("16MB", 16_000_000),
        ("1.5 kB", 1500),
        ("7B", 7),
    ],
)
def test_sizes(text, value):
    assert units.parse_size(text) == value


@pytest.mark.parametrize(
    "value", [6, 6.5, "6", "6XB", "GB", "", "-1GB", None, True, "nanGB", "1e999GB", "1e7TB"]
)
def test_a_size_needs_a_number_and_a_unit(value):
    with pytest.raises(ValueError, match="size"):
        units.parse_size(value)


@pytest.mark.parametrize(
    ("text", "meant"),
    [("6gb", "6GB"), ("6 G", "6GB"), ("6Gb", "6GB"), ("1.5m", "1.5MB"), ("6gib", "6GiB")],
)
def test_a_unit_that_is_nearly_one_is_named(text, meant):
    with pytest.raises(ValueError, match=rf"did you mean {meant}\?\); write it like 6GB"):
        units.parse_size(text)
    with pytest.raises(ValueError, match=r"did you mean 10min\?"):
        units.parse_time("10mins")


@pytest.mark.parametrize(
    ("size", "word"),
    [(1_234_567, "1.24MB"), (1.23e6, "1.23MB"), (140_400_000, "141MB"), (999, "999B"), (1, "1B")],
)
def test_a_size_as_a_word_is_not_below_it(size, word):
    assert units.size_word(size) == word
    assert size <= units.parse_size(word) < 1.01 * size + 1


@pytest.mark.parametrize(
    ("text", "value"), [("30s", 30), ("10min", 600), ("2h", 7200), ("1.5min", 90), ("250ms", 0.25)]
)
def test_times(text, value):
    assert units.parse_time(text) == value


@pytest.mark.parametrize("value", [10, "10", "10 parsecs", "", None])
def test_a_time_needs_a_unit(value):
    with pytest.raises(ValueError, match="time"):
        units.parse_time(value)


@pytest.mark.parametrize(
    ("value", "count"),
    [("50M", 50_000_000), ("1.5e15", 1_500_000_000_000_000), (12, 12), ("3k", 3000)],
)
def test_counts(value, count):
    assert units.parse_count(value) == count


@pytest.mark.parametrize("value", [-1, 1.5, "0.5", "many", True, float("inf"), "1e999", [1]])
def test_a_count_is_whole_and_not_negative(value):
    with pytest.raises(ValueError, match=r"count|large"):
        units.parse_count(value)


@given(st.floats(min_value=1, max_value=1e14))
def test_what_is_shown_as_a_size_reads_back_within_its_digits(size):
    assert units.parse_size(units.format_size(size).replace(" ", "")) == pytest.approx(
        size, rel=6e-3, abs=1
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.004, "4 ms"), (5.25, "5.25 s"), (60, "1 min"), (83, "1 min 23 s"), (7260, "2 h 1 min")],
)
def test_times_as_people_read_them(seconds, text):
    assert units.format_time(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(9.87, "9.87 s"), (131.4, "131 s"), (2100, "35 min"), (7560, "2.1 h")]
)
def test_short_times_have_one_unit(seconds, text):
    assert units.format_short_time(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.85512, "1.8551"),
        (12_345.6, "12,346"),
        (1_234_567.0, "1.23 M"),
        (0.0, "0"),
        (3e-7, "3e-7"),
    ],
)
def test_numbers_have_five_digits_and_suffixes_for_large_ones(value, text):
    assert units.format_number(value) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (343.885, "344"),
        (65, "65"),
        (0.5, "0.5"),
        (999.7, "1 k"),
        (999_999, "1 M"),
        (9.999e11, "1 T"),
        (1234, "1.23 k"),
        (1.46e12, "1.46 T"),
        (3.2e15, "3.2 P"),
        (3.14e23, "3.14e23"),
    ],
)
def test_counts_have_three_digits_as_people_read_them(count, text):
    assert units.format_count(count) == text


@pytest.mark.parametrize("count", [4_100, 720e9, 1.46e12, 3.2e15, 7e18])
def test_what_is_shown_as_a_count_reads_back(count):
    assert units.parse_count(units.format_count(count).replace(" ", "")) == count


@pytest.mark.parametrize(("rate", "text"), [(1174.3, "1,174"), (99.96, "100"), (7.25, "7.25")])
def test_rates_are_written_in_full(rate, text):
    assert units.format_rate(rate) == text


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (units.format_bits, 1.8551, "1.855"),
        (units.format_bits, float("inf"), "infinite"),
        (units.format_perplexity, 4.698, "4.70"),
        (units.format_perplexity, 193.58, "194"),
        (units.format_perplexity, 12_345.6, "12,346"),
        (units.format_perplexity, 3.6374e6, "3.64 M"),
        (units.format_flops, 3.51e8, "351 MFLOPs"),
        (units.format_flops, 344, "344 FLOPs"),
        (units.format_short, 24.797, "24.8"),
        (units.format_short, 3e-4, "0.0003"),
        (units.format_short, 1.05e-6, "1.05e-6"),
        (units.format_signed, -0.0125, "\N{MINUS SIGN}0.013"),
        (units.format_percent, 0.0912, "9.1 %"),
        (units.format_times, 3.44, "3.4 times"),
        (units.format_p, 0.00112, "p = 0.0011"),
        (units.format_p, 1e-30, "p < 1e-12"),
    ],
)
def test_every_place_writes_a_number_alike(write, value, text):
    assert write(value) == text


@pytest.mark.parametrize(
    ("low", "high", "decimals"), [(-0.5, 0.2, 3), (0.0001, 0.004, 4), (1e-7, 2e-7, 8), (0, 0, 3)]
)
def test_a_difference_has_two_figures(low, high, decimals):
    assert units.decimals_of_difference(low, high) == decimals


@pytest.mark.parametrize(
    ("count", "word"),
    [(7, "7"), (999.2, "1000"), (1000, "1e3"), (1_234_567, "1.24e6"), (1.72e9, "1.72e9")],
)
def test_a_count_is_written_as_the_nearest_limit_that_fits(count, word):
    assert units.count_word(count) == word
    assert float(word) >= count
