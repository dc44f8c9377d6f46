"""The figures and claims of DistilQwen3's poster, filled from a run and judged with controls."""
