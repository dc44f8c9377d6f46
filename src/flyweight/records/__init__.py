"""Measured numbers, and the results of runs and studies as files hold them."""
