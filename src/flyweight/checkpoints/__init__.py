"""Hugging Face checkpoints: GPT-2, Llama and Qwen3 in and out, and an adapter for every other causal language model."""
