"""Hugging Face checkpoints: GPT-2, Llama and Qwen3 in and out.

An adapter serves every other causal language model.
"""
